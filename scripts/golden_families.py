"""Runs llama.cpp's own converter over the checkpoints of tiny_families.py. See docs/goldens.md.

    python scripts/golden_families.py LLAMA_CPP_SOURCE [KIND...]

Needs torch, transformers and ml_dtypes, which nextn itself and its tests do without. config.json is read raw: the
installed transformers stops on some of these configs and adds keys to others.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from make_goldens import CONVERTER, ROOT, convert, prepare, write_golden
from make_tiny_checkpoints import checkpoint_sha256
from tiny_families import KINDS, TRUNK_OF, make_family

GOLDENS = ROOT / "tests" / "data" / "goldens" / "families"
TRUNKS = ROOT / "tests" / "data" / "trunks" / "families"
OUTTYPES = ("f32", "bf16", "q8_0")
# The converter drops these blocks, or does not read their source.
NO_BLOCK = ("deepseek3", "deepseek3-wide", "deepseek4-plain")
SIDECAR_ONLY = ("deepseek4",)  # written with --mtp or not at all
NO_FLAGS = ("cohere2moe",)  # it writes these only bundled


def patch() -> None:
    import conversion.base

    def raw(folder: Path, *_: Any, **__: Any) -> Any:
        return json.loads((folder / "config.json").read_text("utf-8"))

    conversion.base.ModelBase.load_hparams = staticmethod(raw)
    import conversion.deepseek

    plain = conversion.base.TextModel._set_vocab_gpt2
    conversion.base.TextModel._set_vocab_glm = plain
    conversion.deepseek.DeepseekV32Model.set_vocab = plain  # transformers 5 tells nothing of add_bos_token


def golden(source: Path, folder: Path, outtype: str, scratch: Path) -> dict[str, Any]:
    """The block's tensors and the bundled header, as in the goldens of Qwen's families."""
    from golden_gguf import describe

    bundled_only, never_bundled = folder.name in NO_FLAGS, folder.name in SIDECAR_ONLY
    described = {}
    for variant, flags in (("mtp", ("--mtp",)), ("bundled", ())):
        if (variant == "mtp" and bundled_only) or (variant == "bundled" and never_bundled):
            continue
        outfile = scratch / f"{variant}.gguf"
        convert(source, folder, outfile, "--outtype", outtype, *flags)
        described[variant] = describe(outfile)
        outfile.unlink()
    n = int(json.loads((folder / "config.json").read_text())["num_hidden_layers"])
    whole = described["mtp" if never_bundled else "bundled"]["tensors"]
    if bundled_only:
        described["mtp"] = {"tensors": whole}
    tensors = described["mtp"]["tensors"]


    def of_block(name: str) -> bool:
        in_block = name.startswith("blk.") and int(name.split(".")[1]) >= n
        return in_block or (never_bundled and name.startswith("output_hc_"))

    block = {name: entry for name, entry in tensors.items() if of_block(name)}
    if any(whole[name] != entry for name, entry in tensors.items()):
        raise SystemExit(f"{folder.name} {outtype}: the block differs between the converter's outputs")
    kv = {
        variant: {key: x for key, x in found["kv"].items() if not key.startswith(("tokenizer.", "general."))}
        for variant, found in described.items() if "kv" in found
    }  # fmt: skip
    return {
        "model": folder.name, "outtype": outtype, "converter": CONVERTER, "checkpoint": checkpoint_sha256(folder),
        "mtp": {"kv": kv.get("mtp"), "tensors": block}, "bundled": {"kv": kv.get("bundled")},
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, help="the unpacked llama.cpp source")
    parser.add_argument("kinds", nargs="*", default=list(KINDS))
    args = parser.parse_args()
    prepare(args.source.resolve())
    patch()
    TRUNKS.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        for kind in args.kinds:
            try:
                folder = make_family(kind, scratch / kind)
                if not KINDS[kind].fp8 and kind not in TRUNK_OF and kind != "deepseek4-plain":
                    trunk = scratch / f"{kind}.gguf"
                    without = () if kind in NO_BLOCK else ("--no-mtp",)
                    if kind in NO_FLAGS:
                        config = json.loads((folder / "config.json").read_text())
                        bare = make_family(kind, scratch / "bare" / kind)
                        (bare / "config.json").write_text(json.dumps({**config, "num_nextn_predict_layers": 0}))
                        drop_block(bare, int(config["num_hidden_layers"]))
                        convert(args.source, bare, trunk, "--outtype", "q8_0")
                    else:
                        convert(args.source, folder, trunk, "--outtype", "q8_0", *without)
                    (TRUNKS / f"{kind}-Q8_0.gguf").write_bytes(trunk.read_bytes())
                for outtype in () if kind in NO_BLOCK else OUTTYPES:
                    write_golden(GOLDENS / f"{kind}-{outtype}.json", golden(args.source, folder, outtype, scratch))
                print(kind, "done", flush=True)
            except SystemExit as stop:
                print(f"{kind}: {str(stop)[-700:]}", flush=True)


def drop_block(folder: Path, n_trunk: int) -> None:
    """Takes the layers behind the trunk's out of a checkpoint, for a converter that has no flag for it."""
    from safetensors.torch import load_file, save_file

    path = folder / "model.safetensors"
    tensors = load_file(path)
    kept = {name: x for name, x in tensors.items() if f"layers.{n_trunk}." not in name}
    save_file(kept, path, metadata={"format": "pt"})


if __name__ == "__main__":
    main()
