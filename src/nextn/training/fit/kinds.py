"""Each kind of draft: made for a trunk, and written as a GGUF."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ...errors import UsageError
from ...gguf.files import Model
from .drafter import Drafter
from .eagle3 import Eagle3
from .make import eagle3
from .make_native import native, write_native
from .native import NativeBlock
from .options import EAGLE3, NATIVE, FitOptions
from .texts import Texts
from .write import write_eagle3


@dataclass(frozen=True)
class FittedKind:
    """A draft to train, and how to write it."""

    drafter: Drafter
    coverage: float  # share of labels that its vocabulary has
    write: Callable[[Path], Path]  # the draft as it is now, as a GGUF of this name


def make(trunk: Model, texts: Texts, options: FitOptions, target: NDArray[np.int64] | None) -> FittedKind:
    """A draft of the kind that `options` name. Raises UsageError, and what making it raises."""
    if options.kind == EAGLE3:
        made = eagle3(trunk, texts, options, target)
        drafter, taps = made.drafter, list(texts.manifest.taps or [])
        assert isinstance(drafter, Eagle3)
        return FittedKind(drafter, made.coverage, lambda out: write_eagle3(drafter, trunk, taps, out, options.type))
    if options.kind == NATIVE:
        made, block = native(trunk, texts, options, target)
        own = made.drafter
        assert isinstance(own, NativeBlock)
        return FittedKind(own, made.coverage, lambda out: write_native(own, block, trunk, out, options))
    raise UsageError(f"'{options.kind}' is not a kind of draft to train; choose {EAGLE3} or {NATIVE}.")
