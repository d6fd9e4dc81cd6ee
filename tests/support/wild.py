"""Files as people have them: a registry of inputs, how each is built, what nextn does with it, what the engine does.

`WILD` is the registry. A row builds its files from the shipped parts alone (`Parts`), within a fraction of a second.
The page "Which files exist in the wild, and what nextn does" is made from the rows, and tests run all of them.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from ggufmaker import KV, Tensor
from remake import copied, deepened, fused, in_nvfp4, pruned, remade, reordered, safetensors_part, tensors_of
from sick import rewrite

import nextn
from nextn.gguf.files import open_model
from nextn.layouts.metadata import OWN_KEYS
from nextn.sources.checkpoint import Checkpoint

ROOT = Path(__file__).resolve().parents[2]
DEMO = ROOT / "src" / "nextn" / "demo_data"
TRUNKS = ROOT / "tests" / "data" / "trunks"

# What the pinned engine (xllamacpp 2026.10.11549) does with a file that is loaded to draft: it drafts; it refuses with
# a message, or aborts; without MTP too, or only when it is asked to draft; or no engine is ever given such a file.
DRAFTS, REFUSES, NOT_LOADED = "drafts", "refuses", "-"


@dataclass(frozen=True)
class Given:
    """The files of a row."""

    path: Path  # what a user names
    trunk: Path | None = None  # the model that a block belongs to, where `path` is a sidecar or a donor
    donor: Path | None = None  # where the block comes from, where `path` is a trunk

    @property
    def launch(self) -> tuple[Path, Path | None]:
        """The model and the sidecar that an engine is given."""
        return (self.path, None) if self.trunk is None else (self.trunk, self.path)


@dataclass(frozen=True)
class Wild:
    """One kind of file."""

    group: str
    name: str
    what: str  # what people have
    nextn: str  # what nextn does, a sentence for the table
    make: Callable[[Parts, Path], Given]
    shape: str  # as inspect and doctor call it; "" where they refuse it
    found: tuple[str, ...] = ()  # what doctor finds, by id, notes left out
    engine: str = NOT_LOADED  # DRAFTS, REFUSES, or NOT_LOADED
    without_mtp: str = "runs"  # or "refuses"; of models that are loaded by themselves
    # layout -> "" (attach makes it, and the engine drafts with it) or a word of the sentence that refuses it
    attach: Mapping[str, str] = field(default_factory=dict)
    refused: str = ""  # a word of the sentence with which inspect refuses it


class Parts:
    """The shipped models and what is attached from them, each made once."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    q4 = DEMO / "tiny-qwen35-Q4_K_M.gguf"
    checkpoint = DEMO / "tiny-qwen35-mtp"
    moe = TRUNKS / "qwen35moe-BF16.gguf"
    glm = TRUNKS / "families" / "glm4moe-Q8_0.gguf"

    def _attached(self, trunk: Path, donor: Path, layout: str) -> Path:
        done = nextn.attach(trunk, donor, layout=layout, out=self.folder / trunk.stem / layout, remember=False)
        return done.sidecar or done.entry

    @cached_property
    def bundle(self) -> Path:
        """The trained model with its block."""
        return self._attached(self.q4, self.checkpoint, "bundle")

    @cached_property
    def sidecar(self) -> Path:
        """Its block in a file of its own."""
        return self._attached(self.q4, self.checkpoint, "sidecar")

    @cached_property
    def moe_checkpoint(self) -> Path:
        """A random checkpoint of four experts per layer."""
        from make_tiny_checkpoints import make_checkpoint

        return make_checkpoint("qwen35moe-experts", self.folder / "qwen35moe-experts-bf16")

    @cached_property
    def moe_bundle(self) -> Path:
        """A model of experts with its block."""
        return self._attached(self.moe, self.moe_checkpoint, "bundle")

    @cached_property
    def moe_sidecar(self) -> Path:
        """Its block in a file of its own."""
        return self._attached(self.moe, self.moe_checkpoint, "sidecar")

    @cached_property
    def glm_bundle(self) -> Path:
        """A model of a family whose loader takes the experts' gate and up only as two tensors."""
        from tiny_families import make_family

        return self._attached(self.glm, make_family("glm4moe", self.folder / "glm4moe"), "bundle")


# -- trunks that are not the donor's twin -----------------------------------------------------------------------------


TWICE = (0, 1, 2, 3, 0, 1, 2, 3)


