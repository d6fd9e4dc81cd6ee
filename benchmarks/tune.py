"""Tune's race against the full grid in one run: `python benchmarks/tune.py [--json benchmarks/tune.json]`.

Two models. "vocab": a vocabulary of 248,320 tokens in the shape of Qwen3.5-0.8B, random weights, drafts accepted by
llama.cpp's SYNTHETIC acceptance (a mean of 1.75 tokens a step at n_max 1, 2.6 at n_max 3). "deep": the trained tiny
model behind a NO-OP trunk (44 layers more whose output projections are zero), drafts accepted for real. For each: tune
races; then every setting of the grid is timed once on every prompt of tune's final, each loaded once; then MTP off,
the bundle at upstream's default n_max of 3, the grid's best and tune's answer take turns. Needs a quiet machine. Writes
JSON (raw runs included) and prints the tables of the documentation.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))


import nextn
from deep_model import make_deep_model
from nextn.engines.base import Engine, Launch, Running
from nextn.engines.batches import BatchTimer
from nextn.engines.xllamacpp import Xllamacpp
from nextn.measure.bench_report import ALL_TASKS, compare_setups, overall_tps, spread_figures
from nextn.measure.bench_setup import machine
from nextn.measure.candidate_sidecars import Maker
from nextn.measure.engine_pool import Pool
from nextn.measure.patience import Patience
from nextn.measure.stats import Spread
from nextn.measure.target import open_target
from nextn.measure.tasks import OWN
from nextn.measure.timed_run import Ask, TimedRun, TimedSetup, mark_slow
from nextn.measure.tune_space import Artifact, Point, Space
from nextn.schemas.base import plain
from nextn.verbs.demo import PROMPTS
from vocab_model import LAYERS, VOCAB, make_vocab_model

RATES = (0.75, 0.5, 0.35, 0.25, 0.18, 0.12)
"""Synthetic acceptance by position: 1.75 tokens a step at n_max 1, 2.25 at 2, 2.6 at 3."""
MORE_PROMPTS = ("import os\nimport re\n\n\ndef walk(path, pattern):\n",)
N_CTX = 512
DEFAULT_N_MAX = 3


@dataclass(frozen=True)
class Synthetic:
    """An engine that accepts drafts by `RATES`, whatever they are; implements `Engine`."""

    engine: Engine

    @property
    def name(self) -> str:
        """The engine's."""
        return self.engine.name

    @property
    def version(self) -> str:
        """The engine's."""
        return f"{self.engine.version}, synthetic acceptance"

    def start(self, launch: Launch) -> Running:
        """See `Engine.start`."""
        if launch.n_max:
            rates = f"speculative.synth_rates={json.dumps(RATES[: launch.n_max])}"
            launch = replace(launch, extra_args=(*launch.extra_args, rates))
        return self.engine.start(launch)

    def batches(self, launch: Launch) -> BatchTimer:
        """See `Engine.batches`."""
        return self.engine.batches(launch)


@dataclass(frozen=True)
class Case:
    """One model and what is searched."""

    name: str
    make: Callable[[Path], Path]
    n_max: tuple[int, ...]
    p_min: tuple[float, ...]
    heads: tuple[str, ...]
    blocks: tuple[str, ...]
    threads: int
    n_predict: int
    synthetic: bool


def cases(small: bool, threads: int) -> list[Case]:
    """Both models; `small` for a try-out that says nothing about speed."""
    vocab, layers = (20_000, 4) if small else (VOCAB, LAYERS)
    return [
        Case("vocab", lambda out: make_vocab_model(out, vocab, layers), (1, 2, 3), (0.0, 0.5), ("q4_0",), ("q4_0",),
             threads, 32, True),
        Case("deep", make_deep_model, (1, 2, 3, 4, 6), (0.0, 0.5, 0.75), ("q4_0",), ("q4_0",), 1, 128, False),
    ]  # fmt: skip


