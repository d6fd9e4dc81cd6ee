"""What is in a model: shape, block, problems, and what would run it. Headers only, no vocabulary decoded."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..archs import FAMILIES, per_layer_arrays
from ..archs.others import ASSISTANTS, LOADS_ONLY, OTHER_USE
from ..block.model import SHARED_MARKS, block_layers, layer_of, suffix_of
from ..errors import NextnError
from ..gguf.files import Model, open_model
from ..gguf.header import pad_to
from ..gguf.kv import KVType, printable
from ..layouts.donor_check import n_layer_trunk
from ..layouts.naming import MAIN_FORBIDDEN


@dataclass(frozen=True)
class Inspection:
    """A model as it is on disk."""

    model: Model
    architecture: str
    n_layer_trunk: int
    n_layer_nextn: int
    shape: str  # "bundled", "trunk-only", "sidecar" or "donor"
    block_bytes: int
    problems: tuple[str, ...]
    hints: tuple[str, ...]
    types: dict[str, int]  # type name -> stored bytes
    sidecars: tuple[Path, ...] = ()
    runs_on: dict[str, str] = field(default_factory=dict)
    label: str | None = None  # the address of a remote model
    revision: str | None = None  # its commit
    bytes_downloaded: int = 0
    block_sha256: str | None = None  # where it was asked for: what `nextn attach --expect` compares

    @property
    def where(self) -> str:
        """The path to load, or the address."""
        return self.label or str(self.model.entry)

    def to_json(self) -> dict[str, Any]:
        """JSON as in the schema of inspect."""
        header = self.model.header
        return {
            "version": 1,
            "path": self.where,
            "revision": self.revision,
            "name": header.get("general.name"),
            "architecture": self.architecture,
            "n_layer_trunk": self.n_layer_trunk,
            "n_layer_nextn": self.n_layer_nextn,
            "shape": self.shape,
            "block_bytes": self.block_bytes,
            "size_bytes": self.model.size_bytes,
            "n_files": len(self.model.files),
            "n_tensors": len(self.model.tensors),
            "n_vocab": _n_tokens(self.model),
            "gguf_version": header.version,
            "alignment": header.alignment,
            "types": self.types,
            "provenance": provenance(self.model),
            "sidecars": [str(path) for path in self.sidecars],
            "runs_on": self.runs_on,
            "problems": list(self.problems),
            "hints": list(self.hints),
            "block_sha256": self.block_sha256,
            "bytes_downloaded": self.bytes_downloaded,
        }


def _n_tokens(model: Model) -> int | None:
    tokens = model.header.by_key.get("tokenizer.ggml.tokens")
    return tokens.n_items if tokens is not None and tokens.type is KVType.ARRAY else None


def provenance(model: Model) -> dict[str, str] | None:
    """Where the block came from, when nextn attached it."""
    keys = ("donor", "donor_revision", "donor_sha256", "tool_version")
    found = {key: str(model.header.get(f"nextn.{key}")) for key in keys if f"nextn.{key}" in model.header.by_key}
    return found or None


def inspect(path: Path | str) -> Inspection:
    """Look into a single GGUF, any shard of a set, or a folder with one set.

    Raises FormatError and its kin for files that cannot be read at all; everything else is a problem in the
    result.
    """
    return inspect_model(open_model(path))


def inspect_model(model: Model, *, neighbours: bool = True) -> Inspection:
    """Look into a model that is open; with `neighbours`, also for its sidecar in the same folder."""
    arch = model.architecture
    names = list(model.tensors)
    layers = block_layers(names)
    promised = model.arch_int("nextn_predict_layers")
    if arch in OTHER_USE:
        promised = 0
    has_trunk = any(layer_of(name) == 0 for name in names) and layers[:1] != [0]
    n_trunk = layers[0] if layers else n_layer_trunk(model) if arch not in OTHER_USE else model.arch_int("block_count")
    shape = "trunk-only"
    if arch in ASSISTANTS:
        return _assistant(model)
    if layers:
        shape = "bundled" if has_trunk else "sidecar" if "token_embd.weight" in model.tensors else "donor"
    problems: list[str] = []
    hints: list[str] = []
    sizes = _sizes(model, problems)
    _check_counts(model, layers, promised, has_trunk, problems)
    _check_block(model, layers, shape, problems)
    _check_arrays(model, len(layers) or promised, n_trunk, problems)
    _check_holes(model, problems)
    _check_names(model, shape, problems, hints)
    sidecars = _sidecars(model) if shape == "trunk-only" and neighbours else ()
    types: Counter[str] = Counter()
    for _, info in model.items():
        types[info.type_name] += sizes.get(info.name, 0)
    return Inspection(
        model=model,
        architecture=arch,
        n_layer_trunk=n_trunk,
        n_layer_nextn=len(layers),
        shape=shape,
        block_bytes=sum(
            size
            for name, size in sizes.items()
            if layers and (n := layer_of(name)) is not None and layers[0] <= n <= layers[-1]
        ),
        problems=tuple(printable(problem, 1000) for problem in problems),
        hints=tuple(hints),
        types=dict(types.most_common()),
        sidecars=sidecars,
        runs_on=_with_measured(_runs_on(arch, shape, bool(sidecars)), model, shape, bool(sidecars)),
    )


def _sizes(model: Model, problems: list[str]) -> dict[str, int]:
    sizes = {}
    for file, info in model.items():
        try:
            sizes[info.name] = file.stored_size(info)
        except NextnError as error:
            if not any("truncated" in problem for problem in problems):
                problems.append(str(error))
    return sizes


def _assistant(model: Model) -> Inspection:
    """A draft of Gemma 4: all of its layers draft, over the target's embeddings and KV cache."""
    problems: list[str] = []
    hints: list[str] = []
    sizes = _sizes(model, problems)
    _check_names(model, "sidecar", problems, hints)
    types: Counter[str] = Counter()
    for _, info in model.items():
        types[info.type_name] += sizes.get(info.name, 0)
    trunk = ASSISTANTS[model.architecture]
    words = f"drafts with it beside a model of '{trunk}' (-m MODEL -md this file; read in its source, not run)"
    hints.append(f"place it beside its model with 'nextn attach MODEL --from {model.entry.name}'")
    return Inspection(
        model=model, architecture=model.architecture, n_layer_trunk=0, n_layer_nextn=model.arch_int("block_count"),
        shape="sidecar", block_bytes=sum(sizes.values()), problems=tuple(problems), hints=tuple(hints),
        types=dict(types.most_common()), runs_on={"llama.cpp": words, "ik_llama.cpp": words},
    )  # fmt: skip


