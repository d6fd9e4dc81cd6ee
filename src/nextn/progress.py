"""How callers follow long work: bytes done, steps begun, and the logger "nextn"."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TypeAlias

Progress: TypeAlias = Callable[[int, int], None]  # called with (bytes done, total bytes) during a transfer
# Called with a few words when a step begins, or when a choice was made that the caller should know of.
Say: TypeAlias = Callable[[str], None]

LOGGER = logging.getLogger("nextn")


def heard(say: Say | None) -> Say:
    """Where steps are reported: to `say`, else to the logger "nextn" at level INFO."""
    return say if say is not None else LOGGER.info
