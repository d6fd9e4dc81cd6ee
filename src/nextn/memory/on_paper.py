"""A plan's files as models without files: what headers say about memory, before anything is written.

A file that attaching would make shares its trunk's tensors, which are already counted: only what is new becomes a
table, and the trunk's weights are those of the trunk at other offsets.
"""

from __future__ import annotations

from array import array
from dataclasses import replace
from pathlib import Path

from ..block.anatomy import Anatomy
from ..block.model import split_name
from ..gguf.files import GGUFFile, Model
from ..gguf.header import Header
from ..gguf.tensors import TensorTable, picked
from ..layouts.parts import KeptTensors, KnownHeader, Piece, PlannedHeader
from ..writing.plan import Link, NewFile, Plan
from .weights import EMBEDDINGS, HEAD, Coder, Tally, tally_of


def trunk_on_paper(plan: Plan, model: Model, folder: Path) -> Model:
    """The trunk that a detach of `model` would leave, with all its tensors."""
    return _model(plan, model, folder, whole=True)


def attached_on_paper(plan: Plan, trunk: Model, folder: Path) -> Model:
    """What attaching to `trunk` would make: headers with only the new tensors, and the weights of all."""
    return _model(plan, trunk, folder, whole=False)


def _model(plan: Plan, source: Model, folder: Path, *, whole: bool) -> Model:
    made = [_Made(out, source) for out in _in_order(plan)]
    model = Model(tuple(one.file(folder, whole=whole) for one in made))
    tally = Tally()
    coder = Coder(Anatomy.of(model), tally)
    for no, one in enumerate(made):
        one.count(no, tally, coder)
    model.worked_out["weights"] = tally
    return model


def _in_order(plan: Plan) -> list[NewFile | Link]:
    return sorted(plan.outputs, key=lambda out: out.name)


def _roots(table: TensorTable) -> TensorTable:
    """The tensors whose shape or presence decides more than their own bytes."""
    return TensorTable.of([info for name in (EMBEDDINGS, HEAD) if (info := table.find(name)) is not None])


class _Made:
    """One file that would be made from a model's."""

    def __init__(self, out: NewFile | Link, source: Model) -> None:
        self.out, self.source = out, source
        self.pieces: list[tuple[Piece, TensorTable]] = []  # with their tables in the new file
        if isinstance(out, Link):
            self.linked = self._number(out.source)
            return
        head = out.segments[0]
        assert isinstance(head, PlannedHeader | KnownHeader)
        self.planned, self.data_offset = head.planned, head.size_bytes
        tables = self.planned.parts.tables(self.planned.alignment)
        self.pieces = list(zip(self.planned.parts.pieces, tables, strict=True))

    def _number(self, path: Path) -> int:
        return next(i for i, file in enumerate(self.source.files) if file.path == path)

    def file(self, folder: Path, *, whole: bool) -> GGUFFile:
        """The file in `folder`; not `whole`: of the source's tensors, with no more than embeddings and head."""
        path = folder / self.out.name
        if isinstance(self.out, Link):
            file = self.source.files[self.linked]
            table = file.header.tensors if whole else _roots(file.header.tensors)
            return replace(file, path=path, header=replace(file.header, path=path, tensors=table))
        table, planned, start = TensorTable.of(()), self.planned, self.data_offset
        for piece, placed in self.pieces:
            more = _roots(placed) if isinstance(piece, KeptTensors) and not whole else placed
            table = table.plus(more) if len(table) else more
        header = Header(planned.version, planned.kvs, table, start, start, planned.alignment, path)
        return GGUFFile(path, header, self.out.size_bytes)

    def count(self, no: int, tally: Tally, coder: Coder) -> None:
        """Add the file's tensors to `tally`, as those of its file `no`."""
        if isinstance(self.out, Link):
            file = self.source.files[self.linked]
            table = file.header.tensors
            self._count_kept(no, tally, KeptTensors(file, table), table, file.header.data_offset)
        for piece, table in self.pieces:
            if isinstance(piece, KeptTensors):
                self._count_kept(no, tally, piece, table, self.data_offset)
                continue
            parts = piece() if callable(piece) else piece
            for part, offset in zip(parts, table.offsets, strict=True):
                code = coder.code(split_name(part.info.name)[0], part.info)
                tally.add(no, [code], [offset], [part.size_bytes], self.data_offset)

    def _count_kept(self, no: int, tally: Tally, kept: KeptTensors, table: TensorTable, data_offset: int) -> None:
        known = tally_of(self.source)
        codes, every = known.codes[self._number(kept.file.path)], kept.file.header.tensors
        own = codes if kept.table is every else picked(codes, array("I", every.rows_of(kept.table)))
        tally.codes.append(own)
        tally.add(no, own, table.offsets, kept.sizes, data_offset)
        tally.has_head |= known.has_head
        tally.head_is_repacked |= known.head_is_repacked
