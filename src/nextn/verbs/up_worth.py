"""The brief measurement of `nextn up`: whether drafting can be faster on this machine, where that takes seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from ..errors import NextnError
from ..gguf.files import Model
from ..measure.batch_curve import is_quiet
from ..progress import Say
from ..shell import shell
from .worth import worth

if TYPE_CHECKING:
    from ..engines import Engine

PATIENCE_S = 3.0


@dataclass(frozen=True)
class BriefWorth:
    """What came of it."""

    state: Literal["done", "skipped"]
    what: str  # one sentence
    word: str | None = None  # "can_pay" or "cannot_pay"; None: no answer


def brief_worth(trunk: Model, judge: Engine, say: Say) -> BriefWorth:
    """Measure it unless the machine is busy. An engine that cannot is no error: the rest of `up` does not need it."""
    later = f"later: {shell('nextn', 'worth', trunk.entry)}"
    if not is_quiet():
        return BriefWorth("skipped", f"whether drafting can be faster cannot be measured on a busy machine; {later}")
    try:
        found = worth(trunk.entry, engine=judge, patience_s=PATIENCE_S, time_draft=False, brief=True, say=say)
    except NextnError as error:
        return BriefWorth("skipped", f"whether drafting can be faster could not be measured: {str(error).rstrip('.')}")
    if found.first is None:
        return BriefWorth("skipped", f"{found.sentence}; {later}")
    return BriefWorth("done", f"drafting on this machine {found.sentence}", found.word)
