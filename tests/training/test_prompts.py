"""Prompts: many, of three tasks, none of them judged with; a user's own from lines, JSONL and chats."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from nextn.errors import FormatError, UsageError
from nextn.measure.tasks import shipped_tasks
from nextn.training.prompts import (
    TASKS,
    Prompt,
    for_judging,
    message,
    read_chats,
    read_prompts,
    sha256_of,
    shipped,
    tokenized,
    usable,
)


class Played:
    """An engine whose tokens are letters, and whose template marks roles."""

    def ask(self, path: str, payload: dict[str, Any]) -> dict[str, Any]:
        assert path == "/apply-template"
        return {"prompt": "".join(f"<{one['role']}>{one['content']}" for one in payload["messages"]) + "<assistant>"}

    def tokenize(self, text: str) -> list[int]:
        return [ord(letter) for letter in text]


def test_there_are_thousands_of_three_tasks() -> None:
    prompts = shipped()
    counts = Counter(prompt.task for prompt in prompts)
    assert set(counts) == set(TASKS) and min(counts.values()) > 1000 and len(prompts) > 4000
    assert len({prompt.key for prompt in prompts}) == len(prompts)
    assert [prompt.key for prompt in shipped()] == [prompt.key for prompt in prompts]
    texts = [prompt.text or prompt.messages[0][1] for prompt in prompts]
    assert all(text.strip() for text in texts)
    slots = ("{topic}", "{hero}", "{job}", "{name}", "{arg}", "{n}", "{thing}")
    assert not [text for text in texts if any(slot in text for slot in slots)]
    early = Counter(prompt.task for prompt in prompts[:300])
    assert min(early.values()) > 30  # a short run has all of them
    raw = usable(prompts, has_template=False)
    assert len(raw) > 1000 and not any(prompt.messages for prompt in raw)


def test_prompts_for_judging_are_others() -> None:
    trained = {(prompt.text or prompt.messages[0][1]).strip().lower() for prompt in shipped()}
    judged = [(prompt.text or prompt.messages[0][1]).strip().lower() for prompt in for_judging()]
    benched = [prompt.strip().lower() for task in shipped_tasks() for prompt in task.prompts]
    assert len(judged) >= 24 and len(set(judged)) == len(judged)
    for text in judged + benched:
        assert text not in trained
        assert not [other for other in trained if other.startswith(text) or text.startswith(other)]


def test_lines_and_jsonl(tmp_path: Path) -> None:
    path = tmp_path / "prompts.txt"
    path.write_text('one\n\n two \n{"prompt": "three\\nlines"}\n"four"\none\n', encoding="utf-8-sig")
    assert [prompt.messages[0][1] for prompt in read_prompts(path)] == ["one", "two", "three\nlines", "four"]


def test_chats_end_with_the_user(tmp_path: Path) -> None:
    chat = [
        {"role": "system", "content": "Be brief."}, {"role": "user", "content": [{"type": "text", "text": "Hi"}]},
        {"role": "assistant", "content": "Hello."}, {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "Because."},
    ]  # fmt: skip
    path = tmp_path / "chats.jsonl"
    path.write_text(json.dumps({"messages": chat}) + "\n" + json.dumps(chat[:3]) + "\n")
    first, second = read_chats(path)
    assert first.messages == (("system", "Be brief."), ("user", "Hi"), ("assistant", "Hello."), ("user", "Why?"))
    assert second.messages == (("system", "Be brief."), ("user", "Hi"))


@pytest.mark.parametrize(
    ("read", "text", "error", "word"),
    [
        (read_prompts, "\n  \n", UsageError, "no prompts"), (read_prompts, '{"text": "x"}', FormatError, "line 1"),
        (read_prompts, "ok\n{", FormatError, "line 2"), (read_chats, "{}", FormatError, "line 1"),
        (read_chats, '{"messages": [{"role": "assistant", "content": "x"}]}', FormatError, "no message of the user"),
        (read_chats, '{"messages": [{"role": "user"}]}', FormatError, "content"),
        (read_chats, '{"messages": [7]}', FormatError, "line 1"), (read_chats, "", UsageError, "no chats"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_named(tmp_path: Path, read: Any, text: str, error: type[Exception], word: str) -> None:
    path = tmp_path / "given.jsonl"
    path.write_text(text)
    with pytest.raises(error, match=word) as caught:
        read(path)
    assert str(path) in str(caught.value)


def test_the_engines_template_and_tokens() -> None:
    prompts = [message("own", "Hi"), Prompt("own", text="def f"), message("own", "x" * 500)]
    found = tokenized(prompts, Played(), True, 100, seed=0)  # type: ignore[arg-type]
    assert ["".join(map(chr, one.ids)) for one in found] == ["<user>Hi<assistant>", "def f"]
    assert any(one.held for one in found)
    plain = tokenized(prompts, Played(), False, 100, seed=0)  # type: ignore[arg-type]
    assert ["".join(map(chr, one.ids)) for one in plain] == ["Hi", "def f"]
    with pytest.raises(UsageError, match="none of the 1 prompts"):
        tokenized(prompts[2:], Played(), True, 100, seed=0)  # type: ignore[arg-type]


def test_held_out_prompts_depend_on_the_seed_and_the_text() -> None:
    prompts = [message("own", f"prompt {number}") for number in range(2000)]
    held = [{one.number for one in tokenized(prompts, Played(), False, 99, seed) if one.held} for seed in (0, 0, 1)]  # type: ignore[arg-type]
    assert held[0] == held[1] != held[2] and 30 <= len(held[0]) <= 95
    assert sha256_of(prompts) != sha256_of(prompts[::-1])
