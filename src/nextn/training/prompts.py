"""Prompts that the trunk answers: shipped ones, made of templates and topics, or the user's own.

Shipped prompts are of three tasks. `chat` and most of `code` and `prose` are messages, put into the model's own chat
template by the engine; the rest are beginnings of text, which a model without a chat template gets only. Prompts for
judging are other ones, with other topics, and never among those that are trained on.
"""

from __future__ import annotations

import hashlib
import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import product
from pathlib import Path
from typing import Any

from ..bounded import MOST_DOCUMENT, parse_json, read_bounded
from ..engines.running import RunningServer
from ..errors import FormatError, UsageError
from ..gguf.files import Model

TASKS = ("chat", "code", "prose")
OWN = "own"
JUDGE = "judge"
_PLACE = "train_prompts"
_MOST_PER_TEMPLATE = 60
_SHUFFLE = 20  # seed of the order in which templates and topics meet: a part of what is shipped, not the user's choice
HELD_SHARE = 0.03


@dataclass(frozen=True)
class Prompt:
    """What the trunk answers: messages, or a text that it continues."""

    task: str
    messages: tuple[tuple[str, str], ...] = ()  # role and content
    text: str = ""  # without messages

    @property
    def key(self) -> str:
        """What makes it the same prompt as another one."""
        return json.dumps([list(map(list, self.messages)), self.text], ensure_ascii=False)


def message(task: str, text: str) -> Prompt:
    """A prompt of one message."""
    return Prompt(task, (("user", text),))


def shipped() -> list[Prompt]:
    """The prompts shipped for training: several thousand, of three tasks, in an order that mixes them."""
    found: dict[str, Prompt] = {}
    for task in TASKS:
        for prompt in _made(task):
            found.setdefault(prompt.key, prompt)
    out = list(found.values())
    random.Random(_SHUFFLE).shuffle(out)
    return out


def for_judging() -> list[Prompt]:
    """The prompts shipped for judging."""
    return [_prompt(JUDGE, line) for line in _sections(JUDGE)["prompts"]]


def _made(task: str) -> Iterator[Prompt]:
    """Each template with some of the words of its slots; `{topic}` is filled from the section `topic`, and so on."""
    sections = _sections(task)
    chance = random.Random(f"{_SHUFFLE} {task}")
    for template in sections["templates"]:
        slots = [name for name in sections if "{" + name + "}" in template]
        combined = list(product(*(sections[name] for name in slots)))
        for words in chance.sample(combined, min(len(combined), _MOST_PER_TEMPLATE)):
            text = template
            for name, word in zip(slots, words, strict=True):
                text = text.replace("{" + name + "}", word)
            yield _prompt(task, text)


def _prompt(task: str, line: str) -> Prompt:
    """A line of a shipped file: a message, or after `>` the beginning of a text, in which `\\n` is a new line."""
    if line.startswith(">"):
        return Prompt(task, text=line[1:].lstrip().replace("\\n", "\n"))
    return message(task, line.replace("\\n", "\n"))


def _sections(task: str) -> dict[str, list[str]]:
    """A shipped file: lines below headings in brackets."""
    text = (resources.files("nextn") / _PLACE / f"{task}.txt").read_text(encoding="utf-8")
    out: dict[str, list[str]] = {}
    lines: list[str] = []
    for line in text.splitlines():
        if line.startswith("[") and line.endswith("]"):
            lines = out.setdefault(line[1:-1], [])
        elif line.strip():
            lines.append(line)
    return out


def read_prompts(path: Path) -> list[Prompt]:
    """A user's prompts: one per line, or JSONL of strings or of objects with `prompt`.

    Raises FormatError, UsageError.
    """
    out = []
    for number, line in _lines(path):
        if line.startswith(("{", '"')):
            value = parse_json(line, f"{path}, line {number:,}")
            text = value.get("prompt") if isinstance(value, dict) else value
            if not isinstance(text, str) or not text.strip():
                raise FormatError(
                    "this is not a string, or an object with a string 'prompt'", path=f"{path}, line {number:,}"
                )
        else:
            text = line
        out.append(message(OWN, text))
    return _some(out, path, "prompts; write one per line")


