"""nextn: multi-token prediction (MTP) for the GGUF models you already have."""

__version__ = "0.1.0"
