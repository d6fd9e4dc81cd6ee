"""The folder of states: what the trunk wrote, and what a draft sees of it, in chunks that appear complete.

`states.json` names the trunk, how it was read, and each chunk with its length and sha256; it is replaced after each
chunk, so that a run that was stopped goes on where it was. Format version 1.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import numpy as np
from msgspec import Meta, Struct

from ..bounded import MOST_DOCUMENT, parse_json, read_bounded
from ..errors import FormatError, UsageError
from ..writing.durable import Workspace, write_file
from ..writing.system import System, explained, sync_folder, write_all
from .answers import FIELDS, Array, WrittenAnswer, joined, pieces, read_arrays

MANIFEST = "states.json"
Split = Literal["fit", "held"]
Count = Annotated[int, Meta(ge=0)]
_HASH_BYTES = 1 << 24


class Trunk(Struct, forbid_unknown_fields=True):
    """The model that wrote the text."""

    name: str
    size: Count  # bytes of its files
    fingerprint: str  # sha256 of the first file's header


class ChunkEntry(Struct, forbid_unknown_fields=True):
    """One file of states."""

    file: str
    number: Count  # in the order of writing
    first: Count  # which prompts: `n_asked` from this place on, in the order that the seed gives them
    n_asked: Count
    n_sequences: Count
    n_tokens: Count
    n_bytes: Count
    n_clamped: Count  # values beyond float16's range
    sha256: str
    split: Split
    seconds: float  # that writing it took


class StatesManifest(Struct, forbid_unknown_fields=True, tag_field="kind", tag="states"):
    """`states.json`."""

    trunk: Trunk
    architecture: str
    n_embd: Count
    n_vocab: Count
    taps: list[int] | None  # layers whose inputs are kept
    nextn_state: bool  # whether what is kept is the state that the MTP graph gets
    reader: Literal["engine", "torch"]
    agreement: dict[str, Any] | None  # of torch with the engine
    engine: str  # its name and build
    seed: int
    top_k: Count
    n_predict: Count
    temperature: float
    greedy_share: float
    prompts: dict[str, Any]  # where they come from, their number and sha256
    version: Literal[1] = 1
    chunks: list[ChunkEntry] = []

    @property
    def n_features(self) -> int:
        """States per token."""
        return 1 if self.taps is None else len(self.taps)

    @property
    def token_bytes(self) -> int:
        """Bytes per token in a chunk."""
        return 4 + 2 * self.n_features * self.n_embd + 6 * self.top_k + 4


@dataclass(frozen=True)
class Chunk:
    """The arrays of one file, mapped; the axes are those of `FIELDS`."""

    path: Path
    entry: ChunkEntry
    arrays: dict[str, Array] = field(repr=False)

    def __getattr__(self, name: str) -> Array:
        try:
            return self.arrays[name]
        except KeyError:
            raise AttributeError(name) from None

    @property
    def n_sequences(self) -> int:
        """Prompts with their answers."""
        return len(self.arrays["n_prompt"])

    @property
    def n_tokens(self) -> int:
        """Tokens of all of them."""
        return len(self.arrays["ids"])

    def sequence(self, number: int) -> dict[str, Array]:
        """The arrays of one prompt with its answer."""
        start, end = self.arrays["starts"][number : number + 2]
        names = ("ids", "features", "top_ids", "top_logits", "log_sum")
        return {name: self.arrays[name][start:end] for name in names}


@dataclass(frozen=True)
class States:
    """A folder of states, for reading."""

    folder: Path
    manifest: StatesManifest

    @classmethod
    def open(cls, folder: Path | str) -> States:
        """Read the manifest. Raises UsageError when there is none, FormatError when it is damaged, StorageError."""
        folder = Path(folder)
        path = folder / MANIFEST
        if not path.is_file():
            raise UsageError(f"{folder}: there are no states in this folder; 'nextn train --stage states' writes them.")
        data = parse_json(read_bounded(path, MOST_DOCUMENT), path)
        try:
            manifest = msgspec.convert(data, StatesManifest)
        except msgspec.ValidationError as error:
            raise FormatError(f"these are not states that this version can read ({error})", path=path) from error
        names = [entry.file for entry in manifest.chunks]
        if any(Path(name).name != name for name in names) or len(set(names)) < len(names):
            raise FormatError("a chunk's name is not one of a file in this folder, or occurs twice", path=path)
        return cls(folder, manifest)

    def chunks(self, split: Split | None = None) -> Iterator[Chunk]:
        """The chunks of a split, or all, by number. Raises FormatError for a chunk that its entry does not describe."""
        for entry in sorted(self.manifest.chunks, key=lambda one: one.number):
            if split in (None, entry.split):
                yield self._chunk(entry)

    def _chunk(self, entry: ChunkEntry) -> Chunk:
        path, m = self.folder / entry.file, self.manifest
        arrays = read_arrays(path)
        n, sequences = entry.n_tokens, entry.n_sequences
        wanted = {
            "starts": (sequences + 1,), "n_prompt": (sequences,), "prompt_id": (sequences,), "ids": (n,),
            "features": (n, m.n_features, m.n_embd), "top_ids": (n, m.top_k), "top_logits": (n, m.top_k),
            "log_sum": (n,),
        }  # fmt: skip
        for name, array in arrays.items():
            if array.shape != wanted[name] or array.dtype != np.dtype(FIELDS[name]):
                raise FormatError(
                    f"the array '{name}' has another shape or type than {MANIFEST} says", path=path,
                    expected=f"{FIELDS[name]} {list(wanted[name])}", found=f"{array.dtype.str} {list(array.shape)}",
                )  # fmt: skip
        starts = arrays["starts"]
        if starts[0] != 0 or starts[-1] != n or (np.diff(starts) < 0).any():
            raise FormatError("the starts of the sequences are not in order", path=path)
        return Chunk(path, entry, arrays)

    def check(self) -> None:
        """Compare every chunk's sha256. Raises FormatError, StorageError."""
        for entry in self.manifest.chunks:
            path, digest = self.folder / entry.file, hashlib.sha256()
            with explained(path, "read it"), path.open("rb") as file:
                while piece := file.read(_HASH_BYTES):
                    digest.update(piece)
            if digest.hexdigest() != entry.sha256:
                raise FormatError(f"this is not the file that {MANIFEST} describes; delete it", path=path)

    def n_tokens(self, split: Split | None = None) -> int:
        """Tokens of a split, or of all."""
        return sum(one.n_tokens for one in self.manifest.chunks if split in (None, one.split))

    def n_prompts(self, split: Split) -> int:
        """Different prompts that were answered; some twice, greedily and drawn. Raises what `chunks` raises."""
        return len({int(one) for chunk in self.chunks(split) for one in chunk.prompt_id})

    @cached_property
    def n_bytes(self) -> int:
        """Bytes of all chunks."""
        return sum(one.n_bytes for one in self.manifest.chunks)


