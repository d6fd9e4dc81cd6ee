"""`python -m nextn`."""

from .cli import entry_point

entry_point()
