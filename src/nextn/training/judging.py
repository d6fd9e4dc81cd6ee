"""The prompts that drafts are judged on: never among those that were trained on, as text in the model's template."""

from __future__ import annotations

from pathlib import Path

from ..engines.base import Launch
from ..engines.xllamacpp import Xllamacpp
from ..gguf.files import Model
from ..measure.prompts import PROMPTS
from ..measure.tasks import shipped_tasks
from .judge import LEAST_PROMPTS
from .prompts import Prompt, as_text, for_judging, is_held, own_prompts, templated, usable

MOST = 36


def judging_prompts(
    trunk: Model, prompts: Path | None, chats: Path | None, seed: int, engine: Xllamacpp, n_ctx: int
) -> list[str]:
    """The held-out ones of a user's own prompts, if there are enough; otherwise the shipped ones for judging.

    The engine puts messages into the model's chat template; a model without one gets beginnings of texts. Prompts that
    would leave no room in `n_ctx` tokens are left out. Raises what reading prompts and starting the engine raise.
    """
    has_template = templated(trunk)
    held = [prompt for prompt in own_prompts(prompts, chats) if is_held(prompt, seed)]
    chosen = held if len(held) >= 2 * LEAST_PROMPTS else usable(for_judging(), has_template)
    if not has_template and chosen is not held:
        texts = [*PROMPTS, *(text for task in shipped_tasks() for text in task.prompts)]
        chosen = [*chosen, *(Prompt("judge", text=text) for text in texts)]
    out = []
    with engine.start(Launch(trunk.entry, n_ctx=512, threads=1)) as running:
        for prompt in chosen:
            text = as_text(prompt, running, has_template)
            if len(running.tokenize(text)) <= n_ctx // 2:
                out.append(text)
    return out[:MOST]