def _deeper(parts: Parts, folder: Path) -> Given:
    return Given(deepened(parts.q4, folder / "Deeper-Q4_K_M.gguf", TWICE), donor=parts.checkpoint)


def _deeper_from_gguf(parts: Parts, folder: Path) -> Given:
    return Given(deepened(parts.q4, folder / "Deeper-Q4_K_M.gguf", TWICE), donor=parts.bundle)


def _beside_deeper(parts: Parts, folder: Path) -> Given:
    trunk = deepened(parts.q4, folder / "Deeper-Q4_K_M.gguf", TWICE)
    return Given(rewrite(parts.sidecar, folder / "mtp-Deeper.gguf"), trunk=trunk)


def _pruned(parts: Parts, folder: Path) -> Given:
    return Given(pruned(parts.moe, folder / "Pruned-BF16.gguf", 3), donor=parts.moe_checkpoint)


def _pruned_from_gguf(parts: Parts, folder: Path) -> Given:
    return Given(pruned(parts.moe, folder / "Pruned-BF16.gguf", 3), donor=parts.moe_bundle)


def _beside_pruned(parts: Parts, folder: Path) -> Given:
    trunk = pruned(parts.moe, folder / "Pruned-BF16.gguf", 3)
    return Given(rewrite(parts.moe_sidecar, folder / "mtp-Pruned.gguf"), trunk=trunk)


def _joined_by_hand(parts: Parts, folder: Path) -> Given:
    block = [one for one in tensors_of(parts.moe_bundle) if str(one[0]).startswith("blk.4.")]
    model = pruned(parts.moe_bundle, folder / "x.gguf", 3)
    trunk = [one for one in tensors_of(model) if not str(one[0]).startswith("blk.4.")]
    return Given(remade(model, folder / "Joined-MTP-BF16.gguf", [*trunk, *block]))


def _other_heads(parts: Parts, folder: Path) -> Given:
    out = []
    for name, ne, type_id, data in tensors_of(parts.bundle):
        if name == "blk.4.attn_k.weight":
            ne, data = (ne[0], 2 * ne[1]), data + data
        out.append((name, ne, type_id, data))
    return Given(remade(parts.bundle, folder / "Foreign-MTP-Q4_K_M.gguf", out))


TWINS = "Trunks that are not the donor's twin"
_ALL = {"sidecar": "", "bundle": "", "shards": "", "in-place": ""}
_ONLY_BESIDE = {"sidecar": "", "bundle": "a sidecar can", "shards": "a sidecar can", "in-place": "a sidecar can"}

# -- the experts' gate and up as one tensor ---------------------------------------------------------------------------


def _fused_block(parts: Parts, folder: Path) -> Given:
    return Given(fused(parts.moe_bundle, folder / "Fused-MTP-BF16.gguf", [4]))


def _fused_all(parts: Parts, folder: Path) -> Given:
    return Given(fused(parts.moe_bundle, folder / "Fused-MTP-BF16.gguf", range(5)))


def _fused_sidecar(parts: Parts, folder: Path) -> Given:
    return Given(fused(parts.moe_sidecar, folder / "mtp-Fused.gguf", [4]), trunk=copied(parts.moe, folder))


def _fused_trunk(parts: Parts, folder: Path) -> Given:
    return Given(fused(parts.moe, folder / "Fused-BF16.gguf", range(4)), donor=parts.moe_checkpoint)


def _fused_refused(parts: Parts, folder: Path) -> Given:
    layer = open_model(parts.glm_bundle).arch_int("block_count") - 1
    return Given(fused(parts.glm_bundle, folder / "Fused-MTP-Q8_0.gguf", [layer]))


def _fused_trunk_refused(parts: Parts, folder: Path) -> Given:
    return Given(fused(parts.glm, folder / "Fused-Q8_0.gguf", range(open_model(parts.glm).arch_int("block_count"))))


FUSED = "The experts' gate and up as one tensor"

# -- NVFP4 -------------------------------------------------------------------------------------------------------------


def _nvfp4(parts: Parts, folder: Path) -> Given:
    return Given(in_nvfp4(parts.bundle, folder / "Packed-MTP-NVFP4.gguf", 4))


def _nvfp4_sidecar(parts: Parts, folder: Path) -> Given:
    return Given(in_nvfp4(parts.sidecar, folder / "mtp-Packed-NVFP4.gguf", 4), trunk=copied(parts.q4, folder))


PACKED = "NVFP4"

