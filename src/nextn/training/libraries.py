"""How to add libraries that only training needs."""

from __future__ import annotations

from ..units import them


def installing(*names: str) -> str:
    """The end of a sentence that says what to run, whichever way nextn was installed."""
    listed = " ".join(names)
    return f"add {them(len(names))} with 'pipx inject nextn {listed}' (in a virtual environment: pip install {listed})"