@dataclass
class StatesFolder:
    """A folder of states, for writing: one process at a time."""

    folder: Path
    manifest: StatesManifest
    system: System = field(default_factory=System)

    @classmethod
    def start(cls, folder: Path, wanted: StatesManifest) -> StatesFolder:
        """Go on in a folder whose states were written in the same way, or begin.

        Raises UsageError for states of another trunk or written otherwise, and what `States.open` raises.
        """
        if (folder / MANIFEST).exists():
            found = States.open(folder).manifest
            if (what := difference(found, wanted)) is not None:
                raise UsageError(
                    f"{folder}: the states here were written with {what}; name another folder, or delete it."
                )
            wanted = replace_fields(wanted, chunks=found.chunks, reader=found.reader, agreement=found.agreement)
        made = cls(folder, wanted)
        made._tidy()
        return made

    def _tidy(self) -> None:
        """Remove chunks that no manifest names: those of a run that ended between the two."""
        named = {entry.file for entry in self.manifest.chunks}
        with explained(self.folder, "look into the folder"):
            for path in self.folder.glob("states-*.safetensors"):
                if path.name not in named:
                    path.unlink()
        there = [one for one in self.manifest.chunks if (self.folder / one.file).is_file()]
        if len(there) < len(self.manifest.chunks):
            self.manifest = replace_fields(self.manifest, chunks=there)

    @property
    def n_bytes(self) -> int:
        """Bytes of the chunks so far."""
        return sum(one.n_bytes for one in self.manifest.chunks)

    @property
    def n_tokens(self) -> int:
        """Tokens of the chunks so far."""
        return sum(one.n_tokens for one in self.manifest.chunks)

    def add(
        self, first: int, split: Split, answers: Sequence[WrittenAnswer], seconds: float, n_asked: int | None = None
    ) -> ChunkEntry:
        """Write a chunk and name it in the manifest; `n_asked` prompts were answered, by default as many as there are.

        Raises NoSpace, StorageError.
        """
        n_asked = len(answers) if n_asked is None else n_asked
        number = 1 + max((one.number for one in self.manifest.chunks), default=-1)
        name = f"states-{number + 1:05d}.safetensors"
        arrays, digest, at = joined(answers), hashlib.sha256(), 0
        with Workspace(self.folder, self.system) as space:
            temp, fd = space.new_file(name)
            for piece in pieces(arrays):
                digest.update(piece)
                write_all(self.system, fd, piece, at, temp)
                at += len(piece)
            space.sync([temp])
            space.publish(temp, name, at)
            space.finish()
        entry = ChunkEntry(
            name, number, first, n_asked, len(answers), int(arrays["starts"][-1]), at,
            sum(one.n_clamped for one in answers), digest.hexdigest(), split, round(seconds, 3),
        )  # fmt: skip
        self.manifest = replace_fields(self.manifest, chunks=[*self.manifest.chunks, entry])
        self.save()
        return entry

    def save(self) -> None:
        """Replace the manifest. Raises NoSpace, StorageError."""
        path, new = self.folder / MANIFEST, self.folder / f"{MANIFEST}.next"
        with explained(new, "replace it"), contextlib.suppress(FileNotFoundError):
            new.unlink()
        write_file(new, json.dumps(msgspec.to_builtins(self.manifest), indent=1).encode() + b"\n", self.system)
        with explained(path, "replace it"):
            new.replace(path)
            sync_folder(self.folder, self.system)


def replace_fields(manifest: StatesManifest, **changes: Any) -> StatesManifest:
    """A manifest with other values."""
    return msgspec.structs.replace(manifest, **changes)


_SAME: dict[str, Callable[[StatesManifest], object]] = {
    "another trunk": lambda m: m.trunk.fingerprint,
    "other taps": lambda m: (m.taps, m.nextn_state),
    "another --seed": lambda m: m.seed,
    "another number of kept logits": lambda m: m.top_k,
    "other prompts": lambda m: m.prompts["sha256"],
    "another length of answers": lambda m: m.n_predict,
    "another temperature or share of greedy answers": lambda m: (m.temperature, m.greedy_share),
}


def difference(found: StatesManifest, wanted: StatesManifest) -> str | None:
    """In what two ways of writing differ; None when one can go on where the other stopped."""
    return next((what for what, of in _SAME.items() if of(found) != of(wanted)), None)
