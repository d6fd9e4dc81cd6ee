"""What the engine check found, and the verdict that follows from it. Pure."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

from ..engines.base import Completion
from ..schemas.base import EngineName
from ..schemas.verify import ControlRun, Speeds

T = TypeVar("T")

Verdict = Literal["passed", "failed", "cannot_tell"]

NEAR_TIE_NATS = 0.1
"""Two tokens whose log-probabilities differ by no more than this are as good as tied: rounding may choose either.

Verification is a batch, and batched kernels round differently. Measured on a trained 4-layer model on a CPU, the
difference between the two best tokens moves by up to 0.011 nats (bf16), 0.041 (q4_k_m) or not at all (q8_0) when the
same prefix is decoded as one batch; divergences seen with MTP had gaps of 0.004 and 0.009. The threshold is 2.4 times
the largest movement, since deeper models add up more of it; one token in twenty has a gap that small.
"""
MIN_DRAFTED = 8  # with fewer drafted tokens, acceptance is meaningless
MIN_ACCEPTANCE = 0.1  # below this at the first draft position, a block cannot be distinguished from one that guesses
COLLAPSE_RATIO = 0.5  # the control has collapsed when its acceptance is at most this share of the real one


@dataclass(frozen=True)
class Divergence:
    """The first place where one prompt's text with MTP diverges from the text without."""

    n_max: int  # the draft length at which it happened
    prompt: int  # index of the prompt
    position: int  # index of the generated token
    token_off: int | None  # the token without MTP; None: the text had ended
    token_on: int | None  # the token with MTP; None: the text had ended
    # By how much the engine without MTP considered `token_off` more likely (difference of natural logs); None: unknown.
    gap_nats: float | None = None
    # `token_on` is not among the looked-up alternatives: the gap is at least `gap_nats`.
    gap_is_lower_bound: bool = False
    # How far that gap moves when the engine without MTP decodes the same text as one batch; None: unknown.
    batch_shift_nats: float | None = None
    # Whether the prompts, asked once more on as many slots, gave this divergence again; None: not asked. An engine that
    # works on several sequences in one batch can write another text once and not again (docs/serving.md).
    came_back: bool | None = None

    @property
    def near_tie(self) -> bool:
        """Whether rounding explains it: the gap is tiny, or batching alone moves it by at least as much."""
        if self.gap_nats is None or self.gap_is_lower_bound:
            return False
        return self.gap_nats <= max(NEAR_TIE_NATS, self.batch_shift_nats or 0.0)

    @property
    def beyond_rounding(self) -> bool:
        """Whether rounding cannot explain it; neither this nor `near_tie` when the gap is not known."""
        if self.token_off is None or self.token_on is None:
            return True
        return not self.near_tie and self.gap_nats is not None and self.gap_nats > NEAR_TIE_NATS

    @property
    def transient(self) -> bool:
        """Whether it was beyond rounding and did not come back: not the block's doing, which is the same each time."""
        return self.beyond_rounding and self.came_back is False


@dataclass(frozen=True)
class EngineReport:
    """What one engine says about one model."""

    engine: str  # the engine's name
    engine_version: str  # the engine's version
    # Passed: same text, and the block drafts; failed: not so; cannot_tell: not enough evidence.
    verdict: Verdict
    reasons: list[str]  # one sentence each, the decisive ones
    n_prompts: int  # prompts asked
    n_drafted: int = 0  # tokens drafted in all runs with MTP, excluding the control
    # Where texts diverge, at most one per prompt and n_max.
    divergences: list[Divergence] = field(default_factory=list)
    same_text: bool | None = None  # no divergence at all, not even a near tie; None: never compared
    # By n_max: the share of verification steps in which the 1st, 2nd, ... drafted token was accepted.
    acceptance: dict[int, list[float]] = field(default_factory=dict)
    # Acceptance at the first draft position with shuffled block weights; None: not run.
    control_acceptance: float | None = None
    control_collapsed: bool | None = None  # whether the control behaved as it must; None: not run
    tps_off: float | None = None  # generated tokens per second without MTP, all prompts together
    # The same by n_max with MTP; per slot, where several answered at a time.
    tps_on: dict[int, float] = field(default_factory=dict)
    slots: int = 1  # prompts that were answered at the same time with MTP
    answers: dict[int, list[Completion]] = field(default_factory=dict, repr=False)  # by n_max, in the prompts' order

    @property
    def documented(self) -> dict[str, Any]:
        """The fields of verify's JSON document that only an engine fills."""
        return {
            "engine": EngineName(self.engine, self.engine_version),
            "n_prompts": self.n_prompts,
            "n_drafted": self.n_drafted,
            "slots": self.slots,
            "same_text": self.same_text,
            "divergences": self.divergences,
            "acceptance": by_text(self.acceptance),
            "control": ControlRun(self.control_acceptance, self.control_collapsed),
            "tps": Speeds(self.tps_off, by_text(self.tps_on)),
        }


