"""Tune: the fastest settings and types of the block on this machine, found by racing, or that MTP is best left off."""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ..engines.base import Launch
from ..errors import EngineFailed, OutputExists, UsageError
from ..gguf.types import parse_type_name
from ..layouts import naming, places
from ..measure.batch_curve import LEAST_PASSES, curve_at, time_curve
from ..measure.bench_setup import context_for, machine
from ..measure.candidate_sidecars import Maker
from ..measure.engine_pool import Pool
from ..measure.patience import Patience
from ..measure.target import MeasuredModel, open_target
from ..measure.tasks import read_task, shipped_tasks
from ..measure.timed_run import SHORT, Ask
from ..measure.tune_bound import hopeless, perfect_draft, sizes_for
from ..measure.tune_cpus import allowed_cpus, thread_counts
from ..measure.tune_report import TuneReport, planned_runs
from ..measure.tune_search import MAX_FINALISTS, Final, Search, Trial, passes_for, screen_asks
from ..measure.tune_space import BLOCK_TYPES, EMBD_TYPES, HEAD_TYPES, N_MAX, P_MIN, Point, Space
from ..measure.worth_bytes import head_share
from ..progress import Say, heard
from ..schemas.base import EngineName
from ..shell import shell
from ..tuned import TUNED_SUFFIX
from ..writing.durable import write_file
from ..writing.scratch import scratch_folder

if TYPE_CHECKING:
    from ..engines import EngineChoice
    from ..engines.base import Engine

_CURVE_DEPTH = 128  # tokens in front of the batches that are timed first
PATIENCE_S = 300.0  # total seconds that disturbances may cost


def tune(
    model: str | Path,
    *,
    sidecar: str | Path | None = None,
    donor: str | Path | None = None,
    n_max: Sequence[int] | None = None,
    p_min: Sequence[float] | None = None,
    types: Sequence[str] | None = None,
    head_types: Sequence[str] | None = None,
    embd_types: Sequence[str] | None = None,
    threads: Sequence[int] | None = None,
    tasks: Sequence[str] | None = None,
    prompts: str | Path | None = None,
    n_predict: int = 96,
    repeats: int | None = None,
    budget_s: float | None = None,
    engine: EngineChoice = None,
    engine_args: Sequence[str] = (),
    n_ctx: int | None = None,
    patience_s: float = PATIENCE_S,
    side_by_side: bool = True,
    out: str | Path | None = None,
    dry_run: bool = False,
    from_curve: bool = True,
    say: Say | None = None,
) -> TuneReport:
    """Find the fastest way to run a model greedily on this machine; write the settings and, if needed, a sidecar.

    `donor`: where the block of a model without one comes from. `n_max`, `p_min`, `types` (block), `head_types`,
    `embd_types` and `threads` narrow the search; an empty sequence leaves that setting alone. The search runs with the
    first of `threads`. `budget_s` limits the races, in seconds; the final runs may exceed it if they must. `out`: a
    folder, or the sidecar's name. `from_curve`: batches of tokens are timed first, and lengths at which even a perfect
    draft would be slower than MTP off are never raced; if all are, the answer is there in seconds. Nothing is written
    with `dry_run`, or if the machine was too busy for a result.

    Raises UsageError, NoBlock, OutputExists, EngineMissing, EngineRefused, EngineFailed, and what opening and making
    files raises.
    """
    say = heard(say)
    started = time.monotonic()
    asked = (read_task(prompts),) if prompts is not None else shipped_tasks(tasks)
    target = open_target(model, sidecar, needs_block=donor is None)
    outputs = _outputs(target, out)
    asks = [
        Ask(task.name, index, prompt, n_predict, seed=index)
        for task in asked
        for index, prompt in enumerate(task.prompts)
    ]
    context = n_ctx or context_for(asked, n_predict)
    notes = list(target.notes)
    with ExitStack() as stack:
        maker = Maker(target, donor, stack.enter_context(scratch_folder("tune")), say)
        space = _space(maker, n_max, p_min, types, head_types, embd_types, threads)
        if not maker.can_make:
            notes.append("the model has both its own block and a sidecar: other types of the block are not tried")
        settings = {
            "tasks": {task.name: len(task.prompts) for task in asked},
            "n_predict": n_predict,
            "n_ctx": context,
            "budget_s": budget_s,
            "n_max": list(space.n_max),
            "p_min": list(space.p_min),
            "block_types": list(space.blocks),
            "head_types": list(space.heads),
            "embd_types": list(space.embds),
            "threads": list(space.threads),
            "n_grid": len(space.grid()),
        }
        plan = _planned(space, asks, repeats)
        if dry_run:
            points = dict.fromkeys(point for _, stage in _stages(space) for point in stage)
            return TuneReport(
                str(target.model.entry), "not_tried", "nothing was tried: this is a dry run.", None, None,
                tuple(engine_args), None, EngineName("", ""), machine(), settings,
                [(p.named(space.threads[0]), Trial(p, outcome="not tried")) for p in points], [], [], plan, 0.0, None,
                outputs if maker.can_make else outputs[1:], True, notes,
            )  # fmt: skip
        from ..engines import find_engine

        judge = find_engine(engine)
        never: dict[int, float] = {}
        if from_curve:
            launch = Launch(target.model.entry, None, 0, context, space.threads[0], tuple(engine_args), timed=True)
            never, why = _hopeless(judge, launch, target, space.n_max, patience_s, say)
            notes += why
        trials = {f"n_max {n}": Trial(Point(n, threads=space.threads[0]), outcome="not tried") for n in never}
        able = tuple(n for n in space.n_max if n not in never)
        pool = stack.enter_context(Pool(judge, context, engine_args, asks[0].prompt, side_by_side=side_by_side))
        patience = Patience(pool, patience_s, say)
        final: Final | None = None
        if able:
            raced = replace(space, n_max=able, barred=tuple(never))
            search = Search(raced, maker, patience, asks, repeats=repeats, budget_s=budget_s, say=say)
            final = search.run()
            notes += search.notes
            trials |= search.trials
        pool.drop_all()
        found, file = _carry_out(final, maker, target, outputs) if able else (space.off, None)
    if patience.used_up:
        notes.append(f"disturbances took {patience.spent_s:.0f} s, after which disturbed runs were not repeated")
    if any(SHORT in run.disturbed for run in patience.runs):
        notes.append("some answers were too short to be timed")
    report = TuneReport(
        model=str(target.model.entry.absolute()),
        word="off" if not able else final.word if final else "machine_busy",
        sentence=_sentence(final, space) if able else _never(never),
        point=found,
        sidecar=None if file is None else str(file.absolute()),
        args=tuple(engine_args),
        compared=None if final is None else final.compared,
        engine=EngineName(judge.name, judge.version),
        machine=machine(),
        settings=settings,
        trials=list(trials.items()),
        runs=patience.runs,
        final_runs=[] if final is None else final.runs,
        n_planned=plan,
        wall_s=time.monotonic() - started,
        command=None if found is None else command_line(judge, target.model.entry, file, found, engine_args),
        files=(),
        notes=notes,
    )
    if found is None:
        return report
    written = (*([file] if file == outputs[0] and file is not None else []), outputs[1])
    report = replace(report, files=written)
    outputs[1].parent.mkdir(parents=True, exist_ok=True)
    write_file(outputs[1], json.dumps(report.to_json(), indent=1, ensure_ascii=False).encode("utf-8") + b"\n")
    return report


