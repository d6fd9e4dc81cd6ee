"""The page of `nextn report`, made from models and documents whose every name is an attack."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import all_verbs
import msgspec
import mutants
import pytest
from mutants import Parts

from conftest import CHECKPOINT, Q4
from nextn.engines import LlamaServer
from nextn.results.page import page
from nextn.results.section import Section
from nextn.results.sections import KINDS, read_sections
from nextn.schemas import document_type

EVIL = "</script><script>alert(1)</script><img src=x onerror=alert(1)>]]>--><!--\"'&" + mutants.UGLY
TAGS = {
    "html", "head", "meta", "title", "style", "body", "header", "h1", "h2", "button", "main", "p", "section", "div",
    "pre", "table", "caption", "thead", "tbody", "tr", "th", "td", "canvas", "label", "output", "input", "script",
    "dl", "dt", "dd",
}  # fmt: skip


class Seen(HTMLParser):
    """Elements of a page, and its text outside scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: set[str] = set()
        self.scripts: list[str] = []
        self.text = ""
        self.inside = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes |= {name for name, _ in attrs}
        self.inside = tag
        if tag == "script":
            self.scripts.append("")

    def handle_endtag(self, tag: str) -> None:
        self.inside = ""

    def handle_data(self, data: str) -> None:
        if self.inside == "script":
            self.scripts[-1] += data
        elif self.inside != "style":
            self.text += data

    def handle_comment(self, data: str) -> None:
        raise AssertionError(f"a comment: {data}")


def check_harmless(made: bytes) -> Seen:
    """Nothing but the page's own elements; no character that moves, turns or hides text."""
    own = page([Section("s", ())]).decode()
    text = made.decode()
    seen, plain = Seen(), Seen()
    seen.feed(text)
    plain.feed(own)
    assert set(seen.tags) <= TAGS
    assert not [name for name in seen.attributes if name.startswith("on") or name in ("src", "href", "style")]
    assert len(seen.scripts) == 3 and seen.scripts[1:] == plain.scripts[1:]  # the results, Chart.js, the page's own
    assert text.lower().count("</script") == 3
    raw = {char for char in seen.text + seen.scripts[0] if all_verbs.is_raw(char)}
    assert not raw, raw
    strings = list(_strings(json.loads(seen.scripts[0])))  # what Chart.js draws
    assert not {char for one in strings for char in one if all_verbs.is_raw(char) or char == "\n"}
    return seen


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for key, inner in value.items():
            yield key
            yield from _strings(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _strings(inner)


@pytest.fixture(autouse=True)
def by_itself(monkeypatch: pytest.MonkeyPatch, standin: LlamaServer) -> None:
    """No server is asked and no engine started; what is no NextnError comes out as it is."""
    monkeypatch.setattr("nextn.engines.find_engine", lambda name=None: all_verbs.engine_or_none(name, standin))
    monkeypatch.setenv("NEXTN_TRACEBACK", "1")
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def test_a_model_full_of_attacks(tmp_path: Path) -> None:
    """Name, keys, tokens, a tensor, the file and its folder: through the verbs' documents onto the page."""
    parts = Parts.of(Q4)
    for key in ("general.name", "general.basename", "tokenizer.chat_template", "nextn.donor", "general.repo_url",
                "tokenizer.ggml.pre", EVIL.replace("\x00", "")):  # fmt: skip
        parts = parts.put(key, "str", EVIL)
    parts = parts.put("general.tags", "[str]", [EVIL] * 3).with_tensor(3, name=b"blk.0." + EVIL.encode() + b".weight")
    folder = tmp_path / "</script><b>\x1b[31m\u202e\nx"
    folder.mkdir(parents=True)
    path = folder / "m<script>alert(1)<\x9b\u2066\n-Q4_K_M.gguf"
    path.write_bytes(parts.encode())
    (folder / path.name.replace("m<", "n<")).write_bytes(Q4.read_bytes())
    made = []
    for number, call in enumerate((
        ["inspect", path], ["doctor", path], ["plan", path, "--header-only"], ["serve", path, "--print"],
        ["attach", path.with_name(path.name.replace("m<", "n<")), "--from", CHECKPOINT, "--dry-run"],
        ["verify", path, "--engine", "none", "--trunk", Q4],
    )):  # fmt: skip
        ran = all_verbs.run(*call, "--json")
        assert not ran.bug, ran.bug
        if ran.out:
            made.append(tmp_path / f"{number}.json")
            made[-1].write_text(ran.out)
    assert len(made) >= 4
    ran = all_verbs.run("report", *made, "-o", tmp_path / "page.html")
    assert ran.code == 0 and not ran.raw_control
    seen = check_harmless((tmp_path / "page.html").read_bytes())
    assert "</script><script>alert(1)</script>" in seen.text and r"\x1b]0;TITLE\x07" in seen.text
    shown = all_verbs.run("report", *made)
    assert shown.code == 0 and not shown.raw_control


PATTERNED = ("a" * 64,)


def _made(kind: msgspec.inspect.Type) -> Any:
    """A value of this type for JSON in which every string, and every key that is one, is EVIL."""
    match kind:
        case msgspec.inspect.StructType():
            out = {field.encode_name: _made(field.type) for field in kind.fields}
            return out | ({kind.tag_field: kind.tag} if kind.tag_field else {})
        case msgspec.inspect.Metadata():
            return _made(kind.type)
        case msgspec.inspect.UnionType():  # of what may be missing, something that is there
            return _made(next(one for one in kind.types if not isinstance(one, msgspec.inspect.NoneType)))
        case msgspec.inspect.ListType():
            return [_made(kind.item_type)] * max(2, kind.min_length or 0)
        case msgspec.inspect.TupleType():
            return [_made(one) for one in kind.item_types]
        case msgspec.inspect.DictType():
            return {_made(kind.key_type): _made(kind.value_type)}
        case msgspec.inspect.LiteralType():
            return kind.values[0]
        case msgspec.inspect.StrType():
            return EVIL if kind.pattern is None else next(x for x in PATTERNED if re.search(kind.pattern, x))
        case msgspec.inspect.BoolType():
            return True
        case msgspec.inspect.IntType():
            return 3
        case msgspec.inspect.FloatType():
            return max(0.5, kind.ge or 0)
        case msgspec.inspect.AnyType():
            return EVIL
    raise AssertionError(kind)


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_document_full_of_attacks(kind: str, tmp_path: Path) -> None:
    """Whoever wrote it: each of its texts, and each key that is a name."""
    (path := tmp_path / "x.json").write_text(json.dumps(_made(msgspec.inspect.type_info(document_type(kind)))))
    seen = check_harmless(page(read_sections([path])))
    assert r"\x1b]0;TITLE" in seen.text + "".join(_strings(json.loads(seen.scripts[0])))
    ran = all_verbs.run("report", path)
    assert ran.code == 0 and not ran.raw_control, ran.err
