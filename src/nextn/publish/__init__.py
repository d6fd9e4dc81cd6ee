"""What is published beside a model's files, and how files are chosen from a repository's listing."""
