"""Which files belong together: sidecars of a model, and llama.cpp's rules for their names."""
