"""Imported by every Python that tests start, as long as this folder stands on PYTHONPATH."""

import engine_watch

engine_watch.install()
