"""The race against the full grid, in one run: `python benchmarks/tune.py [--json FILE] [--only deep|vocab]`.

For two models (see tune_models.py): the grid's every setup, interleaved in passes; then `nextn tune` with the same
space and prompts; then the setups that matter, in turns. Printed: tune's share of the grid's time, how far its answer
is from the grid's best, and whether it is slower than MTP off or than the bundle at the engine's default (n_max 3).

The vocab model's weights are random, so its drafts would never be accepted: llama.cpp's synthetic acceptance
(`speculative.synth_len`, benchmarking only) accepts them as told, 2.6 tokens a step at n_max 3 and 1.75 at 1.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from statistics import fmean, median
from typing import Any

import nextn
import tune_models
from nextn.engines import find_engine
from nextn.engines.base import Engine, Launch, Running
from nextn.measure.bench import context_for, machine
from nextn.measure.stats import compare
from nextn.measure.tasks import shipped_tasks
from nextn.measure.trial import Run
from nextn.measure.trial_patience import Patience
from nextn.measure.trial_pool import Pool
from nextn.measure.tune import asks_of, tune
from nextn.measure.tune_space import Artifact, Point, Space, checked_space, maker_of

ROOT = Path(__file__).resolve().parent.parent
DEMO = ROOT / "src" / "nextn" / "demo_data"
SYNTHETIC = {1: 1.75, 2: 2.25, 3: 2.6, 4: 2.85, 6: 3.15}  # tokens a step by n_max, the target's own included
PASSES = 2


class Synthetic:
    """An engine whose drafts are accepted as told."""

    def __init__(self, inner: Engine) -> None:
        self.inner = inner
        self.name, self.version = inner.name, inner.version

    def start(self, launch: Launch) -> Running:
        if launch.n_max:
            length = f"speculative.synth_len={SYNTHETIC[launch.n_max]}"
            launch = replace(launch, extra_args=(*launch.extra_args, length))
        return self.inner.start(launch)


def points_of(space: Space) -> list[Point]:
    """The full grid."""
    out = [Point(0, threads=n) for n in space.threads]
    for n_max, p_min, kind, head, embd, threads in itertools.product(
        space.n_max, space.p_min, space.types, space.draft_heads, space.embd_types, space.threads
    ):
        out.append(Point(n_max, p_min, threads, Artifact(kind, head, embd)))
    return out


def speed(runs: list[Run], ident: str) -> float | None:
    """Geometric mean over prompts of the median of undisturbed runs."""
    cells: dict[Any, list[float]] = {}
    for run in runs:
        if run.setup == ident and run.good:
            cells.setdefault(run.cell, []).append(run.decode_tps)
    return math.exp(fmean(math.log(median(some)) for some in cells.values())) if cells else None


def measure(name: str, model: Path, space: Space, engine: Engine, asks_n: int, n_predict: int) -> dict[str, Any]:
    """Grid, tune, and the last comparison."""
    from nextn.gguf.files import open_model

    space = checked_space(space)
    opened = open_model(model)
    maker = maker_of(opened, opened, None)
    tasks = shipped_tasks()
    asks = asks_of(tasks, n_predict, 0.0)
    points = points_of(space)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        began = time.monotonic()
        made = {artifact: None if artifact.is_users else maker.make(artifact, folder)
                for artifact in {point.artifact for point in points}}  # fmt: skip
        setups = {point.id: point.setup(model, made[point.artifact]) for point in points}
        with Pool(engine, context_for(tasks, n_predict), (), asks[0].prompt) as pool:
            patience = Patience(pool, 300.0)
            for number in range(PASSES):
                order = points if number % 2 == 0 else list(reversed(points))
                for done, point in enumerate(order):
                    print(f"\r{name}: grid, pass {number + 1}, {done + 1} of {len(order)}   ", end="", file=sys.stderr)
                    for ask in asks[:asks_n]:
                        patience.run(setups[point.id], ask, number)
            grid_s = time.monotonic() - began
            grid = {ident: speed(patience.runs, ident) for ident in setups}
        began = time.monotonic()
        report = tune(model, space=space, n_predict=n_predict, engine=engine, out=folder / "out",
                      progress=lambda text: print(f"\r{name}: {text:<70}", end="", file=sys.stderr))  # fmt: skip
        tune_s = time.monotonic() - began
        won, best_threads = report.winner, space.threads[0]
        assert won is not None
        full = Point(3, threads=best_threads)
        low = full.but(artifact=Artifact(draft_head="q4_0"))
        last = {"off": Point(0, threads=best_threads), "default bundle": full, "low-bit head": low, "tuned": won}
        made.setdefault(low.artifact, None)
        made[low.artifact] = made[low.artifact] or maker.make(low.artifact, folder)
        if won.artifact not in made:
            made[won.artifact] = None if won.artifact.is_users else maker.make(won.artifact, folder)
        with Pool(engine, context_for(tasks, n_predict), (), asks[0].prompt) as pool:
            patience = Patience(pool, 120.0)
            values: dict[str, list[float]] = {what: [] for what in last}
            for n in range(9):
                print(f"\r{name}: the last comparison, {n + 1} of 9{'':<50}", end="", file=sys.stderr)
                turn = list(last) if n % 2 == 0 else list(reversed(last))
                runs = {what: patience.run(last[what].setup(model, made[last[what].artifact]), asks[n % 3], n)
                        for what in turn}  # fmt: skip
                if all(run.good for run in runs.values()):
                    for what, run in runs.items():
                        values[what].append(run.decode_tps)
    best = max((tps, ident) for ident, tps in grid.items() if tps is not None)
    found = grid.get(won.id)
    pairs = {"tuned / off": ("tuned", "off"), "tuned / default bundle": ("tuned", "default bundle"),
             "low-bit head / full head": ("low-bit head", "default bundle")}  # fmt: skip
    compared = {what: compare(values[one], values[other]) for what, (one, other) in pairs.items() if values[one]}
    return {
        "model": name,
        "synthetic_acceptance": isinstance(engine, Synthetic),
        "n_grid": len(points),
        "grid_s": round(grid_s, 1),
        "tune_s": round(tune_s, 1),
        "share_of_time": round(tune_s / grid_s, 3),
        "grid_best": {"setup": best[1], "tps": round(best[0], 2)},
        "tuned": {"setup": won.id, "decision": report.decision,
                  "tps_in_grid": None if found is None else round(found, 2)},
        "of_best": None if found is None else round(found / best[0], 4),
        "sentence": report.sentence,
        "last": {what: {"median_tps": round(median(some), 2), "n": len(some)} for what, some in values.items() if some},
        "compared": {what: {"word": one.word, "ratio": one.ratio, "low": one.low, "high": one.high}
                     for what, one in compared.items()},
        "grid": {ident: None if tps is None else round(tps, 2) for ident, tps in grid.items()},
        "n_tune_runs": len(report.runs),
        "n_disturbed": sum(not run.good for run in report.runs),
        "tried": [one.to_json() for one in report.tried],
    }  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--only", choices=["deep", "vocab"])
    parser.add_argument("--threads", type=int, nargs="+", default=[2, 1])
    args = parser.parse_args()
    engine = find_engine("xllamacpp")
    rows = []
    with tempfile.TemporaryDirectory(prefix="nextn-tune-") as text:
        folder = Path(text)
        trunk = ROOT / "tests" / "data" / "trunks" / "tiny-qwen35-Q8_0.gguf"
        bundled = nextn.attach(trunk, DEMO / "tiny-qwen35-mtp", layout="bundle", out=folder / "tiny").entry
        threads = tuple(args.threads)
        if args.only != "vocab":
            space = Space((1, 2, 3, 4, 6), (0.0, 0.5), (None, "q4_0"), (None, "q4_0"), (None,), threads)
            model = tune_models.deep(bundled, folder / "deep-Q8_0.gguf")
            rows.append(measure("deep trunk, trained block", model, space, engine, 3, 128))
            keep(args.json, engine, rows)
        if args.only != "deep":
            space = Space((1, 2, 3, 4), (0.0,), (None, "q4_0"), (None, "q4_0"), (None,), threads)
            model = tune_models.vocab(bundled, folder / "vocab-Q8_0.gguf")
            rows.append(measure("248,320 tokens, random, synthetic acceptance", model, space, Synthetic(engine), 2, 32))
            keep(args.json, engine, rows)
    return 0


def keep(path: Path | None, engine: Engine, rows: list[dict[str, Any]]) -> None:
    """Print the last row without its raw figures, and write all rows so far."""
    print(file=sys.stderr)
    print(json.dumps({key: value for key, value in rows[-1].items() if key not in ("grid", "tried")}, indent=1))
    if path is not None:
        result = {"engine": {"name": engine.name, "version": engine.version}, "machine": machine(), "rows": rows}
        path.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
