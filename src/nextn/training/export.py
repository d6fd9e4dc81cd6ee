"""States as speculators (0.9.0) reads them offline, to train an EAGLE-3 draft on many GPUs.

In the folder:

- `data`: a dataset as Hugging Face's `datasets` saves it, a row per text with `input_ids`, `loss_mask` (1 for the
  answer's tokens) and `seq_len`, and `hidden_states/hs_N.safetensors` for row N with `token_ids` [tokens] and
  `hidden_states` [tokens, taps + 1, hidden]: the inputs of the tapped layers, and what the last layer puts out.
- `trunk`: config.json and model.safetensors with the trunk's embeddings, last norm and output head in float32. Only
  sizes are read from config.json; it calls itself a llama, since a GGUF's norms multiply by their weights as stored,
  as llama's do.

Source of the format: speculators/train/data.py (ArrowDataset, FileTransfer) and speculators/utils/loading.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..archs.training import PLAIN
from ..block.anatomy import Anatomy
from ..errors import OutputExists, TrainingMissing, UnsupportedFormat, UsageError
from ..ggml.quantize import can_read
from ..gguf.files import Model
from ..progress import Say
from ..sources.ranges import Reader
from ..sources.rows import GGUFRows
from ..writing.scratch import scratch_folder
from ..writing.system import System, explained, sync_folder
from .answers import Array, pieces
from .libraries import installing
from .states import Split, States

DATA, TRUNK, HIDDEN = "data", "trunk", "hidden_states"
_ARROW = "data-00000-of-00001.arrow"
_ROWS_AT_A_TIME = 512
_SAY_EVERY = 200
_MATRICES = {  # speculators' name -> GGUF's; the head falls back to the embeddings
    "model.embed_tokens.weight": ("token_embd.weight",),
    "model.norm.weight": ("output_norm.weight",),
    "lm_head.weight": ("output.weight", "token_embd.weight"),
}


@dataclass(frozen=True)
class Exported:
    """What an export holds."""

    folder: Path
    n_texts: int
    n_tokens: int
    n_bytes: int
    command: tuple[str, ...]  # that trains from it


def export_taps(taps: tuple[int, ...], n_layer: int) -> tuple[int, ...]:
    """The layer inputs that an export holds: those of the draft, and of one layer more than there are."""
    return (*taps, n_layer)


def check_export(folder: Path) -> None:
    """To be called before hours of work. Raises OutputExists for a folder in use, TrainingMissing without pyarrow."""
    if os.path.lexists(folder) and not (folder.is_dir() and not any(folder.iterdir())):
        raise OutputExists(f"{folder}: this already exists, and nextn never overwrites; name a new folder.")
    try:
        import pyarrow  # noqa: F401
    except ImportError as error:
        raise TrainingMissing(
            f"{folder}: --export needs pyarrow, not installed here; {installing('pyarrow')}."
        ) from error


def export(trunk: Model, states: States, folder: Path, say: Say) -> Exported:
    """Write `folder`, which appears under its name when it is complete.

    Raises UsageError for states without the last layer's output, UnsupportedFormat for a trunk whose matrices ggml
    cannot decode, and what `check_export` and writing raise.
    """
    check_export(folder)
    taps = states.manifest.taps or []
    if len(taps) < 2 or taps[-1] != _n_layer(trunk):
        raise UsageError(
            f"{states.folder}: these states lack what the last layer puts out; run 'nextn train --export' with a new "
            "--work folder."
        )
    folder = folder.absolute()
    folder.parent.mkdir(parents=True, exist_ok=True)
    with scratch_folder("export", folder.parent) as scratch:
        made = scratch / "export"
        (made / DATA / HIDDEN).mkdir(parents=True)
        (made / TRUNK).mkdir()
        n_texts, n_tokens = _texts(states, made / DATA, say)
        say("the trunk's embeddings, norm and head")
        _trunk(trunk, made / TRUNK)
        _sync(made)
        n_bytes = sum(path.stat().st_size for path in made.rglob("*") if path.is_file())
        with explained(folder, "publish it"):
            made.rename(folder)
        sync_folder(folder.parent, System())
    command = (
        "python", "-m", "speculators.train", "--speculator-type", "eagle3", "--draft-arch", PLAIN, "--norm-before-fc",
        "--full-attention-indices", "0", "--mask-token-id", "0", "--on-missing", "raise",
        "--verifier-name-or-path", str(folder / TRUNK), "--data-path",
        str(folder / DATA), "--target-layer-ids", *map(str, taps[:-1]),
    )  # fmt: skip
    return Exported(folder, n_texts, n_tokens, n_bytes, command)


def _n_layer(trunk: Model) -> int:
    return Anatomy.of(trunk).n_layer_trunk


# -- texts ------------------------------------------------------------------------------------------------------------


def _texts(states: States, folder: Path, say: Say) -> tuple[int, int]:
    """The dataset and the files of hidden states: the texts to fit first, then those held out."""
    import pyarrow as pa

    integers = pa.list_(pa.int64())
    schema = pa.schema([("input_ids", integers), ("loss_mask", integers), ("seq_len", pa.int64())])
    rows: dict[str, list[Any]] = {name: [] for name in schema.names}
    n_texts = n_tokens = 0
    with explained(folder / _ARROW, "write it"), pa.ipc.new_stream(str(folder / _ARROW), schema) as stream:
        for ids, features, n_prompt in _sequences(states):
            arrays: dict[str, Array] = {"token_ids": ids, "hidden_states": features}
            with (folder / HIDDEN / f"hs_{n_texts}.safetensors").open("xb") as file:
                for piece in pieces(arrays):
                    file.write(piece)
            rows["input_ids"].append(ids)
            rows["loss_mask"].append((np.arange(len(ids)) >= n_prompt).astype(np.int64))
            rows["seq_len"].append(len(ids))
            n_texts, n_tokens = n_texts + 1, n_tokens + len(ids)
            if n_texts % _SAY_EVERY == 0:
                say(f"{n_texts:,} texts written")
            if len(rows["seq_len"]) == _ROWS_AT_A_TIME:
                stream.write_batch(pa.record_batch(rows, schema))
                rows = {name: [] for name in schema.names}
        if rows["seq_len"]:
            stream.write_batch(pa.record_batch(rows, schema))
    whole = {"dtype": "int64", "_type": "Value"}
    several = {"feature": whole, "_type": "List"}
    columns = {"input_ids": several, "loss_mask": several, "seq_len": whole}
    _json(folder / "dataset_info.json", {"citation": "", "description": "", "features": columns, "homepage": "",
                                         "license": ""})  # fmt: skip
    fingerprint = states.manifest.trunk.fingerprint[:16]
    _json(folder / "state.json", {
        "_data_files": [{"filename": _ARROW}], "_fingerprint": fingerprint, "_format_columns": None,
        "_format_kwargs": {}, "_format_type": "torch", "_output_all_columns": False, "_split": None,
    })  # fmt: skip
    return n_texts, n_tokens


def _sequences(states: States) -> Iterator[tuple[Array, Array, int]]:
    """(ids int64 [tokens], states f16 [tokens, taps, hidden], tokens of the prompt) of each text with an answer."""
    splits: tuple[Split, ...] = ("fit", "held")
    for split in splits:
        for chunk in states.chunks(split):
            for number in range(chunk.n_sequences):
                found = chunk.sequence(number)
                n_prompt = int(chunk.arrays["n_prompt"][number])
                if len(found["ids"]) > n_prompt:
                    yield np.asarray(found["ids"], "<i8"), np.ascontiguousarray(found["features"]), n_prompt


# -- the trunk --------------------------------------------------------------------------------------------------------


def _trunk(trunk: Model, folder: Path) -> None:
    chosen = {}
    for name, sources in _MATRICES.items():
        source = next((each for each in sources if each in trunk.tensors), None)
        if source is None:
            raise UnsupportedFormat(f"the model has no '{sources[0]}'", path=trunk.entry)
        file, info = trunk.tensors[source]
        if info.type is None or not can_read(info.type):
            what = f"'{source}' is stored as {info.type_name}, which ggml cannot decode"
            raise UnsupportedFormat(what, path=file.path)
        file.value_range(info)
        chosen[name] = (GGUFRows(file, info), tuple(reversed(info.ne)))
    table, end = {}, 0
    for name, (rows, shape) in chosen.items():
        start, end = end, end + 4 * rows.n_rows * rows.n_per_row
        table[name] = {"dtype": "F32", "shape": list(shape), "data_offsets": [start, end]}
    head = json.dumps({"__metadata__": {"format": "pt"}, **table}).encode()
    head += b" " * (-len(head) % 8)
    path = folder / "model.safetensors"
    with explained(path, "write it"), path.open("xb") as out, Reader() as reader:
        out.write(len(head).to_bytes(8, "little") + head)
        for rows, _ in chosen.values():
            for chunk in rows.chunks(reader):
                out.write(np.ascontiguousarray(chunk, "<f4").tobytes())
    _json(folder / "config.json", trunk_config(trunk))


def trunk_config(trunk: Model) -> dict[str, Any]:
    """The sizes of a trunk, as transformers' configuration of a llama."""

    def largest(suffix: str, default: int) -> int:
        value = trunk.arch_value(suffix)
        counts = value if isinstance(value, list) else [value]
        return max((n for n in counts if isinstance(n, int) and n > 0), default=default)

    hidden = trunk.arch_int("embedding_length")
    n_head = largest("attention.head_count", max(1, hidden // 64))
    _, info = trunk.tensors["token_embd.weight"]
    ids = {name: trunk.header.get(f"tokenizer.ggml.{name}_token_id") for name in ("bos", "eos")}
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": PLAIN,
        "hidden_size": hidden,
        "intermediate_size": largest("feed_forward_length", 3 * hidden),
        "num_hidden_layers": _n_layer(trunk),
        "num_attention_heads": n_head,
        "num_key_value_heads": largest("attention.head_count_kv", n_head),
        "head_dim": trunk.arch_int("attention.key_length") or hidden // n_head,
        "vocab_size": info.ne[1],
        "rms_norm_eps": float(trunk.arch_value("attention.layer_norm_rms_epsilon") or 1e-5),
        "rope_theta": float(trunk.arch_value("rope.freq_base") or 10000.0),
        "max_position_embeddings": trunk.arch_int("context_length") or 2048,
        "hidden_act": "silu",
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        **{f"{name}_token_id": value for name, value in ids.items() if isinstance(value, int)},
    }


def _json(path: Path, value: dict[str, Any]) -> None:
    with explained(path, "write it"), path.open("x", encoding="utf-8") as file:
        file.write(json.dumps(value, indent=1) + "\n")


def _sync(folder: Path) -> None:
    """fsync every file and folder below."""
    with explained(folder, "write it"):
        for path in (*folder.rglob("*"), folder):
            fd = os.open(path, os.O_RDONLY)
            try:
                os.fsync(fd)
            finally:
                os.close(fd)
