"""What a model is: the one place that decides its shape and which layers are its trunk's and its block's.

The tensors decide, whatever the header claims; the header is believed only where they leave doubt.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import accumulate

from ..archs import FAMILIES, per_layer_arrays
from ..archs.base import Family, missing
from ..archs.drafts import ARCHS as DRAFT_ARCHS
from ..archs.others import ASSISTANTS, DRAFTS, LOADS_ONLY, OTHER_USE
from ..gguf.files import GGUFFile, Model
from ..gguf.kv import INTEGER_TYPES, KVType
from ..gguf.names import LARGE
from ..gguf.tensors import TensorTable
from .layers import Layers
from .model import DRAFT_ROOTS, EH_PROJ, MARK, split_name

KEY = "nextn_predict_layers"
SHAPE = "nextn.shape"  # what extract writes into donor files
TENSOR_NAMES = "nextn.tensor_names"  # what attach notes: the block's tensors


@dataclass(frozen=True)
class Anatomy:
    """A model's layers, sorted by what they hold."""

    model: Model
    arch: str
    layers: Layers = field(repr=False)  # layer -> its tensors' names without `blk.N.`
    blocks: tuple[int, ...]  # layers with `nextn.*` tensors, complete or not, in order
    trunk: frozenset[int] = field(repr=False)  # all other layers
    promised: int  # the key's value, 0 when it is missing or not a number
    block_count: int | None
    told: int | None = None  # number of trunk layers, where the block's donor gives it

    @classmethod
    def of(cls, model: Model) -> Anatomy:
        """Raises FormatError for a file without an architecture."""
        known: Anatomy | None = model.worked_out.get("anatomy")
        if known is not None:
            return known
        arch = model.architecture
        marked: set[int] = set()
        layers = Layers(model.table, marked)
        count = model.header.by_key.get(f"{arch}.block_count")
        made = model.worked_out["anatomy"] = cls(
            model,
            arch,
            layers,
            tuple(sorted(marked)),
            frozenset(layer for layer in layers if layer not in marked),
            max(0, model.arch_int(KEY)),
            int(count.value) if count is not None and count.type in INTEGER_TYPES else None,
        )
        return made

    @property
    def family(self) -> Family | None:
        """The architecture's table."""
        return FAMILIES.get(self.arch)

    @property
    def is_language_model(self) -> bool:
        """Whether the file has any layers and the key means MTP."""
        return bool(self.trunk or self.blocks) and self.arch not in OTHER_USE and self.arch not in DRAFTS

    @property
    def is_empty(self) -> bool:
        """Whether a language model's file has embeddings but none of the layers that its header promises."""
        layers = self.trunk or self.blocks or self.arch in DRAFTS
        return not layers and bool(self.block_count) and "token_embd.weight" in self.model.tensors

    @cached_property
    def has_trunk(self) -> bool:
        """Whether the file has layers besides the block's, marked or not."""
        return bool(self.trunk - set(self.unmarked))

    @property
    def is_draft(self) -> bool:
        """Whether all of the file drafts: an EAGLE-3, DFlash or DSpark draft, or an assistant of Gemma 4."""
        return self.arch in DRAFT_ARCHS or self.arch in ASSISTANTS

    @property
    def has_block(self) -> bool:
        """Whether the file has something to draft with: an MTP block, complete or not, or it is a draft itself."""
        return bool(self.blocks) or self.is_draft

    @property
    def is_block_only(self) -> bool:
        """Whether the file is a sidecar or a donor: nothing that an engine could run by itself."""
        return self.shape in ("sidecar", "donor")

    @property
    def key_is_stale(self) -> bool:
        """Whether the key is a leftover: it promises a block, but the count is the trunk's and there is no block."""
        return bool(self.promised) and not self.blocks and not self.unmarked and self.block_count == self.n_trunk

    @property
    def promise_counts(self) -> bool:
        """Whether an engine believes the key of a model without a block."""
        return self.family is None or not self.family.ignores_promise

    @cached_property
    def is_donor(self) -> bool:
        """Whether the file holds only a block, which no engine can load."""
        if self.has_trunk or not self.blocks:
            return False
        if self.model.header.get(SHAPE) == "donor":
            return True
        return "token_embd.weight" not in self.model.tensors and "tokenizer.ggml.model" not in self.model.header.by_key

    @cached_property
    def shape(self) -> str:
        """bundled, trunk-only, sidecar or donor."""
        if self.is_draft:
            return "sidecar"
        if not self.blocks and (self.has_trunk or not self.unmarked):
            return "trunk-only"
        if self.has_trunk:
            return "bundled"
        return "donor" if self.is_donor else "sidecar"

    @cached_property
    def lost_layers(self) -> tuple[int, ...]:
        """Layer numbers below the last trunk layer that have no tensor (at most the first hundred)."""
        out: list[int] = []
        there = sorted({*self.trunk, *self.blocks})
        before = -1
        last = max(self.trunk - set(self.unmarked), default=-1)
        if self.unmarked and self.has_trunk:  # the header was believed in this case
            last = max(last, (self.block_count or 0) - self.promised - 1)
        for n in (*(n for n in there if n <= last), last + 1):
            if len(out) >= 100:
                break
            out += range(before + 1, min(n, before + 101))
            before = n
        return tuple(out)

    @cached_property
    def gone(self) -> tuple[int, ...]:
        """Layers of MTP blocks that are missing entirely while others remain: between those, or where the header says.

        The header is believed when it says where the trunk ends and the remaining blocks come after that.
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

    @cached_property
    def all_blocks(self) -> tuple[int, ...]:
        """The blocks' layers, including those that are missing entirely."""
        return tuple(sorted((*self.blocks, *self.gone)))

    @cached_property
    def _promised_layers(self) -> tuple[int, ...]:
        """Layers that the count and the key together call MTP blocks, and that have no `nextn.*` tensor.

        Empty where the key promises more than the family allows (the key itself is wrong then), where the header's
        layers are not those in the file, and where a trunk may carry the key without a block.
        """
        if self.block_count is None or not 0 < self.promised <= (self.family.max_blocks if self.family else 0):
            return ()
        first, there = self.block_count - self.promised, self.layers.keys()
        if first < 1 or max(there, default=-1) != self.block_count - 1 or any(n < first for n in self.blocks):
            return ()
        if not self.promise_counts and any(n < first for n in self.trunk):
            return ()
        layers = range(first, self.block_count)
        return tuple(n for n in layers if n in self.trunk) if all(n in there for n in layers) else ()

    @cached_property
    def unmarked(self) -> tuple[int, ...]:
        """Layers of MTP blocks that lost all of their `nextn.*` tensors.

        A leftover key with the trunk's own layer count looks the same at first: it calls the last trunk layers
        blocks. So a trunk's layers are only taken for blocks when a donor says where its trunk ends, when nextn noted
        that it attached them, or when they cannot be the trunk's.
        """
        layers = self._promised_layers
        if not layers or self.blocks or not any(n < layers[0] for n in self.trunk):
            return layers
        if self.told in (layers[0], self.block_count):  # any other number is of a trunk of another depth
            return layers if self.told == layers[0] else ()
        noted = self.model.header.get(TENSOR_NAMES)
        if isinstance(noted, list) and any(str(name).startswith(f"blk.{layers[0]}.") for name in noted):
            return layers
        every = self.model.arch_int("full_attention_interval")
        recurrent = [n for n in layers if every > 1 and (n + 1) % every]
        return layers if any(not any(name.startswith("ssm_") for name in self.layers[n]) for n in recurrent) else ()

    @property
    def could_be_blocks(self) -> tuple[int, ...]:
        """Trunk layers that may be blocks without their marks: they have everything else that the family needs."""
        rules = self.family.rules if self.family else ()
        find = self.model.arch_value
        return tuple(
            n for n in self._promised_layers
            if all(name.startswith(MARK) for name in missing(rules, self.layers[n], find))
        )  # fmt: skip

    def telling(self, n_trunk: int | None) -> Anatomy:
        """The same, with the number of trunk layers that a donor gives (None: it gives none)."""
        return self if n_trunk is None else replace(self, told=n_trunk)

    def is_promised(self, layer: int) -> bool:
        """Whether a layer is an MTP block, or the header calls it one."""
        return layer in self.all_blocks or layer in self._promised_layers

    @cached_property
    def agreed_trunk(self) -> int | None:
        """A sidecar's number of trunk layers where count and arrays agree but its block's layer number disagrees."""
        if self.has_trunk or not self.blocks or self.block_count is None:
            return None
        n, first = len(self.all_blocks), self.all_blocks[0]
        agree = self.block_count in self.array_lengths and first + n not in self.array_lengths
        return self.block_count - n if agree and 0 < self.block_count - n != first else None

    @cached_property
    def n_trunk(self) -> int:
        """Number of trunk layers by their tensors; for a sidecar, of the layers before its block."""
        if self.trunk:
            return max(self.trunk) + 1
        return self.all_blocks[0] if self.blocks else 0

    @property
    def whole_blocks(self) -> bool:
        """Whether every block has its unmistakable mark."""
        return all(f"blk.{n}.{EH_PROJ}" in self.model.tensors for n in self.blocks)

    @cached_property
    def array_lengths(self) -> set[int]:
        """Lengths of the per-layer arrays in the header."""
        found = (self.model.header.by_key.get(f"{self.arch}.{suffix}") for suffix in per_layer_arrays(self.arch))
        return {kv.n_items for kv in found if kv is not None and kv.type is KVType.ARRAY and kv.n_items is not None}

    @property
    def only_loads(self) -> bool:
        """Whether engines load such a block but never draft with it."""
        return self.arch in LOADS_ONLY

    @property
    def n_nextn(self) -> int:
        """Number of MTP blocks, complete or not; for a draft model of its own, of all its layers."""
        return len(self.layers) if self.is_draft else len(self.blocks)

    @property
    def declared_trunk(self) -> int:
        """Number of trunk layers by the header; 0 where it says nothing useful."""
        return max(0, (self.block_count or 0) - self.promised)

    @property
    def n_layer_trunk(self) -> int:
        """Number of trunk layers to show: those in the file, or what its header says when there are none."""
        if self.is_draft:
            return 0
        return self.n_trunk if self.layers else self.declared_trunk

    @property
    def home(self) -> int | None:
        """The layer number where the first block belongs, after its trunk; None: nothing in the file says."""
        if self.has_trunk or not self.blocks:
            return self.n_trunk
        if self.all_blocks[0] == 0:  # numbered from 0, without its trunk
            said = (self.block_count or 0) - len(self.all_blocks)
            return said if said > 0 else None
        return self.agreed_trunk or self.all_blocks[0]

    def of_block(self, name: str) -> bool:
        """Whether a tensor belongs to an MTP block's layer; to a draft of its own, all of them do."""
        return self.is_draft or split_name(name)[0] in self._block_set

    def of_trunk(self, name: str) -> bool:
        """Whether a tensor belongs to the model apart from its block."""
        return name not in DRAFT_ROOTS and not self.of_block(name)

    def trunk_table(self, file: GGUFFile) -> TensorTable:
        """The tensors of a file of the model that belong to the model apart from its block; its own table if all do."""
        table, kept = file.header.tensors, self.trunk_rows(file)
        return table if len(kept) == len(table) else table.rows(kept)

    def other_rows(self, file: GGUFFile) -> tuple[int, int] | None:
        """The first and the last row of the file's other tensors, None where there are none."""
        kept = bytearray(len(file.header.tensors))
        for row in self.trunk_rows(file):
            kept[row] = True
        first = kept.find(0)
        return None if first < 0 else (first, kept.rfind(0))

    def trunk_rows(self, file: GGUFFile) -> array[int]:
        """The rows of the file's tensors that belong to the model apart from its block, in order."""
        no = self._places.get(id(file))
        if no is None:
            no = self.model.files.index(file)
        known = self._trunk_rows.get(no)
        if known is None:
            known = self._trunk_rows[no] = self._found_rows(no)
        return known

    @cached_property
    def _trunk_rows(self) -> dict[int, array[int]]:
        return {}

    def _found_rows(self, no: int) -> array[int]:
        table = self.model.files[no].header.tensors
        roots = {row for name in DRAFT_ROOTS if (row := table.row(name)) is not None}
        layers = self.layers.of_rows[self._starts[no] : self._starts[no + 1]]
        blocks = self._block_set
        return array("I", (row for row, n in enumerate(layers) if n not in blocks and row not in roots))

    @cached_property
    def _places(self) -> dict[int, int]:
        return {id(file): no for no, file in enumerate(self.model.files)}  # the model holds them: ids stay theirs

    @cached_property
    def _starts(self) -> list[int]:
        return list(accumulate((len(file.header.tensors) for file in self.model.files), initial=0))

    @cached_property
    def _block_set(self) -> frozenset[int]:
        return frozenset(self.blocks)

    def holds_block(self, file: GGUFFile) -> bool:
        """Whether a file of the model holds a tensor of its block."""
        return any(map(self.of_block, file.header.tensors.names()))

    @cached_property
    def rows_of_block(self) -> Sequence[int]:
        """Whether each tensor of the model belongs to an MTP block's layer, in the order of its files."""
        if self.is_draft:
            return array("b", [True]) * len(self.layers.of_rows)
        of_rows = self.layers.of_rows
        if len(of_rows) >= LARGE:
            from ..gguf import bulk  # loads numpy

            return bulk.are_among(of_rows, self._block_set)
        return array("b", map(self._block_set.__contains__, of_rows))