def prove(case: Case, engine: Engine, folder: Path, passes: int, patience_s: float) -> dict[str, Any]:
    """Race, grid, and the interleaved comparison."""
    model = case.make(folder / f"{case.name}-MTP-Q8_0.gguf")
    if case.synthetic:
        engine = Synthetic(engine)
    prompts = [*PROMPTS, *MORE_PROMPTS]
    (folder / "prompts.txt").write_text("\n---\n".join(prompts))
    say(f"{case.name}: racing")
    start = time.monotonic()
    report = nextn.tune(
        model, engine=engine, n_max=case.n_max, p_min=case.p_min, types=case.blocks, head_types=case.heads,
        embd_types=(), threads=[case.threads], prompts=folder / "prompts.txt", n_predict=case.n_predict, n_ctx=N_CTX,
        patience_s=patience_s, out=folder / f"tuned-{case.name}", say=say,
    )  # fmt: skip
    race_s = time.monotonic() - start
    log(f"{case.name}: raced in {race_s:.0f} s, {len(report.runs)} runs, {report.n_disturbed} disturbed")
    log(report.sentence)
    asks = [Ask(OWN, at, text, case.n_predict, seed=at) for at, text in enumerate(prompts)]
    scratch = folder / f"grid-{case.name}"
    scratch.mkdir()
    maker = Maker(open_target(model), None, scratch, say)
    space = Space(case.n_max, False, case.p_min, case.heads, (), case.blocks, (case.threads,), own=maker.own)
    start = time.monotonic()
    grid_runs = time_grid(case, space, maker, engine, asks, patience_s)
    grid_s = time.monotonic() - start
    log(f"{case.name}: grid of {len(space.grid())} in {grid_s:.0f} s, {len(grid_runs)} runs")
    speeds = {
        point: speed.median
        for point in space.grid()
        if (speed := overall_tps([run for run in grid_runs if run.setup == point.id])) is not None
    }
    best = max(speeds, key=lambda point: speeds[point])
    answer = report.point
    head = Artifact(None, case.heads[0], case.heads[0])
    shown = {
        "off": space.off,
        "bundle": Point(DEFAULT_N_MAX, threads=case.threads),
        "bundle, low-bit head": Point(DEFAULT_N_MAX, artifact=head, threads=case.threads),
        "n_max 1": Point(1, threads=case.threads),
        "n_max 1, low-bit head": Point(1, artifact=head, threads=case.threads),
        "grid": best,
        **({"tuned": answer} if answer is not None else {}),
    }
    unique = list(dict.fromkeys(shown.values()))
    say(f"{case.name}: {len(unique)} settings take turns")
    runs = take_turns(case, maker, engine, unique, asks, passes, patience_s)
    return summary(case, engine, report, shown, unique, speeds, runs, grid_runs, race_s, grid_s)


def setup_of(point: Point, maker: Maker) -> TimedSetup:
    """To be timed."""
    return point.setup(point.id, maker.model, maker.sidecar(point.artifact) if point.n_max else None)


def time_grid(
    case: Case, space: Space, maker: Maker, engine: Engine, asks: Sequence[Ask], patience_s: float
) -> list[TimedRun]:
    """Every setting on every prompt, each loaded once: the cheapest way through the whole grid."""
    points = space.grid()
    with Pool(engine, N_CTX, (), asks[0].prompt, side_by_side=False) as pool:
        patience = Patience(pool, patience_s, say)
        for number, point in enumerate(points, start=1):
            say(f"{case.name}: grid, {number} of {len(points)}: {point.id}")
            for ask in asks:
                patience.run(setup_of(point, maker), ask)
    return patience.runs


def take_turns(
    case: Case,
    maker: Maker,
    engine: Engine,
    points: Sequence[Point],
    asks: Sequence[Ask],
    passes: int,
    patience_s: float,
) -> list[TimedRun]:
    """Interleaved passes over all prompts; every second one in reverse."""
    with Pool(engine, N_CTX, (), asks[0].prompt) as pool:
        patience = Patience(pool, patience_s, say)
        for number in range(passes):
            for ask in asks:
                for point in points if number % 2 == 0 else reversed(points):
                    say(f"{case.name}: pass {number + 1} of {passes}, prompt {ask.prompt_index}: {point.id}")
                    patience.run(setup_of(point, maker), ask, number)
    return mark_slow(patience.runs)


def summary(
    case: Case,
    engine: Engine,
    report: nextn.TuneReport,
    shown: dict[str, Point],
    unique: Sequence[Point],
    speeds: dict[Point, float],
    runs: list[TimedRun],
    grid_runs: list[TimedRun],
    race_s: float,
    grid_s: float,
) -> dict[str, Any]:
    """The figures, JSON-ready."""
    turns = {point: overall_tps([run for run in runs if run.setup == point.id]) for point in unique}

    def spread(value: Spread | None) -> dict[str, Any] | None:
        figures = spread_figures(value)
        return None if figures is None else plain(figures)

    def against(one: str, other: str) -> dict[str, Any] | None:
        if one not in shown or other not in shown:
            return None
        if shown[one] == shown[other]:
            return {"same": True}
        first, second = (setup_of_id(shown[name]) for name in (one, other))
        words = (shown[one].id, shown[other].id)
        return plain(compare_setups(first, second, runs, ALL_TASKS, n_tests=1, words=words).document)

    tuned = turns.get(shown["tuned"]) if "tuned" in shown else None
    best = turns[shown["grid"]]
    race_runs = report.runs
    return {
        "model": case.name,
        "engine": f"{engine.name} {engine.version}",
        "synthetic_acceptance": list(RATES) if case.synthetic else None,
        "prompts": len({run.prompt for run in grid_runs}),
        "n_predict": case.n_predict,
        "threads": case.threads,
        "answer": report.to_json()["answer"],
        "tuned": None if report.point is None else report.point.id,
        "race": {"wall_s": round(race_s, 1), "runs": len(race_runs), "disturbed": report.n_disturbed,
                 "settings": sum(bool(trial.stages) for _, trial in report.trials)},
        "grid": {"wall_s": round(grid_s, 1), "runs": len(grid_runs), "settings": len(shown_grid(speeds)),
                 "disturbed": sum(not run.good for run in grid_runs), "best": shown["grid"].id,
                 "decode_tps": {point.id: round(speed, 2) for point, speed in speeds.items()}},
        "share_of_time": round(race_s / grid_s, 3),
        "distance_to_best": None if tuned is None or best is None else round(1 - tuned.median / best.median, 4),
        "turns": {
            name: {"setting": point.id, "decode_tps": spread(turns[point])} for name, point in shown.items()
        },
        "comparisons": {
            "tuned against off": against("tuned", "off"),
            "tuned against bundle": against("tuned", "bundle"),
            "tuned against the grid's best": against("tuned", "grid"),
            "low-bit head against full, n_max 3": against("bundle, low-bit head", "bundle"),
            "low-bit head against full, n_max 1": against("n_max 1, low-bit head", "n_max 1"),
        },
        "turn_runs_disturbed": sum(not run.good for run in runs),
        "race_result": report.to_json(),
        "runs": {"grid": [plain(run.document) for run in grid_runs], "turns": [plain(run.document) for run in runs]},
    }  # fmt: skip


