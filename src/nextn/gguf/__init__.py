"""The GGUF container: header bytes <-> objects, shard sets, padding. Knows nothing of models."""
