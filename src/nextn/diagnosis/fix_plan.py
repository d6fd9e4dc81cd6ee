"""From a patient to a plan: a new header, links for unchanged files, copies inside the kernel for the rest."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from ..gguf.files import GGUFFile, Model, set_prefix, shard_name
from ..gguf.header import DEFAULT_ALIGNMENT, build_header, header_size, pad_to, place
from ..gguf.kv import KV
from ..gguf.kv_table import KVTable, edit
from ..gguf.tensors import TensorInfo
from ..layouts import build, metadata, naming, places
from ..layouts.parts import Part, data_segments, new_header
from ..sources.ranges import FileRange
from ..writing.plan import Copy, Link, LinkMode, NewBytes, NewFile, Plan, Segment
from .patient import Patient

_SHARD_TAIL = re.compile(r"-\d{5}-of-\d{5}\Z")


def plan_fixed(
    original: Model, patient: Patient, out: Path | str | None = None, link: LinkMode = LinkMode.AUTO
) -> Plan:
    """The plan that writes `patient` beside `original`, which is left unchanged.

    Raises UsageError for names that hide a model.
    """
    if patient.replaced or patient.added or patient.origin:  # recorded hashes no longer hold
        patient = patient.with_kvs(drop=metadata.PROVENANCE)
    return (_set if original.is_sharded and len(original.files) > 1 else _single)(original, patient, out, link)


def _base(original: Model, patient: Patient) -> str:
    if patient.base_name is not None:
        return patient.base_name
    return naming.with_mark(_SHARD_TAIL.sub("", places.model_name(original)), "fixed")


def _folder(original: Model, patient: Patient) -> Path:
    return places.default_folder(original) if patient.folder is None else Path(patient.folder)


def _single(original: Model, patient: Patient, out: Path | str | None, link: LinkMode) -> Plan:
    folder, name = naming.resolve_output(out, _folder(original, patient), _base(original, patient) + ".gguf")
    old, new = original.files[0], patient.model.files[0]
    if old.header == new.header and not patient.replaced and not patient.added:
        made = Link(name, old.path, old.size_bytes, link, old.stamp)
        return _plan(original, "renamed", folder, (made,), folder / name)
    written = _written(name, new, patient, own=True, added=True)
    return _plan(original, "mended", folder, (written,), folder / name)


def _set(original: Model, patient: Patient, out: Path | str | None, link: LinkMode) -> Plan:
    base = _base(original, patient)
    folder, name = naming.resolve_output(out, _folder(original, patient) / base, base + ".gguf")
    prefix = set_prefix(name)
    count = len(original.files) + bool(patient.added)
    n_tensors = len(patient.model.tensors) + len(patient.added)
    changed = patient.with_kvs(_split_changes(patient.model, count, n_tensors))
    outputs: list[NewFile | Link] = []
    if patient.added:
        kvs = metadata.split_kvs(count - 1, count, n_tensors)
        header = new_header(KVTable.of(kvs), patient.added, 3, DEFAULT_ALIGNMENT)
        data = data_segments(patient.added, DEFAULT_ALIGNMENT, [])
        outputs.append(NewFile(shard_name(prefix, count, count), (header, *data)))
    for no, (old, new) in enumerate(zip(original.files, changed.model.files, strict=True)):
        if no == 0:
            continue
        if old.header.get("split.no") != no:
            new = replace(new, header=replace(new.header, kvs=_numbered(new, no, count, n_tensors)))
        outputs.append(_file(shard_name(prefix, no + 1, count), old, new, patient, link))
    entry = shard_name(prefix, 1, count)
    outputs.append(_file(entry, original.files[0], changed.model.files[0], patient, link))
    only_links = all(isinstance(made, Link) for made in outputs)
    return _plan(original, "renamed" if only_links else "mended", folder, tuple(outputs), folder / entry)


def _split_changes(model: Model, count: int, n_tensors: int) -> list[KV]:
    """The first header's split pairs that need correcting: an unchanged header makes its shard a link."""
    wanted = metadata.split_kvs(0, count, n_tensors, model)
    return [kv for kv in wanted if model.header.get(kv.key) != kv.value]


def _numbered(file: GGUFFile, no: int, count: int, n_tensors: int) -> KVTable:
    return edit(file.header.kvs, put=metadata.split_kvs(no, count, n_tensors))


def _file(name: str, old: GGUFFile, new: GGUFFile, patient: Patient, link: LinkMode) -> NewFile | Link:
    touched = any(info.name in patient.replaced for info in new.header.tensors)
    if old.header == new.header and not touched:
        return Link(name, old.path, old.size_bytes, link, old.stamp)
    return _written(name, new, patient)


def _written(name: str, file: GGUFFile, patient: Patient, *, own: bool = False, added: bool = False) -> NewFile:
    """A file with the patient's header and data. Copies stay aligned to file system blocks, so they can be cloned."""
    infos = sorted(file.header.tensors, key=lambda info: info.offset)
    sized = [(info, file.stored_size(info)) for info in infos]
    extra = patient.added if added else ()
    alignment = file.header.alignment
    placed, _ = place([*sized, *((part.info, part.size_bytes) for part in extra)], alignment)
    kvs = edit(file.header.kvs, drop=(metadata.PADDING,))
    if own:
        kvs = kvs.plus(build.congruence(header_size(kvs, placed), file.header.data_offset, alignment))
    header = build_header(kvs, placed, version=file.header.version, alignment=alignment)
    segments = [NewBytes(header), *_data(file, sized, patient), *data_segments(extra, alignment, [])]
    return NewFile(name, tuple(segments))


def _data(file: GGUFFile, sized: list[tuple[TensorInfo, int]], patient: Patient) -> Iterator[Segment]:
    """The data section: runs of unchanged tensors as few copies, replaced ones from their segments."""
    run: list[Part] = []
    alignment = file.header.alignment
    for info, size in sized:
        fresh = patient.replaced.get(info.name)
        if fresh is None:
            start, end = file.tensor_range(info)
            run.append(Part(info, size, Copy(FileRange.of(file, start, end))))
            continue
        yield from data_segments(run, alignment, [file])
        run = []
        yield from fresh
        padding = pad_to(size, alignment) - size
        if padding:
            yield NewBytes(bytes(padding))
    yield from data_segments(run, alignment, [file])


def _plan(original: Model, layout: str, folder: Path, outputs: tuple[NewFile | Link, ...], entry: Path) -> Plan:
    return Plan(
        verb="doctor",
        layout=layout,
        folder=folder,
        outputs=outputs,
        entry=entry,
        sidecar=None,
        header_bytes=original.header_bytes,
    )
