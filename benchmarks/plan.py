"""Predicted against measured memory on every shipped model: `python benchmarks/plan.py [--json FILE]`.

Per model and setup: weights, kv_cache and total as `nextn plan` predicts them (the engine's account, and headers
alone) beside what a real run logs. Families' blocks come from tiny random checkpoints made on the spot.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
import tempfile
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "scripts"))

DATA = ROOT / "tests" / "data" / "trunks"
DEMO = ROOT / "src" / "nextn" / "demo_data"
COLUMNS = ("weights_bytes", "kv_cache_bytes", "recurrent_bytes", "compute_bytes", "total_bytes")
QWEN = {"qwen35-dense-F32": "dense", "qwen35moe-BF16": "fused", "qwen3next-BF16": "fused"}


def cases(scratch: Path) -> list[tuple[str, Path, Path | None]]:
    """(name, trunk, donor)."""
    from make_tiny_checkpoints import make_checkpoint
    from tiny_families import make_family

    tiny = DEMO / "tiny-qwen35-mtp"
    out: list[tuple[str, Path, Path | None]] = [("demo Q4_K_M", DEMO / "tiny-qwen35-Q4_K_M.gguf", tiny)]
    out += [(f"demo {kind}", DATA / f"tiny-qwen35-{kind}.gguf", tiny) for kind in ("Q8_0", "BF16")]
    for name, kind in QWEN.items():
        donor = scratch / name
        make_checkpoint(f"{name.split('-')[0]}-{kind}", donor, "bf16")
        out.append((name, DATA / f"{name}.gguf", donor))
    for folder in ("kv-first", "tensors-first"):
        out.append((folder, DATA / folder, scratch / "qwen35moe-BF16"))
    for path in sorted((DATA / "families").glob("*.gguf")):
        kind = path.name.removesuffix("-Q8_0.gguf")
        out.append((kind, path, make_family(kind, scratch / kind)))
    return out


def sums(totals: dict[str, Any]) -> dict[str, int]:
    """Weights with their rearranged copies, and the other columns."""
    found = {name: int(totals[name]) for name in COLUMNS}
    found["weights_bytes"] += int(totals["repacked_bytes"])
    return found


def main() -> int:
    import nextn
    from nextn.schemas.base import plain

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--ctx", type=int, default=4096)
    args = parser.parse_args()
    rows = []
    with tempfile.TemporaryDirectory(prefix="nextn-bench-") as folder:
        for name, trunk, donor in cases(Path(folder)):
            found = nextn.plan(trunk, donor=donor, n_ctx=args.ctx, measure=True)
            alone = nextn.plan(trunk, donor=donor, n_ctx=args.ctx, header_only=True)
            for row, header in zip(found.rows, alone.rows, strict=True):
                data = plain(row.document)
                if not data["measured"]:
                    print(f"{name:14} {data['id']:12} not measured: {data['why_not'] or data['notes']}")
                    continue
                real, said = sums(data["measured"]), sums(data["totals"])
                by_header = sums(plain(header.document)["totals"])
                off = {column: _off(said[column], real[column]) for column in COLUMNS}
                off_header = {column: _off(by_header[column], real[column]) for column in COLUMNS}
                rows.append({"model": name, "setup": data["id"], "source": data["source"], "predicted": said,
                             "header": by_header, "measured": data["measured"], "off": off,
                             "off_header": off_header})  # fmt: skip
                print(f"{name:14} {data['id']:12} " + "  ".join(
                    f"{column.removesuffix('_bytes')} {100 * off[column]:+.1f} ({100 * off_header[column]:+.1f}) %"
                    for column in COLUMNS))  # fmt: skip
    for key in ("off", "off_header"):
        worst = {column: max(abs(row[key][column]) for row in rows) for column in COLUMNS}
        print(f"worst {key}: " + ", ".join(f"{c.removesuffix('_bytes')} {100 * w:.2f} %" for c, w in worst.items()))
    if args.json:
        about = {"engine": found.engine, "n_ctx": args.ctx, "machine": platform.platform(), "rows": rows}
        args.json.write_text(json.dumps(about, indent=1) + "\n")
    return 0


def _off(said: int, real: int) -> float:
    """Share by which a prediction is off; differences below 20 KB are the log's rounding (0.01 MiB a line)."""
    return 0.0 if abs(said - real) < 20_000 else (said - real) / max(real, 1)


if __name__ == "__main__":
    raise SystemExit(main())
