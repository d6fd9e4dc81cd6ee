"""ggml's own quantizers, of llama.cpp and of ik_llama.cpp."""
