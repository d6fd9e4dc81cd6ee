"""Peak memory of real runs against what their plans state: VmHWM of fresh processes, as JSON.

The trunk is sparse and the vocabulary as long as asked for, with a tokenizer.json to match: tokens and merges are
what a run holds in memory beside one chunk of a tensor.

python benchmarks/memory.py --gb 2 --vocab 250000
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "src"), str(ROOT / "tests" / "support")]

from faults import Giant, giant  # noqa: E402

from nextn.gguf.kv import KV  # noqa: E402
from nextn.gguf.kv_table import edit  # noqa: E402
from nextn.gguf.tensors import TensorInfo  # noqa: E402

DEMO = ROOT / "src" / "nextn" / "demo_data"
PEAK = """
import re, sys
from pathlib import Path
import nextn.verbs.attach, nextn.layouts.attach, nextn.ggml.quantize, nextn.cli, numpy
nextn.ggml.quantize.ggml_version()
code = nextn.cli.main(sys.argv[1:]) if sys.argv[1:] else 0
print(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1], file=sys.stderr)
sys.exit(code)
"""


def peak(*args: str | Path) -> tuple[int, dict[str, Any]]:
    """VmHWM in bytes and the JSON of a verb; without arguments, of the imports alone."""
    done = subprocess.run(
        [sys.executable, "-c", PEAK, *map(str, args), *(["--json"] if args else [])],
        env={**os.environ, "PYTHONPATH": str(ROOT / "src")},
        capture_output=True,
        text=True,
    )
    if done.returncode:
        sys.exit(done.stderr)
    return int(done.stderr.split()[-1]) * 1024, json.loads(done.stdout) if args else {}


def long_vocabulary(like: Giant, n_vocab: int) -> Giant:
    """The same trunk with more tokens, each about as long as those of published models."""
    by_key = {kv.key: kv for kv in like.like}
    tokens = [*by_key["tokenizer.ggml.tokens"].value]
    tokens += [f"\u0120tok{i:06d}" for i in range(len(tokens), n_vocab)]
    put: list[KV] = [
        by_key["tokenizer.ggml.tokens"].with_value(tokens),
        by_key["tokenizer.ggml.token_type"].with_value([1] * n_vocab),
        by_key["tokenizer.ggml.merges"].with_value([f"\u0120to k{i:06d}" for i in range(n_vocab)]),
    ]
    roots = tuple(
        TensorInfo(info.name, (info.ne[0], n_vocab), info.type_id, 0) if len(info.ne) > 1 else info
        for info in like.roots
    )
    return Giant(tuple(edit(like.like, put=put)), roots, like.n_layer, like.matrix_bytes)


def long_checkpoint(folder: Path, trunk: Giant, n_vocab: int) -> Path:
    """The shipped checkpoint with that vocabulary in its tokenizer.json."""
    shutil.copytree(DEMO / "tiny-qwen35-mtp", folder)
    config = json.loads((folder / "config.json").read_text())
    (config.get("text_config") or config)["vocab_size"] = n_vocab
    (folder / "config.json").write_text(json.dumps(config))
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    by_key = {kv.key: kv for kv in trunk.like}
    tokenizer["model"]["vocab"] = {text: i for i, text in enumerate(by_key["tokenizer.ggml.tokens"].value)}
    tokenizer["model"]["merges"] = [text.split(" ") for text in by_key["tokenizer.ggml.merges"].value]
    tokenizer["added_tokens"] = []
    (folder / "tokenizer.json").write_text(json.dumps(tokenizer, ensure_ascii=False, indent=1))
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gb", type=float, default=2, help="size of the sparse trunk, in 1e9 bytes")
    parser.add_argument("--vocab", type=int, default=250_000)
    parser.add_argument("--repeat", type=int, default=3)
    parser.add_argument("--folder", type=Path, help="on the disk to use; default: the temporary folder")
    args = parser.parse_args()
    small = DEMO / "tiny-qwen35-Q4_K_M.gguf"
    with tempfile.TemporaryDirectory(dir=args.folder) as name:
        folder = Path(name)
        short = giant(small, round(args.gb * 1e9))
        long = long_vocabulary(short, args.vocab)
        trunk, trunk_long = short.single(folder / "short.gguf"), long.single(folder / "long.gguf")
        checkpoint = long_checkpoint(folder / "checkpoint", long, args.vocab)
        cases = {
            "small: sidecar": ("attach", small, "--from", DEMO / "tiny-qwen35-mtp"),
            "big trunk: bundle": ("attach", trunk, "--from", DEMO / "tiny-qwen35-mtp", "--layout", "bundle"),
            "long vocabulary: bundle": ("attach", trunk_long, "--from", checkpoint, "--layout", "bundle"),
            "long vocabulary: sidecar": ("attach", trunk_long, "--from", checkpoint, "--layout", "sidecar"),
            "long vocabulary: donor file": ("extract", checkpoint, "--block-only"),
            "long vocabulary: detach": ("detach", folder / "bundled.gguf"),
        }
        donor = peak("extract", checkpoint, "--block-only", "-o", folder / "donor.gguf")[1]["entry"]
        peak("attach", trunk_long, "--from", donor, "--layout", "bundle", "-o", folder / "bundled.gguf")
        rows: dict[str, dict[str, Any]] = {}
        base = [peak()[0] for _ in range(args.repeat)]
        for _ in range(args.repeat):
            for case, call in cases.items():
                real, said = peak(*call, "-o", folder / "out.gguf")
                (folder / "out.gguf").unlink()
                row = rows.setdefault(case, {"stated_mb": said["peak_memory_bytes"] / 1e6, "measured_mb": []})
                row["measured_mb"].append(round(real / 1e6, 1))
    result = {
        "command": sys.argv,
        "python": platform.python_version(),
        "machine": re.sub(r"\s+", " ", platform.platform()),
        "imports_mb": [round(value / 1e6, 1) for value in base],
        "runs": rows,
        "all_below_what_is_stated": all(max(row["measured_mb"]) <= row["stated_mb"] for row in rows.values()),
    }
    json.dump(result, sys.stdout, indent=1)
    sys.stdout.write("\n")


if __name__ == "__main__":
    main()
