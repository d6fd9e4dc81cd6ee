"""The block that a family's models have, from its table only: shapes without data, for planning without a donor."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..archs import family_of
from ..archs.base import Family, Rule, dimensions, resolve_shape
from ..block.model import Block, BlockTensor, split_name
from ..errors import UnsupportedModel
from ..gguf.files import Model
from ..layouts.donor_check import n_layer_trunk, n_vocab

if TYPE_CHECKING:
    from ..sources.ranges import FileRange, Reader
    from ..sources.rows import Blocks, Rows, Span
    from ..sources.scales import Seen


@dataclass(frozen=True)
class NoRows:
    """Rows of a known shape that cannot be read."""

    n_rows: int
    n_per_row: int
    read_bytes: int = 0
    block_type: None = None
    spans: tuple[Span, ...] = ()

    @property
    def ranges(self) -> list[FileRange]:
        """None: there is no data."""
        return []

    def chunks(self, reader: Reader, seen: Seen | None = None) -> Iterator[Rows]:
        """Never: there is no data."""
        raise AssertionError("a block from a family's table has no data")

    def blocks(self, reader: Reader, seen: Seen | None = None) -> Iterator[Blocks]:
        """Never: there is no data."""
        raise AssertionError("a block from a family's table has no data")


class _Alike:
    """The trunk's tensors that have a name of the family's block after `blk.N.`."""

    def __init__(self, trunk: Model, family: Family) -> None:
        targets = {rule.target for rule in family.rules}
        self.trunk, self.last = trunk, dict[str, int]()  # name -> row of the last one
        self.in_layers = set[str]()  # those that are in a layer
        for row, name in enumerate(trunk.table.names()):
            layer, suffix = split_name(name)
            if suffix in targets:
                self.last[suffix] = row
                if layer is not None:
                    self.in_layers.add(suffix)

    def shape(self, target: str) -> tuple[int, ...] | None:
        """Of the last one."""
        row = self.last.get(target)
        return None if row is None else self.trunk.table[row][1].ne


def _present(rule: Rule, alike: _Alike, family: Family) -> bool:
    """Optional tensors count when the trunk's layers have them; a block's own embeddings and head are rare.

    For parts with several forms, the family's first form counts; for queries, the trunk's.
    """
    if rule.replaces:
        return False  # what it replaces counts
    if rule.form:
        part = rule.form.partition(".")[0]
        forms = list(dict.fromkeys(each.form for each in family.rules if each.form.partition(".")[0] == part))
        there = [form for form in forms if all(
            each.target in alike.last for each in family.rules if each.form == form and not each.optional
        )]  # fmt: skip
        return rule.form == (forms[0] if forms[0] in there or not there else there[0])
    if not rule.optional:
        return True
    if rule.target.startswith("nextn."):
        return rule.target == "nextn.shared_head_norm.weight"
    return rule.target in alike.in_layers


def family_block(trunk: Model) -> Block:
    """A block of the size that the trunk's family has. Raises UnsupportedModel if the table does not determine it."""
    family: Family = family_of(trunk.architecture, trunk.entry)
    symbols = dimensions(trunk.arch_value, n_vocab(trunk))
    if family.symbols is not None:
        symbols |= family.symbols(trunk.arch_value, symbols)
    n_blocks = family.n_blocks
    tensors, alike = [], _Alike(trunk, family)
    for layer in range(n_blocks):
        for rule in family.rules:
            if not _present(rule, alike, family):
                continue
            ne = resolve_shape(rule.ne, symbols) or alike.shape(rule.target)
            if not ne or 0 in ne:
                raise UnsupportedModel(
                    f"{trunk.entry}: the shape of '{rule.target}' does not follow from the trunk alone; name a donor "
                    "with --from."
                )
            rows = 1
            for axis in ne[1:]:
                rows *= axis
            tensors.append(BlockTensor(layer, rule.target, ne, NoRows(rows, ne[0]), f32=rule.f32 or len(ne) <= 1))
    return Block(
        origin=trunk.entry,
        kind="family",
        architecture=trunk.architecture,
        n_layer_trunk=n_layer_trunk(trunk),
        n_layer_nextn=n_blocks,
        tensors=tuple(tensors),
        hidden_size=trunk.arch_int("embedding_length") or None,
        n_vocab=n_vocab(trunk),
    )