# -- donors of nothing but a block -------------------------------------------------------------------------------------

_TOKENIZER = ("tokenizer.ggml.model", "tokenizer.ggml.tokens", "tokenizer.ggml.merges")


def _only_block(parts: Parts, folder: Path, put: Iterable[KV] = (), drop: Iterable[str] = (), layer: int = 4) -> Given:
    path = rewrite(
        parts.sidecar, folder / "MTP_Q8_0.gguf", lose=lambda name: not name.startswith("blk."),
        rename={"blk.4.": f"blk.{layer}."}, put=list(put), drop=[*sorted(OWN_KEYS), *drop],
    )  # fmt: skip
    return Given(path, trunk=copied(parts.q4, folder))


def _tensors_and_tokenizer(parts: Parts, folder: Path) -> Given:
    return _only_block(parts, folder)


def _tensors_only(parts: Parts, folder: Path) -> Given:
    return _only_block(parts, folder, drop=_TOKENIZER)


def _from_0(parts: Parts, folder: Path) -> Given:
    return _only_block(parts, folder, [("qwen35.block_count", "u32", 1)], _TOKENIZER, layer=0)


def _architecture_only(parts: Parts, folder: Path) -> Given:
    names = [kv.key for kv in open_model(parts.sidecar).kvs if kv.key != "general.architecture"]
    return _only_block(parts, folder, drop=names)


def _no_keys(parts: Parts, folder: Path) -> Given:
    return _only_block(parts, folder, drop=[kv.key for kv in open_model(parts.sidecar).kvs])


def _lone(parts: Parts, folder: Path) -> Given:
    source = parts.checkpoint / "model.safetensors"
    path = safetensors_part(source, folder / "mtp.safetensors", lambda name: name.startswith("mtp."))
    return Given(path, trunk=copied(parts.q4, folder))


def _stale_index(parts: Parts, folder: Path) -> Given:
    checkpoint = Path(shutil.copytree(parts.checkpoint, folder / "checkpoint"))
    names = list(Checkpoint(checkpoint).weight_map)
    (checkpoint / "model.safetensors").rename(checkpoint / "model-00001-of-00001.safetensors")
    index = {"weight_map": dict.fromkeys(names, "model-00001-of-00002.safetensors")}
    (checkpoint / "model.safetensors.index.json").write_text(json.dumps(index))
    return Given(checkpoint, trunk=copied(parts.q4, folder))


def _merged(parts: Parts, folder: Path) -> Given:
    checkpoint = Path(shutil.copytree(parts.checkpoint, folder / "merged"))
    path = checkpoint / "model.safetensors"
    data = path.read_bytes()
    start = 8 + int.from_bytes(data[:8], "little")
    table = {_in_layer(name): entry for name, entry in json.loads(data[8:start]).items()}
    header = json.dumps(table).encode()
    path.write_bytes(len(header).to_bytes(8, "little") + header + data[start:])
    config = json.loads((checkpoint / "config.json").read_text())
    config.pop("mtp_num_hidden_layers")
    (checkpoint / "config.json").write_text(json.dumps(config))
    return Given(checkpoint, trunk=copied(parts.q4, folder))


def _in_layer(name: str) -> str:
    for own, other in (("fc.", "eh_proj."), ("norm.", "shared_head.norm."), ("pre_fc_norm_embedding.", "enorm."),
                       ("pre_fc_norm_hidden.", "hnorm."), ("layers.0.", "")):  # fmt: skip
        if name.startswith(f"mtp.{own}"):
            return name.replace(f"mtp.{own}", f"model.layers.4.{other}")
    return name


_LOST = "attn_output.weight"


def _sick(parts: Parts, folder: Path) -> Path:
    return rewrite(parts.bundle, folder / "Lost-MTP-Q4_K_M.gguf", lose=lambda name: name == f"blk.4.{_LOST}")


def _one_tensor(parts: Parts, folder: Path) -> Given:
    donor = rewrite(parts.bundle, folder / "part.gguf", lose=lambda name: name != f"blk.4.{_LOST}")
    return Given(_sick(parts, folder), donor=donor)


def _one_safetensor(parts: Parts, folder: Path) -> Given:
    source = parts.checkpoint / "model.safetensors"
    donor = safetensors_part(source, folder / "part.safetensors", lambda name: "mtp." in name and "o_proj" in name)
    return Given(_sick(parts, folder), donor=donor)


DONORS = "Donors of nothing but a block"

