"""Every error a user can cause, and every exit code.

    NextnError                 1   base; never raised itself
    ├── UsageError             2   the arguments are not valid
    ├── FormatError           10   a file is damaged, or is not what it should be
    │   └── UnsupportedFormat 11   a known format that is not supported
    ├── IncompleteModel       12   a shard is missing, or shards of two models are mixed
    ├── DonorMismatch         13   the donor's block does not fit the trunk
    ├── BlockPresent          14   the trunk already has a block
    ├── NoBlock               15   there is no MTP block
    ├── UnsupportedModel      16   no engine drafts with this architecture, or nextn does not know it
    ├── QuantizeError         17   a tensor type cannot be written or read
    ├── OutputExists          20   an output already exists
    ├── NoSpace               21   the file system has no room for the output
    ├── StorageError          22   the operating system refused to read or write
    ├── RemoteError           23   a server refused, or its answer was invalid
    │   └── NoConnection      23   a server refused, or its answer was invalid
    ├── InPlaceRefused        24   the file cannot, or must not, be changed in place
    ├── ChangeUnfinished      25   a change in place was interrupted
    ├── EngineMissing         30   there is no engine
    ├── EngineRefused         31   the engine did not load the model
    │   └── EngineFailed      32   the engine died, hung or answered nonsense
    └── TrainingMissing       33   a library that training needs is not installed

`EXIT_CODES` is the one table of them, which 'nextn --help' and docs/python-api.md show.
"""

from __future__ import annotations

from pathlib import Path

EXIT_FAILED = 3
EXIT_CANNOT_TELL = 4
EXIT_PROBLEMS = 5
EXIT_BUG = 70
EXIT_INTERRUPTED = 130

EXIT_CODES = {
    0: "done; verify, demo: passed",
    2: "the arguments are not valid",
    EXIT_FAILED: "verify, demo, up: failed",
    EXIT_CANNOT_TELL: "verify, demo, up, worth, bench, tune: cannot tell; train: not better",
    EXIT_PROBLEMS: "inspect, doctor: problems found",
    10: "a file is damaged, or is not what it should be",
    11: "a known format that is not supported",
    12: "a shard is missing, or shards of two models are mixed",
    13: "the donor's block does not fit the trunk",
    14: "the trunk already has a block",
    15: "there is no MTP block",
    16: "no engine drafts with this architecture, or nextn does not know it",
    17: "a tensor type cannot be written or read",
    20: "an output already exists",
    21: "the file system has no room for the output",
    22: "the operating system refused to read or write",
    23: "a server refused, or its answer was invalid",
    24: "the file cannot, or must not, be changed in place",
    25: "a change in place was interrupted",
    30: "there is no engine",
    31: "the engine did not load the model",
    32: "the engine died, hung or answered nonsense",
    33: "a library that training needs is not installed",
    EXIT_BUG: "a bug in nextn",
    EXIT_INTERRUPTED: "interrupted",
}
"""Exit code -> what it means. `nextn serve` passes on the server's own."""


class NextnError(Exception):
    """Base of all errors: `str(error)` is one sentence that says what, where and what to do."""

    exit_code = 1


class UsageError(NextnError):
    """The call makes no sense."""

    exit_code = 2


class FormatError(NextnError):
    """A file is not what it says it is.

    `path`, `offset` (absolute byte offset, or None), `expected` and `found` are kept as attributes; `where` is what
    the sentence calls the path (the address, for a file on a server).
    """

    exit_code = 10

    def __init__(
        self,
        what: str,
        *,
        path: Path | str | None = None,
        offset: int | None = None,
        expected: str | None = None,
        found: str | None = None,
    ) -> None:
        self.what = what
        self.path = None if path is None else Path(path)
        self.where = None if path is None else str(path)
        self.offset = offset
        self.expected = expected
        self.found = found
        super().__init__(what)

    def __str__(self) -> str:
        where = [] if self.where is None else [self.where]
        if self.offset is not None:
            where.append(f"byte {self.offset:,}")
        text = f"{', '.join(where)}: {self.what}" if where else self.what
        if self.expected is not None and self.found is not None:
            text += f" (expected {self.expected}, found {self.found})"
        return text


class UnsupportedFormat(FormatError):
    """A form that is known by name and not handled."""

    exit_code = 11


class IncompleteModel(NextnError):
    """A shard is missing, or the set is mixed from two models."""

    exit_code = 12


class DonorMismatch(NextnError):
    """The donor's block does not fit the trunk."""

    exit_code = 13


class BlockPresent(NextnError):
    """The trunk already has a block."""

    exit_code = 14


class NoBlock(NextnError):
    """There is no MTP block where one is needed."""

    exit_code = 15


class UnsupportedModel(NextnError):
    """No engine drafts with this architecture, or nextn does not know it."""

    exit_code = 16


class QuantizeError(NextnError):
    """A tensor type cannot be written or read."""

    exit_code = 17


class OutputExists(NextnError):
    """An output already exists; nextn never overwrites."""

    exit_code = 20


class NoSpace(NextnError):
    """The file system has no room for the output."""

    exit_code = 21


class StorageError(NextnError):
    """The operating system refused a read or a write."""

    exit_code = 22


class RemoteError(NextnError):
    """A server refused, or its answer was invalid."""

    exit_code = 23


class NoConnection(RemoteError):
    """No server could be reached, or HF_HUB_OFFLINE forbids to ask one."""


class InPlaceRefused(NextnError):
    """The file cannot be changed in place (no room for the header), or must not be (in use, shared, in a cache)."""

    exit_code = 24


class ChangeUnfinished(NextnError):
    """A change in place was interrupted, and its journal still lies beside the file."""

    exit_code = 25


class EngineMissing(NextnError):
    """No engine to judge with."""

    exit_code = 30


class EngineRefused(NextnError):
    """The engine did not load the model.

    `line` is the engine's own decisive line, `log` the kept log file.
    """

    exit_code = 31

    def __init__(self, message: str, *, line: str = "", log: Path | None = None) -> None:
        super().__init__(message)
        self.line = line
        self.log = log


class EngineFailed(EngineRefused):
    """The engine died of a signal, at whatever moment, or hung or answered nonsense: no word about the model.

    `signal` is the number of the signal that ended it, None when it was none.
    """

    exit_code = 32

    def __init__(self, message: str, *, line: str = "", log: Path | None = None, signal: int | None = None) -> None:
        super().__init__(message, line=line, log=log)
        self.signal = signal


class TrainingMissing(NextnError):
    """A library that training needs (torch, safetensors, pyarrow) is not installed."""

    exit_code = 33