def by_text(by_n_max: dict[int, T]) -> dict[str, T]:
    """Keys as JSON requires them."""
    return {str(n): value for n, value in by_n_max.items()}



def judge(
    divergences: list[Divergence],
    n_prompts: int,
    n_max: int,
    acceptance: list[float] | None,
    n_drafted: int,
    control: float | None,
    control_trouble: str,
) -> tuple[Verdict, list[str]]:
    """The verdict and its reasons.

    `acceptance` by draft position and `n_drafted` are those of the runs with the smallest draft length, `n_max`;
    `control` is the acceptance of the control, or None because of `control_trouble`.
    """
    wrong = [one for one in divergences if one.beyond_rounding and not one.transient]
    if wrong:
        return "failed", [_told(one) for one in wrong]
    doubts = [_told(one) for one in divergences if not (one.near_tie or one.transient)]
    if acceptance is None and n_drafted >= MIN_DRAFTED:
        doubts.append(f"with n_max {n_max} the engine does not say which of its {n_drafted} drafted tokens it accepted")
    elif acceptance is None or n_drafted < MIN_DRAFTED:
        doubts.append(
            f"with n_max {n_max} the engine drafted {n_drafted} tokens on {n_prompts} prompts; it takes "
            f"{MIN_DRAFTED} to measure acceptance"
        )
    elif acceptance[0] < MIN_ACCEPTANCE:
        doubts.append(
            f"{acceptance[0]:.1%} of {n_drafted} drafted tokens were accepted, under {MIN_ACCEPTANCE:.0%}: the block "
            "cannot be distinguished from one that guesses"
        )
    elif control is None:
        doubts.append(f"acceptance was {acceptance[0]:.1%}, with nothing to compare it to: {control_trouble}")
    elif control > COLLAPSE_RATIO * acceptance[0]:
        doubts.append(
            f"with shuffled block weights {control:.1%} of the drafted tokens were still accepted, against "
            f"{acceptance[0]:.1%}: these prompts do not show what the block knows"
        )
    if doubts or acceptance is None or control is None:
        return "cannot_tell", doubts
    transient = [one for one in divergences if one.transient]
    ties = len(divergences) - len(transient)
    same = f"texts differ at {ties} near ties only" if ties else "the text is the same with and without MTP"
    once = "; asked once more on as many slots the engine did not write that, so the block is not to blame"
    return "passed", [
        f"{same}, on {n_prompts} prompts" + (" when asked once more" if transient else ""),
        *(_told(one) + once for one in transient),
        f"{acceptance[0]:.1%} of {n_drafted} tokens drafted with n_max {n_max} were accepted, and {control:.1%} with "
        "shuffled block weights",
    ]


def _told(one: Divergence) -> str:
    where = f"with n_max {one.n_max} the text of prompt {one.prompt} diverges at token {one.position}"
    if one.token_off is None or one.token_on is None:
        return f"{where}: it ends {'without' if one.token_off is None else 'with'} MTP and goes on otherwise"
    tokens = f"{one.token_off} without MTP, {one.token_on} with it"
    if one.gap_nats is None:
        return f"{where} ({tokens}), and the engine without MTP did not repeat its own text there"
    least = "at least " if one.gap_is_lower_bound else ""
    return f"{where} ({tokens}), where the first is more likely by {least}{one.gap_nats:.3f} nats"
