"""ggml's own quantizers, from llama.cpp and from ik_llama.cpp."""
