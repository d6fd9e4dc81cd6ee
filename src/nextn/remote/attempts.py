"""Why an attempt to reach a server ended, and how long the first one may take."""

from __future__ import annotations

import os

from huggingface_hub import constants

CONTACT_S = 1.5  # a lost packet is sent again after 1 s; a person who has no network should not wait longer


def contact_limit() -> float:
    """Seconds for the first connection: CONTACT_S, or HF_HUB_ETAG_TIMEOUT where the user has set it."""
    return float(constants.HF_HUB_ETAG_TIMEOUT) if os.environ.get("HF_HUB_ETAG_TIMEOUT") else CONTACT_S


class NoContact(Exception):
    """No server could be reached, and none was reached before."""

    def __init__(self, where: str, error: Exception | None, waited_s: float) -> None:
        super().__init__(where)
        self.where, self.error, self.waited_s = where, error, waited_s


class Again(Exception):
    """Worth another attempt, after `wait_s` if the server asks for it."""

    def __init__(self, reason: str, wait_s: float | None = None) -> None:
        super().__init__(reason)
        self.wait_s = wait_s


class Stopped(Exception):
    """Another stream failed."""
