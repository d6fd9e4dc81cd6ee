"""Checks and measurements: files against files, and files on engines."""
