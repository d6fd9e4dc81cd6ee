"""What a sidecar holds besides its block: root tensors, keys, its main type."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from ..archs.base import Family, Lookup
from ..archs.hparams import Config
from ..block.model import DRAFT_HEAD, Block
from ..errors import FormatError
from ..gguf.files import GGUFFile, Model
from ..gguf.kv import KV, KVType
from ..gguf.kv_table import KVTable, edit
from ..gguf.tensors import TensorInfo
from ..gguf.types import TensorType, file_type_for
from ..sources.checkpoint import CONFIG
from . import build
from .donor_check import other_experts
from .metadata import count_kv
from .parts import Part

_ROUTING = ("expert_used_count", "expert_group_count", "expert_group_used_count")  # go with the number of experts


def root_tensor(model: Model, name: str) -> tuple[GGUFFile, TensorInfo] | None:
    """A root tensor of the model, with the file that holds it."""
    return model.tensors.get(name)


def trunk_head(model: Model) -> tuple[GGUFFile, TensorInfo]:
    """The model's LM head: `output.weight`, or the embeddings when they are tied."""
    found = root_tensor(model, "output.weight") or root_tensor(model, "token_embd.weight")
    if found is None:
        raise FormatError("the model has neither 'output.weight' nor 'token_embd.weight'", path=model.entry)
    return found


def main_type_of(parts: Sequence[Part]) -> TensorType:
    """The type that holds most of the block's matrices."""
    weight = Counter[int]()
    for part in parts:
        if len(part.info.ne) > 1 and not part.info.name.endswith(DRAFT_HEAD):
            weight[part.info.type_id] += part.size_bytes
    winner = weight.most_common(1)[0][0] if weight else build.F32.id
    kind = TensorInfo("", (), winner, 0).type
    return kind if kind is not None else build.F32


def sidecar_kvs(kvs: Sequence[KV], main_type: TensorType, family: Family) -> KVTable:
    """The KV pairs of a bundled model without those that do not describe a sidecar."""
    of_trunk = tuple(f"{family.arch}.{start}" for start in family.sidecar_drops)
    out = edit(kvs, drop_prefixes=("split.", "quantize.imatrix.", "nextn.undo", *of_trunk))
    number = file_type_for(main_type)
    if number is None:
        return edit(out, drop=("general.file_type",))
    return edit(out, put=[KV.make("general.file_type", KVType.UINT32, number)])


def own_experts(block: Block, trunk: Model, family: Family) -> list[KV]:
    """The pairs of a sidecar whose block has another number of experts than `trunk`; none for the trunk's own."""
    experts = other_experts(block, trunk)
    if experts is None:
        return []
    find: Lookup = lambda suffix: None  # noqa: E731 - a donor that says nothing of them
    if block.model is not None:
        find = block.model.arch_value
    elif block.checkpoint is not None and family.header is not None:
        place = block.checkpoint.folder / CONFIG
        find = family.header.find(Config(block.checkpoint.text_config, place, block.n_layer_nextn))
    values = {suffix: find(suffix) for suffix in _ROUTING} | {"expert_count": experts}
    return [count_kv(trunk, suffix, n) for suffix, n in values.items() if isinstance(n, int)]


def sidecar_roots(
    model: Model, family: Family, wanted: TensorType | None, notes: list[str], *, with_head: bool
) -> list[Part]:
    """token_embd, output_norm and output from a model; a tied model has no output, and engines tie the sidecar as well.

    With a draft head in the block, engines never use `output`, so it is left out. Some families have no output_norm.
    """
    parts = []
    fixed = ((name, name != "output.weight") for name in family.root)
    for name, needed in (*fixed, *((name, False) for name in family.sidecar_extra)):
        found = root_tensor(model, name)
        if found is None and needed:
            raise FormatError(f"'{name}' is missing, and a sidecar cannot run without it", path=model.entry)
        if found is None or (name == "output.weight" and not with_head):
            continue
        file, info = found
        keep = len(info.ne) < 2
        parts.append(build.from_trunk(name, file, info, None if keep else wanted, notes))
    return parts
