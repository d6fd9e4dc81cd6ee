"""About how long a step takes, before it is done: from bytes and round figures, which docs/scan-and-up.md names.

They say whether it is seconds or an hour, and no more: no network and no engine is asked.
"""

from __future__ import annotations

NETWORK_BPS = 10e6  # bytes per second from a server
DISK_BPS = 500e6  # read or written
LOAD_BPS = 1e9  # of a model that an engine loads
TOKEN_BPS = 10e9  # weights that pass for each generated token
LOADS_OF_VERIFY = 5  # without MTP, with n_max 1 to 3, and the control

BRIEF_WORTH_S = 20.0  # a measurement of worth that takes longer is left to the user
_TOKENS_OF_WORTH = 150  # four passes over all sizes of batches, which cost about half of what their tokens cost alone


def moving(fetch: int, read: int, write: int) -> float:
    """Seconds to download and copy."""
    return fetch / NETWORK_BPS + (read + write) / DISK_BPS


def verifying(model_bytes: int, n_tokens: int) -> float:
    """Seconds for `n_tokens` in each of verify's runs."""
    return LOADS_OF_VERIFY * (model_bytes / LOAD_BPS + n_tokens * model_bytes / TOKEN_BPS)


def measuring(model_bytes: int) -> float:
    """Seconds of a brief worth."""
    return model_bytes / LOAD_BPS + _TOKENS_OF_WORTH * model_bytes / TOKEN_BPS


def loading(model_bytes: int) -> float:
    """Seconds until a server answers."""
    return model_bytes / LOAD_BPS
