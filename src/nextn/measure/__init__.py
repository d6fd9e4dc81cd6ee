"""Judging: files against files, files on engines."""
