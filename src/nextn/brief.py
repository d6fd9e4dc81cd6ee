"""Short representations of objects that hold large ones: a model's header, a plan's bytes, a thousand runs."""

from __future__ import annotations

import reprlib
from collections.abc import Iterable

LONGEST = 1500  # characters

_CUT = reprlib.Repr()
_CUT.maxtuple = _CUT.maxlist = _CUT.maxdict = 3
_CUT.maxstring = _CUT.maxother = 120


def brief(value: object, names: Iterable[str]) -> str:
    """`Class(name=..., ...)` with every attribute cut short, and the result too."""
    shown = ", ".join(f"{name}={_CUT.repr(getattr(value, name))}" for name in names)
    return f"{type(value).__name__}({shown if len(shown) < LONGEST else shown[:LONGEST] + '...'})"


class Brief:
    """Base of dataclasses whose `repr` is short."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        if "__repr__" not in cls.__dict__:  # otherwise a dataclass would generate its own
            setattr(cls, "__repr__", Brief.__repr__)  # noqa: B010 - of the class being created

    def __repr__(self) -> str:
        known = getattr(self, "__dataclass_fields__", {})
        return brief(self, (name for name, field in known.items() if field.repr))
