"""What llama.cpp's converter and engine make of the variants of variants.py. See docs/goldens.md.

    python scripts/golden_variants.py LLAMA_CPP_SOURCE DEVELOPMENT_PYTHON [KIND...]

Needs torch, transformers and ml_dtypes; the engine is run by the development environment's Python. config.json is
read raw, with the converter's own steps for wrappers.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import golden_families
from golden_families import NO_FLAGS, SIDECAR_ONLY
from make_goldens import ROOT, convert, prepare, write_golden
from tiny_deepseek4 import with_compression
from variants import BASES, TRUNKS, Variant, base, folded, make, variants_of

OUT = ROOT / "tests" / "data" / "goldens" / "variants"
CONVERTER, ENGINE = "llama.cpp b11549", "xllamacpp 2026.10.11549"
SHORT = 16  # hex digits of a hash
ROOTS = ("token_embd.", "output", "rope_freqs.")


def patch() -> None:
    """Reads config.json raw, then as the converter moves a wrapper's text config."""
    golden_families.patch()
    import conversion.base

    def raw(folder: Path, *_: Any, **__: Any) -> Any:
        config = json.loads((folder / "config.json").read_text("utf-8"))
        for key in ("llm_config", "lm_config"):
            if key in config:
                config["text_config"] = config[key]
        if "thinker_config" in config:
            config["text_config"] = config["thinker_config"]["text_config"]
        if "language_config" in config:
            config["text_config"] = config["language_config"]
        text = config.get("text_config", config)
        classes = [*config.get("architectures", ()), *text.get("architectures", ())]
        if any(name.startswith(("Qwen3Next", "Qwen3_5")) for name in classes) and text.get("layer_types") is None:
            every = text.get("full_attention_interval", 4)  # completed by transformers, which is left out here
            kinds = ("full_attention", "linear_attention")
            text["layer_types"] = [kinds[(i + 1) % every != 0] for i in range(text["num_hidden_layers"])]
        return config

    conversion.base.ModelBase.load_hparams = staticmethod(raw)


def preload() -> None:
    """Imports what each forked conversion would import again."""
    import conversion
    import torch
    from transformers import AutoTokenizer

    conversion.load_all_models()
    torch.cat([torch.stack([torch.empty(2, 2, device="meta")] * 2)] * 2)  # takes torch._dynamo with it
    with tempfile.TemporaryDirectory() as folder:
        AutoTokenizer.from_pretrained(base("glm4moe", Path(folder) / "glm4moe"))


def described(path: Path, n_trunk: int) -> dict[str, Any]:
    """Pairs of the architecture, and tensors of the block and beside the layers."""
    from golden_gguf import describe

    found = describe(path)
    kv = {key: x for key, x in found["kv"].items() if not key.startswith(("general.", "tokenizer."))}

    def kept(name: str) -> bool:
        in_block = name.startswith("blk.") and int(name.split(".")[1]) >= n_trunk
        return in_block or name.startswith(ROOTS)

    tensors = {name: [of_type, ne, sha256[:SHORT]] for name, (of_type, ne, sha256) in found["tensors"].items()}
    return {"kv": kv, "tensors": {name: entry for name, entry in tensors.items() if kept(name)}}


def outputs(kind: str, source: Path, folder: Path, scratch: Path, n_trunk: int) -> dict[str, Any]:
    """What the converter writes of a checkpoint, bundled and with --mtp; the bundled file stays for the engine."""
    out: dict[str, Any] = {}
    outtype = "q8_0" if kind in SIDECAR_ONLY else "bf16"
    for layout, flags in (("bundle", ()), ("sidecar", ("--mtp",))):
        if (layout == "sidecar" and kind in NO_FLAGS) or (layout == "bundle" and kind in SIDECAR_ONLY):
            continue
        path = scratch / f"{layout}.gguf"
        path.unlink(missing_ok=True)
        try:
            convert(source, folder, path, "--outtype", outtype, *flags)
        except SystemExit as stop:
            last = [line for line in str(stop).splitlines() if line.strip()][-1]
            out[layout] = {"fails": last[:160]}
            continue
        out[layout] = described(path, n_trunk)
    return out


def difference(found: dict[str, Any], own: dict[str, Any]) -> dict[str, Any]:
    """What differs from the kind's own output; null: is not there."""
    if "fails" in found:
        return found
    return {
        part: changed
        for part in ("kv", "tensors")
        if (
            changed := {
                name: found[part].get(name)
                for name in {**own[part], **found[part]}
                if found[part].get(name) != own[part].get(name)
            }
        )
    }


class Engine:
    """The engine's verdicts, by a process of the development environment."""

    def __init__(self, python: str) -> None:
        script = str(ROOT / "scripts" / "engine_verdict.py")
        self.process = subprocess.Popen([python, script], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def verdict(self, *paths: Path) -> str:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps([str(path) for path in paths]) + "\n")
        self.process.stdin.flush()
        return str(json.loads(self.process.stdout.readline()))


def golden(kind: str, source: Path, engine: Engine, scratch: Path) -> dict[str, Any]:
    folder = base(kind, scratch / kind)
    variants = variants_of(kind, folder)
    config = json.loads((folder / "config.json").read_text())
    n_trunk = len(config.get("layers_block_type") or range(config["num_hidden_layers"]))
    own = outputs(kind, source, folder, scratch, n_trunk)
    found: dict[str, Any] = {}
    trunk = TRUNKS / f"{BASES[kind]}.gguf"
    if kind == "deepseek4":
        trunk = with_compression(trunk, scratch / trunk.name)

    def judge(name: str, variant: Variant) -> dict[str, Any]:
        made = make(variant, folder, scratch / f"{kind}-{len(found)}-{name.replace('/', ' ')[:60]}" / kind)
        results = outputs(kind, source, made, scratch, n_trunk)
        entry: dict[str, Any] = {layout: difference(result, own[layout]) for layout, result in results.items()}
        for layout, files in (("bundle", ()), ("sidecar", (trunk,))):
            if entry.get(layout) and "fails" not in entry[layout]:
                entry[layout]["engine"] = engine.verdict(*files, scratch / f"{layout}.gguf")
        print(kind, name, *(x["engine"] for x in entry.values() if "engine" in x), flush=True)
        return {key: x for key, x in entry.items() if x}

    ignored = []
    for name, variant in variants.items():
        entry = judge(name, variant)
        one_key = name.startswith("config with") and len(variant.config) == 1
        if not entry and one_key and all(x is None or isinstance(x, bool) for x in variant.config.values()):
            ignored.append(variant)
            continue
        found[name] = {"what": without_kind(variant), **entry}
    for name, variant in folded(kind, ignored):
        found[name] = {"what": without_kind(variant), **judge(name, variant)}
    return {"converter": CONVERTER, "engine": ENGINE, "base": own, "variants": found}


def without_kind(variant: Variant) -> dict[str, Any]:
    return {key: x for key, x in variant.to_json().items() if key != "kind"}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, help="the unpacked llama.cpp source")
    parser.add_argument("python", help="the development environment's Python")
    parser.add_argument("kinds", nargs="*", default=list(BASES))
    args = parser.parse_args()
    prepare(args.source.resolve())
    patch()
    preload()
    engine = Engine(args.python)
    for kind in args.kinds:
        with tempfile.TemporaryDirectory() as scratch:
            write_golden(OUT / f"{kind}.json", golden(kind, args.source.resolve(), engine, Path(scratch)))


if __name__ == "__main__":
    main()