def shown_grid(speeds: dict[Point, float]) -> list[str]:
    """Settings of the grid that have a figure."""
    return [point.id for point in speeds]


def setup_of_id(point: Point) -> TimedSetup:
    """Only to be compared."""
    return TimedSetup(point.id, Path(), n_max=point.n_max)


def docs(results: Sequence[dict[str, Any]]) -> str:
    """Tables for docs/decisions/tuning.md."""
    names = {"vocab": "vocabulary of 248,320, synthetic acceptance", "deep": "trained tiny model, no-op trunk"}
    lines = ["| model | setting | tokens/s, median (low to high) |", "| --- | --- | --- |"]
    for one in results:
        for name, row in one["turns"].items():
            tps = row["decode_tps"]
            figure = "no undisturbed run"
            if tps is not None:
                figure = f"{tps['median']:.1f} ({tps['low']:.1f} to {tps['high']:.1f})"
            lines.append(f"| {names[one['model']]} | {name}: {row['setting']} | {figure} |")
    lines += ["", "| model | tune's answer | race / grid | share of time | distance to the grid's best |",
              "| --- | --- | --- | --- | --- |"]  # fmt: skip
    for one in results:
        race, grid = one["race"], one["grid"]
        away = "-" if one["distance_to_best"] is None else f"{100 * one['distance_to_best']:.1f} %"
        lines.append(
            f"| {names[one['model']]} | {one['tuned'] or one['answer']['word']} | "
            f"{race['settings']} settings, {race['runs']} runs, {race['wall_s']:.0f} s / "
            f"{grid['settings']}, {grid['runs']}, {grid['wall_s']:.0f} s | "
            f"{100 * one['share_of_time']:.0f} % | {away} |"
        )
    lines.append("")
    for one in results:
        lines.append(f"- {names[one['model']]}: {one['answer']['sentence']}")
        for name, found in one["comparisons"].items():
            if found is not None:
                lines.append(f"  - {name}: {'the same setting' if 'same' in found else found['sentence']}")
    return "\n".join(lines)


def say(text: str) -> None:
    """Progress, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text[:110]}", end="", file=sys.stderr, flush=True)


def log(text: str) -> None:
    """A line that stays."""
    print(("\r\033[K" if sys.stderr.isatty() else "") + text, file=sys.stderr, flush=True)


def main() -> int:
    """Prove both models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path(__file__).resolve().parent / "tune.json")
    parser.add_argument("--models", nargs="+", default=["vocab", "deep"], choices=["vocab", "deep"])
    parser.add_argument("--passes", type=int, default=2, help="of the comparison at the end")
    parser.add_argument("--threads", type=int, default=2, help="of the model with the large vocabulary")
    parser.add_argument("--patience", type=float, default=120, help="seconds that disturbances may cost in each part")
    parser.add_argument("--small", action="store_true", help="a try-out with a small vocabulary")
    args = parser.parse_args()
    engine = Xllamacpp.find()
    results = []
    start = time.monotonic()
    for case in cases(args.small, args.threads):
        if case.name in args.models:
            with tempfile.TemporaryDirectory(prefix="nextn-tune-") as folder:
                results.append(prove(case, engine, Path(folder), args.passes, args.patience))
            out = {"version": 1, "command": sys.argv, "machine": machine(), "results": results}
            args.json.write_text(json.dumps(out, indent=1) + "\n")  # after each: nothing is lost
    print(docs(results))
    print(f"{time.monotonic() - start:.0f} s in all; raw figures: {args.json}", file=sys.stderr)
    return 0 if all(one["tuned"] is not None for one in results) else 1


if __name__ == "__main__":
    sys.exit(main())
