"""The parts that bench and tune share: runs, spreads, comparisons, the machine."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, field

from .base import Count, DocumentPart, Positive, Seconds, Share, doc

Speed = Annotated[float, Meta(ge=0)]
Rates = Annotated[
    list[Share], doc("share of verification steps in which the 1st, 2nd, ... drafted token was accepted")
]


class SpreadFigures(DocumentPart):
    """Median, least and most of the undisturbed runs."""

    median: Annotated[float, Meta(gt=0)]
    low: Annotated[float, Meta(gt=0)]
    high: Annotated[float, Meta(gt=0)]
    n: Annotated[Positive, doc("undisturbed runs; over several prompts: of the prompt with the fewest")]


class SetupComparison(DocumentPart):
    """One setup against another."""

    setup: Annotated[str, doc("id of the setup")]
    base: Annotated[str, doc("id of the setup that it is compared with")]
    task: Annotated[str, doc('a task, or "all"')]
    word: Literal["faster", "slower", "not_distinguishable", "machine_busy"]
    ratio: Annotated[
        float | None,
        doc(
            "speed of setup divided by speed of base (Hodges-Lehmann estimate); null: machine_busy, or too few "
            "pairs for the test"
        ),
    ]
    ratio_low: Annotated[
        float | None,
        doc("lower end of its 95 % interval, corrected for the number of comparisons over all tasks"),
    ]
    ratio_high: Annotated[float | None, doc("upper end")]
    p: Annotated[Share | None, doc("two-sided Wilcoxon signed-rank test, corrected likewise")]
    n_pairs: Annotated[Count, doc("undisturbed runs of both on the same prompt in the same pass")]
    sentence: str


class Computer(DocumentPart):
    """The machine that figures were measured on."""

    cpu: str
    n_cpus: Positive
    memory_bytes: int | None
    system: str


class RawRun(DocumentPart):
    """One timed run; null: not known."""

    setup: Annotated[str, doc("id of the setup")]
    task: str
    prompt: Annotated[Count, doc("index within the task")]
    pass_no: Annotated[Count, doc("number of the pass over all setups, from 0")] = field(name="pass")
    attempt: Annotated[Count, doc("0, plus one for each repetition of a disturbed run")]
    n_tokens: Annotated[Count, doc("generated tokens")]
    decode_tps: Annotated[Speed, doc("generated tokens per second, by the engine's clock")]
    prompt_tps: Annotated[Speed, doc("prompt tokens per second, by the engine's clock")]
    drafted: Count
    accepted: Count
    steps: Annotated[Count, doc("verification steps")]
    acceptance: Rates | None
    wall_s: Annotated[Seconds, doc("from request to answer, prompt included")]
    cpu_s: Annotated[float | None, doc("CPU seconds of the engine in that time")]
    cpu_ratio: Annotated[float | None, doc("cpu_s divided by wall time and threads")]
    wait_share: Annotated[float | None, doc("share of the CPU time that the engine was ready to use and did not get")]
    others_cpus: Annotated[float | None, doc("CPUs that other processes kept busy on average")]
    steal_cpus: Annotated[float | None, doc("CPUs that a hypervisor took away on average")]
    n_involuntary: Annotated[int | None, doc("involuntary context switches of the engine's threads")]
    disturbed: list[Literal["cpu_wait", "others_busy", "cpu_stolen", "slower_than_repeats", "too_short"]]
    used: Annotated[bool, doc("whether its speed counts")]
