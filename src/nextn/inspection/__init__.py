"""What a model or a checkpoint is, by headers."""
