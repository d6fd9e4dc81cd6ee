"""Where bytes are: ranges of local files, checkpoints, GGUF donors. Read-only."""
