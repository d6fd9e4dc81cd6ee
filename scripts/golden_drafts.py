"""Records what llama.cpp's converter makes of the drafts of tiny_drafts.py. See docs/goldens.md.

    python scripts/golden_drafts.py LLAMA_CPP_SOURCE [KIND...]

Needs torch, transformers and ml_dtypes. The target is the demo's checkpoint.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from pathlib import Path
from typing import Any

from make_goldens import CONVERTER, ROOT, TRAINED, convert, prepare, write_golden
from make_tiny_checkpoints import checkpoint_sha256
from tiny_drafts import DRAFTS, make_draft

OUT = ROOT / "tests" / "data" / "goldens" / "drafts"
OUTTYPES = ("bf16", "q8_0", "f32")


def patch() -> None:
    """Reads config.json raw: transformers knows none of these classes."""
    import conversion.base

    def raw(folder: Path, *_: Any, **__: Any) -> Any:
        return json.loads((Path(folder) / "config.json").read_text("utf-8"))

    conversion.base.ModelBase.load_hparams = staticmethod(raw)


def golden(kind: str, source: Path, scratch: Path) -> dict[str, Any]:
    from golden_gguf import describe

    folder = make_draft(kind, scratch / kind)
    out: dict[str, Any] = {"converter": CONVERTER, "checkpoint": checkpoint_sha256(folder)}
    for outtype in OUTTYPES:
        path = scratch / f"{kind}-{outtype}.gguf"
        convert(source, folder, path, "--outtype", outtype, "--target-model-dir", str(TRAINED))
        found = describe(path)
        kv = {key: x for key, x in found["kv"].items() if key.startswith(("eagle3.", "dflash.", "tokenizer.ggml.mask"))}
        out[outtype] = {"arch": found["kv"]["general.architecture"][1], "kv": kv, "tensors": found["tensors"]}
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, help="the unpacked llama.cpp source")
    parser.add_argument("kinds", nargs="*", default=list(DRAFTS))
    args = parser.parse_args()
    prepare(args.source.resolve())
    patch()
    with tempfile.TemporaryDirectory() as name:
        for kind in args.kinds:
            write_golden(OUT / f"{kind}.json", golden(kind, args.source, Path(name)))
            print(kind, flush=True)


if __name__ == "__main__":
    main()
