"""What the tensors of a model say, whatever its header claims."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from ..archs import FAMILIES, per_layer_arrays
from ..archs.base import Family
from ..archs.others import DRAFTS, LOADS_ONLY, OTHER_USE
from ..block.model import EH_PROJ, layer_of, suffix_of
from ..gguf.files import Model
from ..gguf.kv import INTEGER_TYPES, KVType
from ..layouts.metadata import SHAPE

KEY = "nextn_predict_layers"


@dataclass(frozen=True)
class Anatomy:
    """Layers by what they hold."""

    model: Model
    arch: str
    blocks: tuple[int, ...]  # layers with `nextn.*` tensors, whole or not
    trunk: frozenset[int]  # all other layers
    promised: int  # the key's value, 0 when it is missing or no number
    block_count: int | None

    @classmethod
    def of(cls, model: Model) -> Anatomy:
        """Raises FormatError for a file without an architecture."""
        arch = model.architecture
        layers: dict[int, bool] = {}
        for name in model.tensors:
            layer = layer_of(name)
            if layer is not None:
                layers[layer] = layers.get(layer, False) or suffix_of(name).startswith("nextn.")
        count = model.header.by_key.get(f"{arch}.block_count")
        return cls(
            model,
            arch,
            tuple(sorted(n for n, marked in layers.items() if marked)),
            frozenset(n for n, marked in layers.items() if not marked),
            max(0, model.arch_int(KEY)),
            int(count.value) if count is not None and count.type in INTEGER_TYPES else None,
        )

    @property
    def family(self) -> Family | None:
        """The table of the architecture."""
        return FAMILIES.get(self.arch)

    @property
    def is_language_model(self) -> bool:
        """Whether there are layers at all and the key means MTP."""
        return bool(self.trunk or self.blocks) and self.arch not in OTHER_USE and self.arch not in DRAFTS

    @property
    def is_empty(self) -> bool:
        """Whether a language model's file has embeddings, and no layer of those that its header promises."""
        layers = self.trunk or self.blocks or self.arch in DRAFTS
        return not layers and bool(self.block_count) and "token_embd.weight" in self.model.tensors

    @property
    def has_trunk(self) -> bool:
        """Whether there are layers besides the block's, marked as such or not."""
        return bool(self.trunk - set(self.unmarked))

    @property
    def promise_counts(self) -> bool:
        """Whether an engine believes the key of a model without a block."""
        return self.family is None or not self.family.ignores_promise

    @property
    def is_donor(self) -> bool:
        """Nothing but a block, for no engine to load."""
        if self.has_trunk or not self.blocks:
            return False
        if self.model.header.get(SHAPE) == "donor":
            return True
        return "token_embd.weight" not in self.model.tensors and "tokenizer.ggml.model" not in self.model.header.by_key

    @property
    def shape(self) -> str:
        """bundled, trunk-only, sidecar or donor."""
        if not self.blocks and (self.has_trunk or not self.unmarked):
            return "trunk-only"
        if self.has_trunk:
            return "bundled"
        return "donor" if self.is_donor else "sidecar"

    @cached_property
    def lost_layers(self) -> tuple[int, ...]:
        """Numbers below the last trunk layer that no tensor has (at most the first hundred)."""
        out: list[int] = []
        there = sorted({*self.trunk, *self.blocks})
        before = -1
        last = max(self.trunk - set(self.unmarked), default=-1)
        if self.unmarked and self.has_trunk:  # then the header was believed
            last = max(last, (self.block_count or 0) - self.promised - 1)
        for n in (*(n for n in there if n <= last), last + 1):
            if len(out) >= 100:
                break
            out += range(before + 1, min(n, before + 101))
            before = n
        return tuple(out)

    @cached_property
    def gone(self) -> tuple[int, ...]:
        """Layers of whole MTP blocks that are lost where others are left: between them, or where the header has them.

        The header is believed when it says where the trunk ends, and the blocks that are left lie behind that.
        """
        most = self.family.max_blocks if self.family else 0
        if not self.blocks or self.blocks[-1] - self.blocks[0] >= most:
            return ()
        first, end = self.blocks[0], self.blocks[-1] + 1
        if self.block_count is not None and len(self.blocks) < self.promised <= most:
            said = self.block_count - self.promised
            trunk_fits = said == self.n_trunk if self.has_trunk else said > 0
            if trunk_fits and said <= first and end <= self.block_count:
                first, end = said, self.block_count
        there = {*self.trunk, *self.blocks}
        return tuple(n for n in range(first, end) if n not in there)

    @property
    def all_blocks(self) -> tuple[int, ...]:
        """The blocks' layers with those that are lost as a whole."""
        return tuple(sorted((*self.blocks, *self.gone)))

    @cached_property
    def unmarked(self) -> tuple[int, ...]:
        """Layers that the count and the key together call MTP blocks, and that have no `nextn.*` tensor (left).

        Empty where the key promises more than the family takes (then the key is what is wrong), where the header's
        layers are not those that are there, and where a trunk may carry the key without a block.
        """
        if self.block_count is None or not 0 < self.promised <= (self.family.max_blocks if self.family else 0):
            return ()
        first, there = self.block_count - self.promised, {*self.trunk, *self.blocks}
        if first < 1 or max(there, default=-1) != self.block_count - 1 or any(n < first for n in self.blocks):
            return ()
        if not self.promise_counts and any(n < first for n in self.trunk):
            return ()
        layers = range(first, self.block_count)
        return tuple(n for n in layers if n in self.trunk) if all(n in there for n in layers) else ()

    def unmarked_for(self, n_trunk: int | None) -> tuple[int, ...]:
        """The same, when a donor's number of trunk layers (None: not known) does not say otherwise."""
        return self.unmarked if n_trunk is None or n_trunk == (self.block_count or 0) - self.promised else ()

    @property
    def agreed_trunk(self) -> int | None:
        """A sidecar's trunk layers where count and arrays agree and its block's number says otherwise."""
        if self.has_trunk or not self.blocks or self.block_count is None:
            return None
        n, first = len(self.all_blocks), self.all_blocks[0]
        agree = self.block_count in self.array_lengths and first + n not in self.array_lengths
        return self.block_count - n if agree and 0 < self.block_count - n != first else None

    @property
    def n_trunk(self) -> int:
        """Trunk layers by their tensors; of a sidecar what stands before its block."""
        if self.trunk:
            return max(self.trunk) + 1
        return self.all_blocks[0] if self.blocks else 0

    @property
    def whole_blocks(self) -> bool:
        """Whether every block has its certain mark."""
        return all(f"blk.{n}.{EH_PROJ}" in self.model.tensors for n in self.blocks)

    @property
    def array_lengths(self) -> set[int]:
        """Lengths of the per-layer arrays that there are."""
        found = (self.model.header.by_key.get(f"{self.arch}.{suffix}") for suffix in per_layer_arrays(self.arch))
        return {kv.n_items for kv in found if kv is not None and kv.type is KVType.ARRAY and kv.n_items is not None}

    @property
    def only_loads(self) -> bool:
        """Whether engines load such a block and never draft with it."""
        return self.arch in LOADS_ONLY
