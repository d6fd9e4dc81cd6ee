"""What a model or a checkpoint is, as its headers show."""
