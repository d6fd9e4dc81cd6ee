"""What is published beside a model's files, and the choosing of files from a repository's listing."""
