"""The block that a family's models have, from its table only: shapes without data, for planning without a donor."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..archs import family_of
from ..archs.base import Family, Rule, dimensions, resolve_shape
from ..block.model import Block, BlockTensor, layer_of, suffix_of
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


def _shape(rule: Rule, symbols: Mapping[str, int], trunk: Model) -> tuple[int, ...] | None:
    """The rule's shape, or that of the trunk's last tensor of the same name."""
    found = resolve_shape(rule.ne, symbols)
    if found is not None:
        return found
    same = [info.ne for name, (_, info) in trunk.tensors.items() if suffix_of(name) == rule.target]
    return same[-1] if same else None


def _present(rule: Rule, trunk: Model, family: Family) -> bool:
    """Optional tensors count when the trunk's layers have them; a block's own embeddings and head are rare.

    For parts with several forms, the family's first form counts; for queries, the trunk's.
    """
    if rule.replaces:
        return False  # what it replaces counts
    if rule.form:
        part = rule.form.partition(".")[0]
        forms = list(dict.fromkeys(each.form for each in family.rules if each.form.partition(".")[0] == part))
        of_trunk = {suffix_of(name) for name in trunk.tensors}
        there = [form for form in forms if all(
            each.target in of_trunk for each in family.rules if each.form == form and not each.optional
        )]  # fmt: skip
        return rule.form == (forms[0] if forms[0] in there or not there else there[0])
    if not rule.optional:
        return True
    if rule.target.startswith("nextn."):
        return rule.target == "nextn.shared_head_norm.weight"
    return any(suffix_of(name) == rule.target for name in trunk.tensors if layer_of(name) is not None)


def family_block(trunk: Model) -> Block:
    """A block of the size that the trunk's family has. Raises UnsupportedModel if the table does not determine it."""
    family: Family = family_of(trunk.architecture, trunk.entry)
    symbols = dimensions(trunk.arch_value, n_vocab(trunk))
    if family.symbols is not None:
        symbols |= family.symbols(trunk.arch_value, symbols)
    n_blocks = family.n_blocks
    tensors = []
    for layer in range(n_blocks):
        for rule in family.rules:
            if not _present(rule, trunk, family):
                continue
            ne = _shape(rule, symbols, trunk)
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
