"""Donors that leave out what their trunk knows: a GGUF without keys, block tensors without a config.json.

A GGUF of nothing but a block may lack even its architecture, and a lone `mtp.safetensors` has no sizes beside it. Both
are as good as any donor once the trunk is known: its header gives architecture and sizes, and the shapes of the
tensors are checked against it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

from ..archs import family_of
from ..archs.base import Family, listed
from ..errors import FormatError
from ..gguf.files import Model
from ..gguf.known import ARCHITECTURE
from ..gguf.kv import KV, KVType
from ..layouts.donor_check import n_layer_trunk, n_vocab
from ..remote.address import parse_source
from ..remote.opening import Opened
from ..sources.checkpoint import CONFIG, Checkpoint, plain_name

_SAFETENSORS = ".safetensors"
# config.json key -> the key after `{arch}.` that has the same value in every family
_SAME = {
    "hidden_size": "embedding_length",
    "num_attention_heads": "attention.head_count",
    "num_key_value_heads": "attention.head_count_kv",
    "head_dim": "attention.key_length",
    "v_head_dim": "attention.value_length",
    "kv_lora_rank": "attention.kv_lora_rank",
    "q_lora_rank": "attention.q_lora_rank",
    "indexer_n_heads": "attention.indexer.head_count",
    "indexer_head_dim": "attention.indexer.key_length",
}


def bare_checkpoint(donor: str | Path, trunk: Model) -> Opened | None:
    """A local safetensors file, or a folder of some, without a config.json; None for anything else.

    Raises UnsupportedModel for a trunk of an unknown family, FormatError for files without a layer of a block.
    """
    place = parse_source(donor)
    if not isinstance(place, Path):
        return None
    folder = place.parent if place.suffix == _SAFETENSORS else place
    if os.path.lexists(folder / CONFIG) or not os.path.isdir(folder):  # noqa: PTH112 - Path.is_dir may raise
        return None
    if folder != place and not os.path.exists(place):  # noqa: PTH110 - Path.exists may raise
        return None
    names = (place.name,) if folder != place else tuple(sorted(path.name for path in place.glob(f"*{_SAFETENSORS}")))
    if not names or (folder == place and any(place.glob("*.gguf"))):
        return None
    return Opened(str(place), None, with_config_of(Checkpoint(folder, files=names), trunk, place))


def with_config_of(bare: Checkpoint, trunk: Model, place: Path) -> Checkpoint:
    """Tensors without a config.json, which are at `place`, with the sizes of their trunk.

    Raises UnsupportedModel for a trunk of an unknown family, FormatError for files without a layer of a block.
    """
    family = family_of(trunk.architecture, trunk.entry)
    n_trunk = n_layer_trunk(trunk)
    if family.behind_trunk:
        layers = _layers(family, bare.weight_map)
        if not layers:
            raise FormatError(f"no tensor in it is named {family.prefixes[0]}layers.N.*", path=place)
        n_trunk = min(layers)
    return replace(bare, assumed=_config(trunk, family, n_trunk))


def _layers(family: Family, names: Iterable[str]) -> set[int]:
    """The layers of the tensors, under any of the family's prefixes."""
    starts = "|".join(re.escape(prefix) for prefix in family.prefixes)
    found = (re.match(rf"(?:{starts})layers\.([0-9]{{1,6}})\.", plain_name(name)) for name in names)
    return {int(match[1]) for match in found if match}


def _config(trunk: Model, family: Family, n_trunk: int) -> dict[str, Any]:
    """What config.json would say, as far as the trunk's header tells and reading a block needs."""
    found = {key: _one(trunk.arch_value(suffix)) for key, suffix in _SAME.items()}
    rows = family.header.rows if family.header is not None else ()
    found |= {row.where: trunk.arch_value(row.suffix) for row in rows if isinstance(row.where, str)}
    rope, key = (_one(trunk.arch_value(suffix)) for suffix in ("rope.dimension_count", "attention.key_length_mla"))
    if isinstance(rope, int) and isinstance(key, int):
        found |= {"qk_nope_head_dim": key - rope, "v_head_dim": trunk.arch_value("attention.value_length_mla")}
    slides, heads = (listed(trunk.arch_value(f"attention.{x}")) for x in ("sliding_window_pattern", "head_count_kv"))
    found["swa_num_key_value_heads"] = next((n for n, one in zip(heads, slides, strict=False) if one), None)
    found |= {
        "architectures": list(family.classes[:1]), "num_hidden_layers": n_trunk, "vocab_size": n_vocab(trunk)
    }  # fmt: skip
    return {key: value for key, value in found.items() if value is not None}


def _one(value: Any) -> Any:
    """The number of a per-layer array whose used entries agree; anything else as it is."""
    different = {one for one in listed(value) if one}
    return different.pop() if len(different) == 1 else value


def named_as(model: Model, trunk: Model) -> Model:
    """`model`, with the trunk's architecture where it names none."""
    first, *others = model.files
    if ARCHITECTURE in first.header.by_key or any(misfit.kv.key == ARCHITECTURE for misfit in first.header.misfits):
        return model
    kvs = first.header.kvs.inserted(0, KV.make(ARCHITECTURE, KVType.STRING, trunk.architecture))
    return Model((replace(first, header=replace(first.header, kvs=kvs)), *others))
