"""Runs llama.cpp's own converter over the fixture checkpoints and records its output. See docs/goldens.md.

    python scripts/make_goldens.py LLAMA_CPP_SOURCE [--only PART_OF_A_MODEL_NAME] [--no-trunks]

Needs torch, transformers and ml_dtypes, which nextn itself and its tests do without.
"""

from __future__ import annotations

import argparse
import json
import os
import runpy
import shutil
import sys
import tempfile
import traceback
from pathlib import Path
from typing import Any

from make_tiny_checkpoints import checkpoint_sha256, make_checkpoint

ROOT = Path(__file__).resolve().parent.parent
TRAINED = ROOT / "src" / "nextn" / "demo_data" / "tiny-qwen35-mtp"
GOLDENS = ROOT / "tests" / "data" / "goldens"
TRUNKS = ROOT / "tests" / "data" / "trunks"

CONVERTER = "llama.cpp b11549"
OUTTYPES = ("f32", "f16", "bf16", "q8_0")

# Every layout once in bf16; the other dtypes of a checkpoint where only they differ.
RANDOM = (
    ("qwen35moe-fused", "bf16"),
    ("qwen35moe-fused", "f32"),
    ("qwen35moe-experts", "bf16"),
    ("qwen35moe-nested", "bf16"),
    ("qwen3next-experts", "bf16"),
    ("qwen3next-fused", "bf16"),
    ("qwen35-dense", "bf16"),
    ("qwen35-dense", "f16"),
    ("qwen35-dense", "f32"),
)

# What the tests attach blocks to: file name, model, and the converter's arguments.
TRUNK_FILES = (
    ("tiny-qwen35-BF16.gguf", "tiny-qwen35-mtp", ("--outtype", "bf16")),
    ("tiny-qwen35-Q8_0.gguf", "tiny-qwen35-mtp", ("--outtype", "q8_0")),
    ("qwen35moe-BF16.gguf", "qwen35moe-fused-bf16", ("--outtype", "bf16")),
    ("qwen3next-BF16.gguf", "qwen3next-experts-bf16", ("--outtype", "bf16")),
    ("qwen35-dense-F32.gguf", "qwen35-dense-f32", ("--outtype", "f32")),
    # The same trunk in shards: with tensors in the first one, and with none there.
    ("tensors-first/qwen35moe-BF16.gguf", "qwen35moe-fused-bf16",
     ("--outtype", "bf16", "--split-max-tensors", "27")),
    ("kv-first/qwen35moe-BF16.gguf", "qwen35moe-fused-bf16",
     ("--outtype", "bf16", "--split-max-tensors", "40", "--no-tensor-first-split")),
)  # fmt: skip


def convert(source: Path, folder: Path, outfile: Path, *arguments: str) -> None:
    """Runs the converter in a forked child: it keeps options in class attributes, which must not pile up."""
    outfile.parent.mkdir(parents=True, exist_ok=True)
    pid = os.fork()
    if pid == 0:
        status = 1
        try:
            script = str(source / "convert_hf_to_gguf.py")
            sys.argv = [script, str(folder), "--outfile", str(outfile), *arguments]
            log = os.open(outfile.with_suffix(".log"), os.O_CREAT | os.O_WRONLY | os.O_TRUNC)
            os.dup2(log, 1)
            os.dup2(log, 2)
            runpy.run_path(script, run_name="__main__")
            status = 0
        except SystemExit as stop:
            status = int(bool(stop.code))
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stderr.flush()
            os._exit(status)
    if os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) != 0:
        raise SystemExit(f"{outfile.name}: the converter failed\n{outfile.with_suffix('.log').read_text()[-3000:]}")


def prepare(source: Path) -> None:
    """Imports the converter once, and has it take the made-up tokenizer for Qwen3.5's, whose rules it has."""
    sys.path[:0] = [str(source), str(source / "gguf-py")]
    import conversion.base
    import conversion.qwen
    import torch

    torch.set_num_threads(1)
    conversion.base.TextModel.get_vocab_base_pre = lambda self, tokenizer: "qwen35"


def golden(source: Path, folder: Path, outtype: str, scratch: Path) -> dict[str, Any]:
    from golden_gguf import describe

    described: dict[str, dict[str, Any]] = {}
    for variant, flags in (("mtp", ("--mtp",)), ("bundled", ()), ("no_mtp", ("--no-mtp",))):
        outfile = scratch / f"{variant}.gguf"
        convert(source, folder, outfile, "--outtype", outtype, *flags)
        described[variant] = describe(outfile)
        outfile.unlink()
    # The three outputs share their tensors, so hashes are kept once: of the block with the embedding and head
    # that a sidecar carries. Of the others the order is what can still differ.
    alone, whole, trunk = (described[v]["tensors"] for v in ("mtp", "bundled", "no_mtp"))
    if {**trunk, **alone} != whole:
        raise SystemExit(f"{folder.name} {outtype}: bundled is not the sum of trunk and block")
    for variant in ("bundled", "no_mtp"):
        described[variant]["tensor_names"] = list(described[variant].pop("tensors"))
    return {
        "model": folder.name,
        "outtype": outtype,
        "converter": CONVERTER,
        "checkpoint": checkpoint_sha256(folder),
        **described,
    }


def write_golden(path: Path, value: dict[str, Any]) -> None:
    """JSON with one line for each key and tensor: compact, and changes still show in a diff."""

    def lines(node: Any, depth: int) -> str:
        if depth == 0 or not isinstance(node, dict):
            return json.dumps(node, ensure_ascii=False, separators=(",", ":"))
        inner = ",\n".join(f"{json.dumps(k)}:{lines(v, depth - 1)}" for k, v in node.items())
        return "{\n" + inner + "\n}"

    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(lines(value, 3) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("source", type=Path, help="the unpacked llama.cpp source")
    parser.add_argument("--only", default="", help="only models with this in their name")
    parser.add_argument("--no-trunks", action="store_true", help="leave the trunk GGUFs as they are")
    args = parser.parse_args()
    prepare(args.source.resolve())

    with tempfile.TemporaryDirectory() as name:
        scratch = Path(name)
        folders = {TRAINED.name: TRAINED}
        for kind, dtype in RANDOM:
            model = f"{kind}-{dtype}"
            folders[model] = make_checkpoint(kind, scratch / model, dtype)
        for model, folder in folders.items():
            for outtype in OUTTYPES if args.only in model else ():
                write_golden(GOLDENS / f"{model}-{outtype}.json", golden(args.source, folder, outtype, scratch))
                print(model, outtype, flush=True)
        for file, model, flags in () if args.no_trunks else TRUNK_FILES:
            outfile = scratch / "trunks" / file
            convert(args.source, folders[model], outfile, "--no-mtp", *flags)
            outfile.with_suffix(".log").unlink()
            print(file, flush=True)
        if not args.no_trunks:
            shutil.copytree(scratch / "trunks", TRUNKS, dirs_exist_ok=True)


if __name__ == "__main__":
    main()