def _outputs(target: MeasuredModel, out: str | Path | None) -> tuple[Path, Path]:
    """The sidecar that may be written, and the settings. Raises OutputExists."""
    model = target.model
    folder, file = naming.resolve_output(out, places.sidecar_folder(model), naming.sidecar_name(model, "tuned"))
    settings = folder / (model.base_name + TUNED_SUFFIX)
    for path in (folder / file, settings):
        if path.exists() or path.is_symlink():
            raise OutputExists(f"{path}: this file already exists, and nextn never overwrites; choose another -o.")
    return folder / file, settings


def _space(
    maker: Maker,
    n_max: Sequence[int] | None,
    p_min: Sequence[float] | None,
    types: Sequence[str] | None,
    head_types: Sequence[str] | None,
    embd_types: Sequence[str] | None,
    threads: Sequence[int] | None,
) -> Space:
    lengths = tuple(sorted(set(n_max) - {0})) if n_max is not None else N_MAX
    if any(n < 0 for n in lengths) or not lengths:
        raise UsageError("name draft lengths of 1 or more; MTP off is always timed as well.")
    limits = tuple(sorted({0.0, *p_min})) if p_min is not None else P_MIN
    if any(not 0.0 <= p < 1.0 for p in limits):
        wrong = next(p for p in limits if not 0.0 <= p < 1.0)
        raise UsageError(f"p_min must be a probability below 1, and {wrong:g} is not.")

    def known(names: Sequence[str] | None, default: tuple[str, ...]) -> tuple[str, ...]:
        chosen = tuple(dict.fromkeys(parse_type_name(name).name for name in (default if names is None else names)))
        return chosen if maker.can_make else ()

    counts = tuple(dict.fromkeys(threads)) if threads else thread_counts()
    if any(n < 1 for n in counts):
        raise UsageError(f"--threads is {min(counts)}; it must be at least 1.")
    if max(counts) > allowed_cpus():
        raise UsageError(
            f"{max(counts)} threads are more than the {allowed_cpus()} CPUs that this process may use, and an engine's "
            "threads wait for each other; name no more."
        )
    return Space(
        lengths,
        n_max is None,
        limits,
        known(head_types, HEAD_TYPES),
        known(embd_types, EMBD_TYPES),
        known(types, BLOCK_TYPES),
        counts,
        maker.separate_head,
        maker.own,
    )


