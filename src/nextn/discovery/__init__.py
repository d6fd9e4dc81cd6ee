"""Which files belong together: sidecars and donors of a model, and llama.cpp's rules for their names."""
