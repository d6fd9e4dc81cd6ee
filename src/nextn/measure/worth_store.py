"""Curves kept for later: in `worth` of nextn's data folder, by the kind of model, the machine and the engine's build.

The kind of a model is its architecture and its trunk's tensors with their shapes and types: a quant with a block and
the same quant without, or two fine-tunes of one model, are of one kind.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
from array import array
from itertools import chain
from pathlib import Path
from typing import Any

from ..block.anatomy import Anatomy
from ..errors import NextnError
from ..gguf.files import Model
from ..layouts.places import data_root
from ..schemas.reading import read_document
from ..schemas.worth import WorthDocument
from ..writing.durable import write_file
from .bench_setup import machine
from .worth_report import WorthReport

_DIGITS = 16


def _root() -> Path:
    return data_root() / "worth"


def worth_folder(model: Model) -> Path:
    """Where the curves of this kind of model are kept; it need not exist."""
    seen = Anatomy.of(model)
    kind = hashlib.sha256(model.architecture.encode("utf-8", "surrogateescape"))
    kind.update(array("I", sorted(chain.from_iterable(seen.trunk_table(file).checksums() for file in model.files))))
    return _root() / kind.hexdigest()[:_DIGITS]


def keep(model: Model, report: WorthReport) -> Path:
    """Keep a curve, in place of an older one that was measured in the same way. Raises StorageError, NoSpace."""
    settings = {name: report.settings[name] for name in ("slots", "threads", "engine_args")}
    how = json.dumps([report.engine.name, report.engine.version, _computer(report.machine), settings])
    path = worth_folder(model) / f"{hashlib.sha256(how.encode()).hexdigest()[:_DIGITS]}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    write_file(path, json.dumps(report.to_json(), indent=1).encode() + b"\n")
    return path


def kept_here(model: Model) -> list[WorthDocument]:
    """The curves of this kind of model that were measured on this machine, newest first; none is ever an error."""
    found: list[WorthDocument] = []
    if not _root().is_dir():  # nothing was ever measured here, so what kind of model this is need not be worked out
        return found
    here = _computer(machine())
    with contextlib.suppress(OSError):
        for path in sorted(worth_folder(model).glob("*.json")):
            with contextlib.suppress(NextnError):
                document = read_document(path, ("worth",))
                assert isinstance(document, WorthDocument)
                if [document.machine.cpu, document.machine.n_cpus, document.machine.memory_bytes] == here:
                    found.append(document)
    return sorted(found, key=lambda one: one.measured, reverse=True)


def _computer(known: dict[str, Any]) -> list[Any]:
    return [known["cpu"], known["n_cpus"], known["memory_bytes"]]


def kept_answer(model: Model) -> tuple[str, str] | None:
    """The newest answer for this kind of model on this machine, "can_pay" or "cannot_pay", and a sentence; or None."""
    found = next(iter(kept_here(model)), None)
    if found is None:
        return None
    settings = found.settings
    how = [f"{found.engine.name} {found.engine.version}"]
    how += [f"{settings.threads} threads"] if settings.threads is not None else []
    how += [f"{settings.slots} slots"] if settings.slots > 1 else []
    how += settings.engine_args
    return (
        found.word,
        f"drafting on this machine {found.sentence} (measured on {found.measured[:10]}: {', '.join(how)})",
    )