# -- sidecars that lack something -------------------------------------------------------------------------------------

_MARK = "nextn_shared_target_tensors"


def _no_root(name: str) -> bool:
    return not name.startswith("blk.")


def _sidecar(**how: Any) -> Callable[[Parts, Path], Given]:
    def make(parts: Parts, folder: Path) -> Given:
        path = rewrite(parts.sidecar, folder / parts.sidecar.name, **how)
        return Given(path, trunk=copied(parts.q4, folder))

    return make


def _compact(*more: Tensor) -> Callable[[Parts, Path], Given]:
    def make(parts: Parts, folder: Path) -> Given:
        _, ne, type_id, data = next(one for one in tensors_of(parts.sidecar) if one[0] == "token_embd.weight")
        head = ("output.weight", (ne[0], 512), type_id, data[: len(data) // ne[1] * 512])
        return _sidecar(lose=lambda name: name == "output.weight", add=[head, *more])(parts, folder)

    return make


def _marked(key: str, kind: str, value: object) -> Callable[[Parts, Path], Given]:
    return _sidecar(lose=_no_root, put=[(key, kind, value)])


SIDECARS = "Sidecars that lack something"
_COMPLETED = "says so, ignores it, and completes it with `attach --from` or `doctor --fix --trunk`"


def _lacking(name: str, what: str, found: str, make: Callable[[Parts, Path], Given]) -> Wild:
    return Wild(SIDECARS, name, what, _COMPLETED, make, "sidecar", (found,), engine=REFUSES, attach=_ALL)


# -- names and keys ---------------------------------------------------------------------------------------------------


def _renamed(which: str) -> Callable[[Parts, Path], Given]:
    def make(parts: Parts, folder: Path) -> Given:
        source: Path = getattr(parts, which)
        plain = rewrite(source, folder / "plain.gguf", put=[("general.architecture", "str", "qwen36")],
                        drop=sorted(OWN_KEYS))  # fmt: skip
        path = folder / source.name
        path.write_bytes(plain.read_bytes().replace(b"qwen35.", b"qwen36."))
        plain.unlink()
        trunk = copied(parts.q4, folder) if which == "sidecar" else None
        return Given(path, trunk=trunk)

    return make


def _stale(kind: str, *, counted: bool) -> Callable[[Parts, Path], Given]:
    def make(parts: Parts, folder: Path) -> Given:
        source: Path = getattr(parts, kind)
        model = open_model(source)
        arch, n = model.architecture, model.arch_int("block_count")
        put: list[KV] = [(f"{arch}.nextn_predict_layers", "u32", 1)]
        if counted:
            put += [(f"{arch}.block_count", "u32", n + 1), *reordered(model, [*range(n), n - 1])]
        return Given(rewrite(source, folder / f"Stale-{source.stem}.gguf", put=put))

    return make


KEYS = "Names and keys"

WILD: tuple[Wild, ...] = (
    Wild(
        TWINS, "deeper", "a trunk whose layers were doubled by a passthrough merge, and the base model's checkpoint",
        "attaches the block after the trunk's last layer, says that it was made for fewer layers, and advises verify",
        _deeper, "trunk-only", attach=_ALL,
    ),
    Wild(
        TWINS, "deeper, from a GGUF", "the same trunk, and a GGUF of the base model with its block",
        "attaches the block after the trunk's last layer, says that it was made for fewer layers, and advises verify",
        _deeper_from_gguf, "trunk-only", attach=_ALL,
    ),
    Wild(
        TWINS, "sidecar beside a deeper trunk", "the base model's sidecar beside such a trunk",
        "serve and verify take it and say that it was made for fewer layers",
        _beside_deeper, "sidecar", engine=DRAFTS, attach=_ALL,
    ),
    Wild(
        TWINS, "experts pruned", "a trunk from which experts were pruned (REAP), and the whole model's checkpoint",
        "attaches the block as a sidecar, which has its own number of experts; refuses layouts in one model",
        _pruned, "trunk-only", attach=_ONLY_BESIDE,
    ),
    Wild(
        TWINS, "experts pruned, from a GGUF", "the same trunk, and a GGUF of the whole model with its block",
        "attaches the block as a sidecar, which has its own number of experts; refuses layouts in one model",
        _pruned_from_gguf, "trunk-only", attach=_ONLY_BESIDE,
    ),
    Wild(
        TWINS, "sidecar beside a pruned trunk", "the whole model's sidecar beside such a trunk",
        "serve and verify take it and say that it has another number of experts",
        _beside_pruned, "sidecar", engine=DRAFTS, attach=_ONLY_BESIDE,
    ),
    Wild(
        TWINS, "joined by hand", "a pruned trunk with the whole model's block joined to it in one file",
        "doctor says so, and how to make it a sidecar", _joined_by_hand, "bundled", ("block-with-other-experts",),
        engine=REFUSES, without_mtp=REFUSES, attach=_ONLY_BESIDE,
    ),
    Wild(
        TWINS, "another model's block", "a model and the block of one with other head counts, joined in one file",
        "doctor says which tensor does not fit, and to attach another block; attach refuses it",
        _other_heads, "bundled", ("block-with-other-shapes",), engine=REFUSES, without_mtp=REFUSES,
        attach=dict.fromkeys(_ALL, "but the trunk needs"),
    ),
    Wild(
        FUSED, "fused in the block", "a model whose block has `ffn_gate_up_exps`", "is healthy, and moves as it is",
        _fused_block, "bundled", engine=DRAFTS, attach=_ALL,
    ),
    Wild(
        FUSED, "fused throughout", "a model whose trunk and block have it", "is healthy, and moves as it is",
        _fused_all, "bundled", engine=DRAFTS, attach=_ALL,
    ),
    Wild(
        FUSED, "fused in a sidecar", "a sidecar that has it", "is healthy, and moves as it is",
        _fused_sidecar, "sidecar", engine=DRAFTS, attach=_ALL,
    ),
    Wild(
        FUSED, "fused in the trunk", "a trunk that has it, and a checkpoint whose block is written as two tensors",
        "attaches the block: engines look at each layer by itself",
        _fused_trunk, "trunk-only", attach=_ALL,
    ),
    Wild(
        FUSED, "fused where the loader refuses it", "the same in a block of a family that has it in two (GLM-4.5)",
        "doctor says that llama.cpp refuses the file, and `--fix` splits it; attach splits it as well, byte for byte",
        _fused_refused, "bundled", ("block-wants-split-experts",), engine=REFUSES, without_mtp=REFUSES, attach=_ALL,
    ),
    Wild(
        FUSED, "fused in a trunk whose loader refuses it", "the same in the trunk of such a family",
        "doctor says that llama.cpp refuses the file, and `--fix` splits it, byte for byte; ik_llama.cpp takes it",
        _fused_trunk_refused, "trunk-only", ("trunk-wants-split-experts",), engine=REFUSES, without_mtp=REFUSES,
    ),
    Wild(
        PACKED, "NVFP4 in a model", "a model whose block is in NVFP4, with `.scale` and `.input_scale`",
        "doctor warns that llama.cpp refuses it without MTP; attach writes its block in q8_0 without `--type nvfp4`",
        _nvfp4, "bundled", ("block-with-factors",), engine=DRAFTS, without_mtp=REFUSES, attach=_ALL,
    ),
    Wild(
        PACKED, "NVFP4 in a sidecar", "a sidecar in NVFP4 with such factors",
        "is healthy, and moves as it is; in a model, attach writes it in q8_0",
        _nvfp4_sidecar, "sidecar", engine=DRAFTS, attach=_ALL,
    ),
    Wild(
        DONORS, "tensors and a tokenizer", "a GGUF of a block's tensors, with all keys and the tokenizer",
        "it is a sidecar without what an engine needs; attach makes a full one, or any other layout",
        _tensors_and_tokenizer, "sidecar", ("sidecar-without-roots",), engine=REFUSES, attach=_ALL,
    ),
    Wild(
        DONORS, "tensors only", "a GGUF of a block's tensors, without a tokenizer", "takes it as a donor",
        _tensors_only, "donor", attach=_ALL,
    ),
    Wild(
        DONORS, "numbered from 0", "the same with its block numbered from 0", "numbers the block as the trunk needs it",
        _from_0, "donor", attach=_ALL,
    ),
    Wild(
        DONORS, "architecture only", "the same with its architecture as the only key",
        "takes it as a donor, and checks the shapes against the trunk", _architecture_only, "donor", attach=_ALL,
    ),
    Wild(
        DONORS, "without keys", "the same without any key",
        "attach takes it for the trunk's architecture; other verbs say that nothing names its model",
        _no_keys, "", refused="no key that says for which model", attach=_ALL,
    ),
    Wild(
        DONORS, "a lone mtp.safetensors", "a block's safetensors file without a config.json",
        "attach takes the sizes from the trunk's header; other verbs say what it is",
        _lone, "", refused="there is no config.json beside it", attach=_ALL,
    ),
    Wild(
        DONORS, "a stale index", "a checkpoint whose index names a file that now has another name",
        "finds the tensors in the file that is there", _stale_index, "checkpoint", attach=_ALL,
    ),
    Wild(
        DONORS, "a merged checkpoint", "a merged checkpoint whose block is a layer after the trunk's, the key lost",
        "finds the block under these names", _merged, "checkpoint", attach=_ALL,
    ),
    Wild(
        DONORS, "one missing tensor", "a model whose block lost a tensor, and a GGUF with nothing but that tensor",
        "`doctor --fix --from` completes the block", _one_tensor, "bundled", ("block-not-whole",), engine=REFUSES,
        without_mtp=REFUSES,
    ),
    Wild(
        DONORS, "one missing tensor, from safetensors", "the same, and a safetensors file with nothing but that tensor",
        "`doctor --fix --from` completes the block", _one_safetensor, "bundled", ("block-not-whole",), engine=REFUSES,
        without_mtp=REFUSES,
    ),
    _lacking("a compact head", "a sidecar with a head for part of the vocabulary and a table, `d2t` (FastMTP)",
             "sidecar-compact-head", _compact(("d2t", (512,), 27, bytes(512 * 8)))),
    _lacking("a compact head without a table", "the same without its table", "sidecar-compact-head", _compact()),
    _lacking("without output_norm", "a sidecar without `output_norm`", "sidecar-without-roots",
             _sidecar(lose=lambda name: name == "output_norm.weight")),
    _lacking("without embeddings", "a sidecar without embeddings, norm and head", "sidecar-without-roots",
             _sidecar(lose=_no_root)),
    _lacking("marked as sharing", "the same, marked to share its target's", "sidecar-shares-target",
             _marked(f"qwen35.{_MARK}", "bool", True)),
    _lacking("marked as not sharing", "the same, marked not to share its target's", "sidecar-without-roots",
             _marked(f"qwen35.{_MARK}", "bool", False)),
    _lacking("marked under another architecture", "the same, with another architecture's mark",
             "sidecar-shares-target", _marked(f"gemma4.{_MARK}", "bool", True)),
    Wild(
        SIDECARS, "marked, and complete", "a sidecar that has everything and is marked to share its target's",
        "takes it, and says that forks leave its embeddings aside",
        _sidecar(put=[(f"qwen35.{_MARK}", "bool", True)]), "sidecar", ("sidecar-shares-target",), engine=DRAFTS,
        attach=_ALL,
    ),
    Wild(
        KEYS, "renamed, with a block", "a model whose architecture was renamed (`qwen36`)",
        "`doctor --fix` names it back", _renamed("bundle"), "bundled", ("architecture-renamed",), engine=REFUSES,
        without_mtp=REFUSES,
    ),
    Wild(
        KEYS, "renamed, without a block", "the same without a block", "`doctor --fix` names it back", _renamed("q4"),
        "trunk-only", ("architecture-renamed",), engine=REFUSES, without_mtp=REFUSES,
    ),
    Wild(
        KEYS, "a renamed sidecar", "a sidecar whose architecture was renamed", "`doctor --fix` names it back",
        _renamed("sidecar"), "sidecar", ("architecture-renamed",), engine=REFUSES,
    ),
    Wild(
        KEYS, "a stale key", "a trunk whose key promises a block that `block_count` does not count (Qwen3.5)",
        "doctor says that llama.cpp aborts; `--fix` drops the key, and attach puts a block after the whole trunk",
        _stale("q4", counted=False), "trunk-only", ("key-without-block",), engine=REFUSES, without_mtp=REFUSES,
    ),
    Wild(
        KEYS, "a stale key where the last layer is left out", "the same (GLM-4.5)",
        "doctor says that llama.cpp leaves out the last trunk layer without a word; `--fix` drops the key",
        _stale("glm", counted=False), "trunk-only", ("key-without-block",), engine=REFUSES,
    ),
    Wild(
        KEYS, "a stale key and count", "a trunk whose key and `block_count` promise a block that was lost",
        "doctor says that llama.cpp runs it and fails when it drafts; `--fix` drops the key",
        _stale("q4", counted=True), "trunk-only", ("key-without-block",), engine=REFUSES,
    ),
)  # fmt: skip
