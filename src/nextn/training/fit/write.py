"""A fitted draft as a GGUF, by the plans that also write published drafts and blocks."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import Tensor

from ...archs.training import PLAIN
from ...block.draft_checkpoint import draft_from_checkpoint
from ...gguf.files import Model
from ...layouts.draft import plan_draft
from ...layouts.options import ExtractOptions, named_type
from ...layouts.places import model_name
from ...sources.checkpoint import CONFIG, open_checkpoint
from ...sources.ranges import FileRange, Reader
from ...sources.rows import CHUNK_ELEMENTS
from ...sources.scales import Seen
from ...writing.result import carry_out
from ...writing.scratch import scratch_folder
from .eagle3 import Eagle3

_CLASS = "LlamaForCausalLMEagle3"
TRAINED_HERE = "nextn train"  # where such a block comes from, as its header says


def write_eagle3(drafter: Eagle3, trunk: Model, taps: list[int], out: Path, type_name: str) -> Path:
    """The draft as the file `out`, matrices in `type_name`. Raises what `plan_draft` and writing raise."""
    with scratch_folder("fit", out.parent) as scratch:
        folder = publish_eagle3(drafter, trunk, taps, scratch / f"{model_name(trunk)}-EAGLE3")  # its general.name
        draft = draft_from_checkpoint(open_checkpoint(folder))
        assert draft is not None
        draft = replace(draft, block=replace(draft.block, label=TRAINED_HERE))
        plan = plan_draft(draft, trunk, ExtractOptions(type=named_type(type_name), out=out), local=True)
        return carry_out(plan, dry_run=False, progress=None).entry


def publish_eagle3(drafter: Eagle3, trunk: Model, taps: list[int], folder: Path) -> Path:
    """The draft as a checkpoint in SpecForge's layout; returns `folder`, which is made."""
    folder.mkdir(parents=True)
    shape, target = drafter.shape, drafter.target.cpu()
    tensors = {name: tensor.detach().float().cpu().contiguous() for name, tensor in drafter.arrays().items()}
    tensors["d2t"] = target - torch.arange(len(target))
    save_file(tensors, folder / "model.safetensors")
    config: dict[str, Any] = {
        "architectures": [_CLASS],
        "model_type": PLAIN,
        "hidden_size": shape.n_embd,
        "target_hidden_size": shape.n_embd,
        "num_hidden_layers": 1,
        "num_attention_heads": shape.n_head,
        "num_key_value_heads": shape.n_kv,
        "head_dim": shape.head_size,
        "intermediate_size": shape.n_ff,
        "rms_norm_eps": shape.eps,
        "rope_theta": shape.rope_base,
        "max_position_embeddings": trunk.arch_int("context_length", 2048),
        "vocab_size": drafter.embeddings.shape[0],
        "draft_vocab_size": len(target),
        "norm_before_fc": True,
        "eagle_aux_hidden_state_layer_ids": taps,
        "tie_word_embeddings": False,
        "hidden_act": "silu",
    }
    (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n")
    return folder


@dataclass(frozen=True)
class ArrayRows:
    """A tensor in memory as rows to be written."""

    values: NDArray[np.float32]  # [rows, values per row]

    read_bytes = 0
    spans = ()
    block_type = None

    @property
    def n_rows(self) -> int:
        """Total number of rows."""
        return len(self.values)

    @property
    def n_per_row(self) -> int:
        """Elements per row."""
        return int(self.values.shape[1])

    @property
    def ranges(self) -> list[FileRange]:
        """No file holds it."""
        return []

    def chunks(self, reader: Reader, seen: Seen | None = None) -> Iterator[NDArray[np.float32]]:
        """All rows in order."""
        step = max(1, CHUNK_ELEMENTS // self.n_per_row)
        for first in range(0, self.n_rows, step):
            rows = self.values[first : first + step]
            if seen is not None:
                seen(bytearray(rows.tobytes()))
            yield rows

    def blocks(self, reader: Reader, seen: Seen | None = None) -> Iterator[NDArray[np.uint8]]:
        """Not stored in any type."""
        raise NotImplementedError


def numpy_arrays(tensors: Mapping[str, Tensor]) -> dict[str, NDArray[np.float32]]:
    """On the CPU, float32."""
    return {name: tensor.detach().float().cpu().contiguous().numpy() for name, tensor in tensors.items()}
