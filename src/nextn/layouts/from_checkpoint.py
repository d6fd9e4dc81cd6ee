"""A runnable sidecar straight from a checkpoint: header and tokenizer come from config.json and tokenizer.json."""