def _check_counts(model: Model, layers: list[int], promised: int, has_trunk: bool, problems: list[str]) -> None:
    arch, count = model.architecture, model.arch_int("block_count")
    key = f"{arch}.nextn_predict_layers"
    if promised and not layers:
        problems.append(
            f"'{key}' promises {promised} MTP block(s), and none is there: llama.cpp refuses to load it, or aborts "
            "when it drafts; put a block on with 'nextn attach --layout bundle'."
        )
    if layers and not promised:
        problems.append(f"an MTP block is there (layer {layers[0]}), and '{key}' is missing or 0: engines refuse it.")
    if layers and promised and promised != len(layers):
        problems.append(f"'{key}' is {promised}, and {len(layers)} MTP block(s) are there.")
    if layers and layers[-1] + 1 != count:
        problems.append(
            f"'{arch}.block_count' is {count}, and should be {layers[-1] + 1}: trunk layers plus MTP blocks."
        )
    if has_trunk:
        upto = layers[0] if layers else count - promised
        there = {n for name in model.tensors if (n := layer_of(name)) is not None}
        n_lost = upto - sum(n < upto for n in there)  # `upto` may be an absurd number: no list of that length
        if n_lost > 0:
            first = next(n for n in range(upto) if n not in there)
            problems.append(f"{n_lost:,} of {upto:,} trunk layers have no tensors (the first is {first}).")
        if not layers and there and max(there) >= count:
            problems.append(f"layer {max(there)} has tensors, and '{arch}.block_count' is {count}.")


def _check_block(model: Model, layers: list[int], shape: str, problems: list[str]) -> None:
    family = FAMILIES.get(model.architecture)
    if family is not None:
        for layer in layers:
            there = {suffix_of(name) for name in model.tensors if layer_of(name) == layer}
            there |= {name for name in model.tensors if layer_of(name) is None}
            lost = [rule.target for rule in family.rules if not rule.optional and rule.target not in there]
            if lost:
                problems.append(f"the MTP block in layer {layer} is not whole: {', '.join(lost[:4])} missing.")
    norm = "output_norm.weight"
    if shape == "sidecar" and norm not in model.tensors and (family is None or norm in family.root):
        problems.append(f"the sidecar has no '{norm}': llama.cpp refuses it.")
    if any(mark in kv.key for kv in model.kvs for mark in SHARED_MARKS):
        problems.append(
            "the sidecar is meant to share the target's embeddings, which only forks of llama.cpp do; "
            "make a full one with 'nextn attach --layout sidecar'."
        )


