"""Every verb on one file, in this process: what it printed, and whether it ended as it promises."""

from __future__ import annotations

import contextlib
import io
import os
import shutil
import traceback
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from nextn.cli import main
from nextn.engines import Engine
from nextn.errors import EngineMissing


@dataclass(frozen=True)
class Ran:
    """One call."""

    argv: tuple[str, ...]
    code: int
    out: str
    err: str
    bug: str = ""  # the traceback of what should never leave a verb

    @property
    def raw_control(self) -> set[str]:
        """Control characters, marks of direction, things without width that reached the terminal."""
        return {c for c in self.out + self.err if is_raw(c)}


def is_raw(char: str) -> bool:
    """Whether a character may move a cursor, turn or hide text; our newlines are none, nor bytes of a name."""
    is_byte = "\udc80" <= char <= "\udcff"
    return char != "\n" and not is_byte and unicodedata.category(char) in ("Cc", "Cf", "Zl", "Zp", "Cs", "Co")


def run(*argv: object) -> Ran:
    """The command line, in this process."""
    words = tuple(map(str, argv))
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        try:
            code, bug = main(list(words)), ""
        except BaseException:
            code, bug = 70, traceback.format_exc()
    return Ran(words, code, out.getvalue(), err.getvalue(), bug)


def reading(path: Path) -> Iterator[Sequence[object]]:
    """Calls that only read."""
    yield "inspect", path
    yield "inspect", path, "--json"
    yield "doctor", path
    yield "doctor", path, "--json"
    yield "serve", path, "--print"
    yield "serve", path, "--json"
    yield "plan", path, "--header-only"
    yield "plan", path, "--header-only", "--json", "--ctx", "4096"


def on_model(path: Path, donor: Path, trunk: Path, out: Path, *, real: bool = False) -> Iterator[Sequence[object]]:
    """Calls that take a GGUF as anything: trunk, donor, model, sidecar, original."""
    dry: tuple[str, ...] = () if real else ("--dry-run",)
    yield from reading(path)
    yield "inspect", path, "--block-hash"
    yield "doctor", path, "--fix", "-o", out / "fixed", *dry
    yield "doctor", path, "--fix", "--from", donor, "-o", out / "fixed2", *dry
    yield "doctor", path, "--fix", "--trunk", trunk, "-o", out / "fixed3", *dry
    for layout in ("sidecar", "bundle", "shards"):
        yield "attach", path, "--from", donor, "--layout", layout, "-o", out / f"attached-{layout}", *dry
        yield "attach", trunk, "--from", path, "--layout", layout, "-o", out / f"given-{layout}", *dry
    for form in ("fused", "split"):
        yield "attach", path, "--from", donor, "--qkv", form, "--layout", "bundle", "-o", out / f"a-{form}", *dry
        yield "attach", trunk, "--from", path, "--qkv", form, "-o", out / f"g-{form}", *dry
        yield "detach", path, "--qkv", form, "-o", out / f"d-{form}", *dry
        yield "extract", path, "--qkv", form, "-o", out / f"e-{form}", *dry
    yield "attach", path, "--dry-run"
    yield "attach", path, "--from", donor, "--for", "both", "--duplicates", "drop", "-o", out / "both", *dry
    yield "attach", path, "--from", donor, "--draft-head", "q8_0", "--type", "bf16", "-o", out / "head", *dry
    yield "detach", path, "-o", out / "detached", *dry
    yield "extract", path, "-o", out / "extracted", *dry
    yield "extract", path, "--block-only", "-o", out / "donor", *dry
    yield "extract", path, "--embd-type", "as-is", "--type", "f16", "--for", "ik", "-o", out / "ik", *dry
    yield "explode", path, "--max-tensors", "9", "-o", out / "exploded", *dry
    yield "explode", path, "--max-size", "64K", "--metadata-first", "-o", out / "exploded2", *dry
    yield "assemble", path, "-o", out / "assembled.gguf", *dry
    yield "assemble", path, "--pick", f".*attn.*={trunk}", "-o", out / "picked.gguf", *dry
    yield "assemble", trunk, "--pick", f"blk[.].*={path}", "-o", out / "picked-from", *dry
    yield "attach", path, "--from", donor, "--layout", "in-place", "--dry-run"
    yield "attach", trunk, "--from", path, "--layout", "in-place", "--dry-run"
    yield "detach", path, "--in-place", "--dry-run"
    yield "recover", path, "--dry-run"
    yield "up", path, "--from", donor, "--for", "llama.cpp", "--no-verify", "--dry-run"
    yield "pack", path, "--from", donor, "-o", out / "packed", *dry
    yield "pack", path, "-o", out / "packed-bundled", *dry
    yield "pack", trunk, "--from", path, "-o", out / "packed-from", *dry
    yield "pack", trunk, "--sidecar", path, "-o", out / "packed-sidecar", *dry
    yield "plan", trunk, "--header-only", "--sidecar", path
    yield "plan", trunk, "--header-only", "--from", path
    yield "serve", trunk, "--print", "--sidecar", path
    yield "verify", path, "--engine", "none", "--trunk", trunk
    yield "verify", trunk, "--engine", "none", "--trunk", path
    yield "verify", path, "--engine", "none"


def on_checkpoint(folder: Path, trunk: Path, out: Path, *, real: bool = False) -> Iterator[Sequence[object]]:
    """Calls that take a checkpoint."""
    dry: tuple[str, ...] = () if real else ("--dry-run",)
    yield "inspect", folder
    yield "inspect", folder, "--json"
    yield "inspect", folder, "--block-hash"
    yield "doctor", folder
    for layout in ("sidecar", "bundle", "shards"):
        yield "attach", trunk, "--from", folder, "--layout", layout, "-o", out / f"given-{layout}", *dry
    yield "attach", trunk, "--from", folder, "--qkv", "fused", "--draft-head", "q4_0", "-o", out / "fused", *dry
    yield "attach", trunk, "--from", folder, "--type", "bf16", "--duplicates", "drop", "-o", out / "drop", *dry
    yield "extract", folder, "-o", out / "extracted", *dry
    yield "extract", folder, "--block-only", "-o", out / "donor", *dry
    yield "extract", folder, "--for", "both", "-o", out / "both", *dry
    yield "pack", trunk, "--from", folder, "-o", out / "packed", *dry
    yield "plan", trunk, "--header-only", "--from", folder
    yield "doctor", trunk, "--from", folder
    yield "plan", folder, "--header-only"
    yield "serve", folder, "--print"
    yield "detach", folder, "-o", out / "detached", *dry


def engine_or_none(name: str | None, engine: Engine) -> Engine:
    """Takes the place of `find_engine`: nothing is started to find one, and verify gets no further than files."""
    if name == "none":
        raise EngineMissing("there is no engine of that name.")
    return engine


def emptied(folder: Path) -> Path:
    """The folder, without what earlier calls wrote."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder


def quiet_environment() -> None:
    """No server, no engine of this machine, and errors that pass through."""
    os.environ["NEXTN_TRACEBACK"] = "1"
    os.environ["HF_HUB_OFFLINE"] = "1"
    for name in ("NEXTN_LLAMA_SERVER", "NEXTN_IK_SERVER"):
        os.environ.pop(name, None)
