"""What a fit is asked for, and what it returns."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

EAGLE3, NATIVE = "eagle3", "native"


@dataclass(frozen=True)
class FitOptions:
    """How to fit; at least one of `seconds` and `steps` ends it."""

    kind: str = EAGLE3  # or NATIVE
    start: Path | None = None  # a draft or block to continue from (GGUF; blocks also as checkpoints); None: random
    n_drafted: int = 3  # drafted steps that training rolls out
    first_only: float = 0.5  # share of a fit from nothing in which it rolls out the first step alone, which is faster
    draft_vocab: int = 12_288  # most tokens of a reduced vocabulary (EAGLE-3), or that the loss looks at (native)
    seconds: float | None = None  # wall time of training, evaluation included
    steps: int | None = None
    seed: int = 0
    batch: int = 2048  # tokens per optimizer step
    max_length: int = 512  # tokens; longer texts are cut, at a random place each time
    threads: int | None = None  # None: torch's choice
    learning_rate: float | None = None  # peak; None: the kind's own
    decay: float = 0.05  # AdamW's weight decay of matrices
    step_weight: float = 0.8  # weight of each drafted step's loss relative to the step before it
    argmax_weight: float = 0.5  # share of the target that is the trunk's likeliest token; the rest is its distribution
    checks: int = 20  # points of the held-out curve
    check_tokens: int = 20_000  # tokens of held-out text read for each point
    keep: int = 3  # best candidates that are kept, beside the last
    exact: bool = False  # compute in float32: bit-equal on repetition
    embd_type: str = "q4_0"  # type of a sidecar's embeddings and head (native)
    type: str = "q8_0"  # type of the matrices
    device: str | None = None  # torch's name; None: CUDA or MPS if there, else CPU

    @property
    def is_new_eagle3(self) -> bool:
        """Whether it is an EAGLE-3 draft from nothing."""
        return self.kind == EAGLE3 and self.start is None


@dataclass(frozen=True)
class HeldOutPoint:
    """One look at the held-out text."""

    step: int
    n_tokens: int  # tokens trained on so far, repetitions included
    seconds: float  # of training so far
    loss: float  # held-out, nats per token, mean over drafted steps
    agreement: tuple[float, ...]  # share of places where the first 1, 2, ... drafted tokens all are the trunk's
    accepted_per_step: float  # tokens accepted per draft of `n_drafted`, walking as an engine does


@dataclass(frozen=True)
class FitStep:
    """Progress."""

    step: int
    n_steps: int | None
    seconds: float
    seconds_limit: float | None
    loss: float  # of training, running mean
    point: HeldOutPoint | None  # a new one


@dataclass(frozen=True)
class FitResult:
    """A finished fit."""

    candidates: tuple[Path, ...]  # best first by held-out text, the last one included
    curve: tuple[HeldOutPoint, ...]
    n_steps: int
    n_tokens: int
    seconds: float
    n_draft_vocab: int | None  # tokens of the reduced vocabulary; None: all
    coverage: float  # share of the trunk's likeliest tokens in training text that the vocabulary has


Progress = Callable[[FitStep], object]


def fit(trunk: Path, states: Path, out: Path, options: FitOptions, progress: Progress | None = None) -> FitResult:
    """Train a draft for `trunk` on the texts and states in the folder `states`; candidates and curve go to `out`.

    An interrupted fit with the same options resumes where it last saved. Raises TrainingMissing without torch,
    UsageError for options or states that do not fit the trunk, UnsupportedModel for a family whose block is not
    modelled here, and what reading and writing raise.
    """
    from .loop import run_fit

    return run_fit(trunk, states, out, options, progress)