def _check_arrays(model: Model, n_nextn: int, n_trunk: int, problems: list[str]) -> None:
    family = FAMILIES.get(model.architecture)
    wanted = n_trunk + n_nextn
    for suffix in per_layer_arrays(model.architecture):
        kv = model.header.by_key.get(f"{model.architecture}.{suffix}")
        longer = family is not None and suffix in family.longer_arrays and (kv.n_items or 0) > wanted if kv else False
        if kv is not None and kv.type is KVType.ARRAY and kv.n_items != wanted and not longer:
            problems.append(
                f"'{kv.key}' has {kv.n_items:,} entries, and engines demand {wanted}: one for each layer, "
                "MTP blocks included."
            )


def _check_holes(model: Model, problems: list[str]) -> None:
    for file in model.files:
        header = file.header
        at = 0
        for info in header.tensors:
            if info.offset != at:
                problems.append(
                    f"{file.path.name}: tensor '{info.name}' starts at {info.offset:,} instead of {at:,} "
                    "of the data section: llama.cpp refuses holes and reordered data."
                )
                break
            size = header.stored_sizes[info.name]
            if size is None:
                break
            at += pad_to(size, header.alignment)


def _check_names(model: Model, shape: str, problems: list[str], hints: list[str]) -> None:
    if shape in ("bundled", "trunk-only"):
        for mark in MAIN_FORBIDDEN:
            if mark in model.entry.name:
                problems.append(
                    f"the name contains '{mark}': llama.cpp's -hf and --models-dir never take it for a model."
                )
                break
    if shape == "sidecar" and not model.entry.name.startswith("mtp-"):
        hints.append("the name does not start with 'mtp-': engines find this sidecar only when it is passed with -md.")
    long = next((name for name in model.tensors if len(name.encode("utf-8", "surrogateescape")) > 63), None)
    if long is not None:
        problems.append(f"the tensor name '{long[:40]}...' has more than 63 bytes: engines refuse it.")


def _sidecars(model: Model) -> tuple[Path, ...]:
    """Sidecars in the model's folder that could belong to it."""
    found = []
    for path in sorted(model.entry.parent.glob("mtp-*.gguf")):
        if path == model.entry:
            continue
        try:
            other = open_model(path)
            if not block_layers(list(other.tensors)):
                continue
            same = other.architecture == model.architecture
            width = other.arch_int("embedding_length") == model.arch_int("embedding_length")
        except NextnError:
            continue
        if same and width:
            found.append(path)
    return tuple(found)


def _with_measured(words: dict[str, str], model: Model, shape: str, has_sidecar: bool) -> dict[str, str]:
    """The words with what was measured of tiny models of this architecture in this layout."""
    from ..compat import measured

    layout = {
        "bundled": "shards" if model.is_sharded else "bundle",
        "sidecar": "sidecar",
        "trunk-only": "sidecar" if has_sidecar else "trunk-only",
    }.get(shape)
    found = {} if layout is None else measured(model.architecture, layout)
    return {
        engine: f"{said} (measured: {found[engine]})" if engine in found else said for engine, said in words.items()
    }


def _runs_on(arch: str, shape: str, has_sidecar: bool) -> dict[str, str]:
    """Engine -> what it does with this file."""
    family = FAMILIES.get(arch)
    if family is None:
        if arch in LOADS_ONLY:
            return {"llama.cpp": "loads it; no engine drafts with this architecture"}
        return {}
    if shape == "trunk-only":
        more = "drafts with the sidecar beside it (-md)" if has_sidecar else "runs it without MTP"
        return {"llama.cpp": more, "ik_llama.cpp": "runs it without MTP"}
    if shape == "donor":
        return dict.fromkeys(("llama.cpp", "ik_llama.cpp"), "cannot run it: attach it to a model")
    if shape == "sidecar":
        beside = "drafts with it beside its trunk (-m TRUNK -md this file)"
        words = (family.runs_on or {}).get("ik_llama.cpp", "")
        takes = "sidecar" in words and "no sidecar" not in words
        return {"llama.cpp": beside, "ik_llama.cpp": beside if takes else "takes no sidecar of this family"}
    return dict(family.runs_on or {})