def _stages(space: Space) -> list[tuple[str, list[Point]]]:
    """What is raced, as far as it is known beforehand: each race starts from the first value of the previous one."""
    like = replace(space.off, n_max=space.n_max[0])
    first = [space.off, *space.lengths(like)]
    head = space.with_heads(like)
    best = head[0] if head else like
    blocks = space.with_blocks(best)
    stages = [("n_max", first), ("head", head), ("embeddings", space.with_embds(best)), ("block", blocks)]
    if head or blocks:
        stages.append(("n_max again", [one for one in space.lengths(best) if one != best][:2]))
    stages += [("p_min", space.with_p_min(best)), ("threads", space.with_threads(best))]
    return [(title, points) for title, points in stages if points]


def _planned(space: Space, asks: Sequence[Ask], repeats: int | None) -> tuple[int, int]:
    extra = 2 if space.neighbours else 0
    counts = [len(points) + (2 if title != "n_max" else 0) for title, points in _stages(space)]
    counts += [extra + 2] if extra else []
    n_final = len(asks) * passes_for(MAX_FINALISTS, len(asks), repeats)
    return planned_runs(counts, len(screen_asks(asks)), n_final, MAX_FINALISTS)


def _hopeless(
    judge: Engine, launch: Launch, target: MeasuredModel, lengths: Sequence[int], patience_s: float, say: Say
) -> tuple[dict[int, float], list[str]]:
    """Lengths at which even a perfect draft is slower than MTP off, with the speed that it reaches; and notes."""
    try:
        run, all_outputs = time_curve(
            judge, launch, [_CURVE_DEPTH], patience_s / 4, say, sizes=sizes_for(lengths), most_passes=LEAST_PASSES
        )
    except EngineFailed as error:
        return {}, [f"all lengths were raced, since batches could not be timed: {error}"]
    curve = curve_at(run.passes, _CURVE_DEPTH, None if all_outputs else head_share(target.model))
    if curve is None:
        return {}, ["all lengths were raced: the machine was too busy to time batches first"]
    found = hopeless(perfect_draft(target.model, curve, target.draft), lengths)
    notes = [
        f"n_max {n} was not raced: even a perfect draft would reach {speed:.2f} times the speed without MTP"
        for n, speed in found.items()
    ]
    return found, notes


def _never(reached: dict[int, float]) -> str:
    best = max(reached, key=lambda n: reached[n])
    return (
        f"Leave MTP off: even a perfect draft would reach {reached[best]:.2f} times the speed without MTP (n_max "
        f"{best}), by what batches of tokens cost here."
    )


def _carry_out(
    final: Final | None, maker: Maker, target: MeasuredModel, outputs: tuple[Path, Path]
) -> tuple[Point | None, Path | None]:
    """The settings to keep, and the file to draft with, written under its own name if it is new."""
    if final is None or final.word == "machine_busy":
        return None, None
    if final.word == "off":
        return final.point, None
    artifact = final.point.artifact
    if artifact.as_is and target.has_block:
        return final.point, target.sidecar_path
    return final.point, maker.write(artifact, outputs[0])


def _sentence(final: Final | None, space: Space) -> str:
    if final is None:
        return "The result is inconclusive: the machine was too busy with other work; try again when it is idle."
    said = final.compared.sentence
    if final.word == "machine_busy":
        return said
    if final.word == "off":
        return f"Leave MTP off: {said}"
    return f"Use MTP with {final.point.named(space.threads[0])}: {said}"


def command_line(engine: Engine, model: Path, sidecar: Path | None, point: Point, engine_args: Sequence[str]) -> str:
    """A command that runs an engine with these settings: the llama-server that was timed, else `nextn serve`."""
    from ..engines.llama_server import LlamaServer

    entry = str(model.absolute())
    if isinstance(engine, LlamaServer) and (engine.kind or not point.n_max):
        words = [str(engine.binary), "-m", entry]
        if point.n_max:
            words += engine.options.drafting(point.n_max, point.p_min, None if sidecar is None else sidecar.absolute())
        words += [] if point.threads is None else ["-t", str(point.threads)]
        return shell(*words, *engine_args, env=engine.env)
    words = ["nextn", "serve", entry, "--n-max", str(point.n_max)]
    if point.n_max:
        words += ["--p-min", f"{point.p_min:g}"]
        words += [] if sidecar is None else ["--sidecar", str(sidecar.absolute())]
    words += [] if point.threads is None else ["--threads", str(point.threads)]
    return shell(*words, *(["--", *engine_args] if engine_args else []))