def read_chats(path: Path) -> list[Prompt]:
    """A user's chats, JSONL in OpenAI's form: objects with `messages`. Answers at their end are left for the trunk.

    Raises FormatError, UsageError.
    """
    out = []
    for number, line in _lines(path):
        where = f"{path}, line {number:,}"
        value = parse_json(line, where)
        given = value.get("messages") if isinstance(value, dict) else value
        try:
            messages = [(one["role"], _content(one["content"])) for one in given or ()]
        except (TypeError, KeyError) as error:
            raise FormatError(
                "this is not an object with 'messages' of 'role' and text 'content'", path=where
            ) from error
        while messages and messages[-1][0] != "user":
            messages.pop()
        if not messages or not all(isinstance(role, str) for role, _ in messages):
            raise FormatError("there is no message of the user in this chat", path=where)
        out.append(Prompt(OWN, tuple(messages)))
    return _some(out, path, "chats; write one JSON object with 'messages' per line")


def _content(value: Any) -> str:
    """The text of a message: a string, or the texts of its parts."""
    if isinstance(value, str):
        return value
    if not isinstance(value, list):
        raise TypeError(value)
    return "".join(part["text"] for part in value if part.get("type", "text") == "text")


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    try:
        text = read_bounded(path, MOST_DOCUMENT, "read the prompts").decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise FormatError("this is not UTF-8 text; name a text or JSONL file", path=path, offset=error.start) from error
    for number, line in enumerate(text.splitlines(), 1):
        if line.strip():
            yield number, line.strip()


def _some(prompts: list[Prompt], path: Path, what: str) -> list[Prompt]:
    found = list({prompt.key: prompt for prompt in prompts}.values())
    if not found:
        raise UsageError(f"{path}: this file has no {what}.")
    return found


@dataclass(frozen=True)
class Tokenized:
    """A prompt as the engine reads it."""

    number: int  # among all prompts
    ids: tuple[int, ...]
    held: bool  # kept from training


def usable(prompts: Sequence[Prompt], has_template: bool) -> list[Prompt]:
    """Those of the shipped prompts that a model can be asked: beginnings of text, and messages if it has a template."""
    if has_template:  # every second beginning, so that most of the text is answers
        return [prompt for at, prompt in enumerate(prompts) if prompt.messages or at % 2]
    return [prompt for prompt in prompts if not prompt.messages]


def own_prompts(prompts: Path | None, chats: Path | None) -> list[Prompt]:
    """A user's own, from both kinds of files. Raises what `read_prompts` and `read_chats` raise."""
    return [*([] if prompts is None else read_prompts(prompts)), *([] if chats is None else read_chats(chats))]


def templated(model: Model) -> bool:
    """Whether the model can be sent messages."""
    return bool(model.header.get("tokenizer.chat_template"))


def as_text(prompt: Prompt, running: RunningServer, has_template: bool) -> str:
    """What the model reads: messages in its chat template, as the engine fills it in. Raises EngineFailed."""
    if not prompt.messages:
        return prompt.text
    if not has_template:
        return "\n\n".join(content for _, content in prompt.messages)
    messages = [{"role": role, "content": content} for role, content in prompt.messages]
    return str(running.ask("/apply-template", {"messages": messages})["prompt"])


def tokenized(
    prompts: Sequence[Prompt], running: RunningServer, has_template: bool, longest: int, seed: int
) -> list[Tokenized]:
    """The engine's own tokens of each prompt, in the model's chat template; those longer than `longest` are left out.

    The held-out ones are chosen by `seed` and their text. Raises EngineFailed.
    """
    out = []
    for number, prompt in enumerate(prompts):
        ids = tuple(running.tokenize(as_text(prompt, running, has_template)))
        if 0 < len(ids) <= longest:
            out.append(Tokenized(number, ids, is_held(prompt, seed)))
    if not out:
        raise UsageError(f"none of the {len(prompts):,} prompts has from 1 to {longest:,} tokens; use shorter ones.")
    if not any(one.held for one in out):
        out[0] = Tokenized(out[0].number, out[0].ids, True)
    return out


def is_held(prompt: Prompt, seed: int) -> bool:
    """Whether a prompt is kept from training."""
    return _share(prompt.key, seed) < HELD_SHARE


def is_held_ids(ids: Sequence[int], seed: int) -> bool:
    """The same for a prompt that is only known by its tokens."""
    return _share(json.dumps(list(ids)), seed) < HELD_SHARE


def _share(key: str, seed: int) -> float:
    """A number from 0 to 1 that depends on what makes the prompt the same, and the seed."""
    digest = hashlib.sha256(f"{seed} {key}".encode("utf-8", "surrogatepass")).digest()
    return int.from_bytes(digest[:8], "big") / 2**64


def sha256_of(prompts: Sequence[Prompt]) -> str:
    """What identifies a list of prompts."""
    text = "\n".join(prompt.key for prompt in prompts)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
