"""The work folder: states, fit, candidates, and how much of the budget each stage has taken, so that runs resume.

`train.json` in it: version, kind ("train-work"), the trunk's name and the sha256 of its header, the kind of draft, the
seed, and seconds spent by stage. It is replaced while a stage runs, so that a killed run's time counts too.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import msgspec

from ..errors import FormatError, OutputExists, StorageError, UsageError
from ..gguf.files import Model, os_error
from ..layouts.places import header_sha256, model_name
from ..schemas.train import StageSeconds
from ..workfile import Folder, NotOurs
from ..writing.execute import check_place
from .kind import DraftName

Stage = Literal["states", "fit", "judge"]
STAGES: tuple[Stage, ...] = ("states", "fit", "judge")
SHARES = {"states": 0.4, "fit": 0.5, "judge": 0.1}  # of the budget
NOTE = "train.json"
LEAST_JUDGE_S = 30.0
_MOST_NOTE = 1 << 20
_NOTE_EVERY_S = 5.0


class WorkNote(msgspec.Struct):
    """What train.json holds."""

    version: Literal[1]
    kind: Literal["train-work"]
    trunk: str
    trunk_sha256: str
    draft: DraftName
    seed: int
    start: str | None  # what it starts from, by name
    spent: StageSeconds
    written: str | None = None  # the draft that an earlier run wrote, by name


class Work:
    """One work folder. In a dry run nothing is made or changed."""

    def __init__(
        self, folder: Path, trunk: Model, kind: DraftName, seed: int, start: str | None, *, dry_run: bool
    ) -> None:
        """Raises UsageError for the folder of another training, OutputExists for one that is not nextn's."""
        check_place(folder, [NOTE], "--work")
        self.folder = folder
        self.dry_run = dry_run
        digest = header_sha256(trunk.files[0])
        nothing = StageSeconds(0.0, 0.0, 0.0)
        fresh = WorkNote(1, "train-work", model_name(trunk), digest, kind, seed, start, nothing)
        self.note = _read(folder) or fresh
        if self.note.trunk_sha256 != digest:
            raise UsageError(
                f"{folder}: this work folder belongs to {self.note.trunk}; name another one with --work."
            )
        if (self.note.draft, self.note.seed) != (kind, seed):
            raise UsageError(
                f"{folder}: this work folder holds a draft of kind {self.note.draft} with seed {self.note.seed}; name "
                f"another one with --work, or pass --kind {self.note.draft} --seed {self.note.seed}."
            )
        if start not in (self.note.start, self.note.written):
            raise UsageError(
                f"{folder}: this work folder holds a draft that was started from {self.note.start or 'nothing'}, not "
                f"from {start or 'nothing'}; name another one with --work."
            )
        if not dry_run:
            try:
                folder.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise os_error(error, folder, "make the work folder") from error
            self._save()

    @property
    def states(self) -> Path:
        """Folder of texts and states."""
        return self.folder / "states"

    @property
    def fit(self) -> Path:
        """Folder of the fit and its candidates."""
        return self.folder / "fit"

    @property
    def starts_from_nothing(self) -> bool:
        """Whether nothing was there when training began; what it wrote itself does not count."""
        return self.note.start is None

    def wrote(self, name: str) -> None:
        """Remember the draft that was written."""
        self.note.written = name
        self._save()

    @property
    def before(self) -> Path:
        """Folder of the published draft, made a sidecar."""
        return self.folder / "before"

    @property
    def spent(self) -> StageSeconds:
        """Seconds by stage, earlier runs included."""
        return self.note.spent

    def _save(self) -> None:
        try:
            with Folder.chosen(self.folder) as home:
                home.write(NOTE, msgspec.json.format(msgspec.json.encode(self.note), indent=1) + b"\n")
        except OSError as error:
            raise os_error(error, self.folder / NOTE, "write it") from error

    @contextmanager
    def timed(self, stage: Stage) -> Iterator[StageClock]:
        """Counts what runs inside as time of this stage, whatever ends it."""
        clock = StageClock(self, stage)
        try:
            yield clock
        finally:
            clock.tick(now=True)


class StageClock:
    """Adds the seconds of a running stage to the note, now and then."""

    def __init__(self, work: Work, stage: Stage) -> None:
        self._work, self._stage = work, stage
        self._counted = time.monotonic()

    def tick(self, *, now: bool = False) -> None:
        """Call it often."""
        at = time.monotonic()
        if now or at - self._counted >= _NOTE_EVERY_S:
            spent = self._work.note.spent
            setattr(spent, self._stage, round(getattr(spent, self._stage) + at - self._counted, 2))
            self._counted = at
            self._work._save()


def _read(folder: Path) -> WorkNote | None:
    """The note of an existing work folder; None for a folder that is empty or not there."""
    try:
        with Folder.chosen(folder) as home:
            names = home.names()
            if NOTE not in names:
                if names:
                    raise OutputExists(
                        f"{folder}: this folder holds other files and no {NOTE}; name a new one with --work."
                    )
                return None
            return msgspec.json.decode(home.read(NOTE, _MOST_NOTE), type=WorkNote)
    except FileNotFoundError:
        return None
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise FormatError(
            "this is not the note of a work folder; name another folder with --work", path=folder / NOTE
        ) from error
    except NotOurs:
        raise
    except OSError as error:
        raise StorageError(f"{folder}: cannot read the work folder: {error.strerror or error}.") from error


def stage_budget(budget_s: float, spent: StageSeconds, stage: Stage, *, alone: bool) -> float:
    """Seconds that a stage may still take of the budget for all runs.

    `alone`: it is the only stage of this run and gets all that is left. Otherwise states get 40 %, fitting what is
    left of the first 90 %, and judging the rest, but at least half a minute.
    """
    left = budget_s - spent.states - spent.fit - spent.judge
    if stage == "judge":
        return max(LEAST_JUDGE_S, left)
    if alone:
        return max(0.0, left)
    share = SHARES["states"] * budget_s - spent.states
    if stage == "fit":
        share = (SHARES["states"] + SHARES["fit"]) * budget_s - spent.states - spent.fit
    return max(0.0, min(left, share))
