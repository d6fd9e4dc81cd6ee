"""What every engine accepts, returns and can do."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from nextn.engines.batches import BatchTimer

_WAIT_POLICY = "OMP_WAIT_POLICY"  # OpenMP's


@dataclass(frozen=True)
class Launch:
    """How to start an engine on one model."""

    model: Path  # the model file, or the first shard of a set
    sidecar: Path | None = None  # the file with the MTP block beside a trunk-only model; used only when `n_max` > 0
    n_max: int = 0  # maximum number of tokens drafted at a time; 0 turns MTP off
    n_ctx: int = 1024  # context size in tokens, per slot
    threads: int | None = None  # CPU threads; None leaves the choice to the engine
    # Appended last. llama-server: its own options. xllamacpp: `NAME=VALUE` attributes of CommonParams.
    extra_args: tuple[str, ...] = ()
    # Where the engine's log goes, always kept; None: a temporary file, kept only when something fails.
    log: Path | None = None
    p_min: float = 0.0  # minimum draft probability at which drafting continues
    start_timeout_s: float = 1800.0  # seconds the engine has to load the model
    # Seconds in which a loading engine may print nothing, compute nothing and read nothing.
    silence_timeout_s: float = 300.0
    answer_timeout_s: float = 1800.0  # seconds the engine has per answer
    slots: int = 1  # answers generated at the same time, each with its own context
    timed: bool = False
    """Whether its speed is what counts: then its threads spin while they wait for each other, as the engine means
    them to; else they sleep (see `waiting`)."""

    def waiting(self) -> dict[str, str]:
        """Variables that make the engine's threads sleep while they wait; none if timed or already set by the user.

        Spinning threads suffer on a busy machine: with one of 2 CPUs taken, an answer took up to 40 times as
        long as the median, and judging one model took 151 s instead of 15 s. Sleeping costs speed where the machine is
        idle: with 2 threads on 2 CPUs (xllamacpp, build 11549) a model of 160 M parameters in q8_0 decoded at 0.61
        times the speed (quartiles 0.57 and 0.65), the tiny one at 0.53, drafting at 0.55; with 1 thread at 1.00; 12
        interleaved pairs each. So judging runs sleep, and runs timed for users spin as their own engine will.
        """
        return {} if self.timed or _WAIT_POLICY in os.environ else {_WAIT_POLICY: "passive"}


@dataclass(frozen=True)
class Completion:
    """One answer."""

    tokens: list[int]  # the generated token ids, including an end-of-text token
    text: str  # the generated text, as the engine decoded it
    decode_tps: float  # generated tokens per second, after the first; 0 where the engine reported none
    prompt_tps: float  # prompt tokens per second; 0 where the engine reported none
    draft_n: int  # tokens drafted
    draft_n_accepted: int  # drafted tokens that were accepted
    draft_steps: int  # verification steps: the denominator of `acceptance_per_pos`
    # Share of steps in which the 1st, 2nd, ... drafted token was accepted; None: not known.
    acceptance_per_pos: list[float] | None
    top: list[list[tuple[int, float]]]
    """Per generated token the most likely (token id, natural log of its probability), best first.

    Empty unless `n_probs` was asked for; engines leave the list of a drafted token empty.
    """
    # Whether it stopped at `n_predict`; ik_llama.cpp then drops up to n_max tokens of the last draft.
    at_limit: bool = False


@dataclass(frozen=True)
class MemoryUse:
    """What an engine reports having allocated on one device, in MiB."""

    device: str  # the engine's name for the device; "Host" is main memory
    model_mib: float  # weights, including a sidecar's; mapped ones need not be resident
    context_mib: float  # the kv_cache, recurrent state and outputs of all contexts
    compute_mib: float  # compute buffers


class Running(Protocol):
    """A started engine, and a context manager that stops it."""

    @property
    def log(self) -> Path:
        """The log file, written when requested; deleted by a clean stop unless `Launch.log` named it."""

    @property
    def memory(self) -> list[MemoryUse]:
        """What the engine allocated, per device; empty where its log does not say."""

    @property
    def session(self) -> int:
        """The id of the session that holds the engine's processes and nothing else."""

    @property
    def alive(self) -> bool:
        """Whether the engine is still running."""

    def tokenize(self, text: str) -> list[int]:
        """The engine's token ids for a prompt. Raises EngineFailed."""

    def complete(
        self,
        prompt: str | Sequence[int],
        n_predict: int,
        *,
        n_probs: int = 0,
        seed: int = 0,
        temperature: float = 0.0,
        cache_prompt: bool = False,
    ) -> Completion:
        """Continue `prompt` (text, or token ids) by up to `n_predict` tokens.

        Raises EngineFailed when the engine dies, hangs or returns nonsense.
        """

    def stop(self) -> None:
        """End the engine and everything it started; harmless if it has already ended."""

    def __enter__(self) -> Running: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


class Engine(Protocol):
    """An engine that is installed here. Every class also has `find()`, which raises EngineMissing."""

    @property
    def name(self) -> str:
        """Short name for messages and reports."""

    @property
    def version(self) -> str:
        """The engine's own version string."""

    def start(self, launch: Launch) -> Running:
        """Load the model and return once it answers.

        Raises EngineRefused (quoting its decisive line) when it exits before that, EngineFailed when it hangs or is
        killed by a signal, EngineMissing when the engine itself cannot be run.
        """

    def batches(self, launch: Launch) -> BatchTimer:
        """Load the model without MTP, to time batches of tokens. Raises as `start` does."""


def refuse_parts(launch: Launch) -> None:
    """Raise StorageError for a partially fetched file: an engine would take its holes for zeros."""
    from ..partial import refuse_partial

    for path in filter(None, (launch.model, launch.sidecar)):
        refuse_partial(path)
