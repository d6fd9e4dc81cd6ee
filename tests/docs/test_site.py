"""The documentation as a site: it builds without the network and without a warning, and has a page for each command."""

from __future__ import annotations

import importlib.util
import re
import socket
from pathlib import Path

import pytest

import make_site
from conftest import need
from nextn.cli import VERBS


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Sphinx, or else a skip outside CI; and no name is resolved."""
    need("sphinx", importlib.util.find_spec("sphinx") is not None)

    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError(f"the network was asked for: {args}")

    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    need("sphinx", importlib.util.find_spec("sphinx") is not None)
    out = tmp_path_factory.mktemp("site") / "html"
    assert make_site.main([str(out)]) == 0
    return out


@pytest.mark.slow
def test_every_command_has_a_page_with_its_options(site: Path) -> None:
    for verb in VERBS:
        page = (site / "commands" / f"{verb}.html").read_text(encoding="utf-8")
        assert f"nextn {verb}" in page and "--json" in page and f"python-api.html#{verb}" in page
    assert "<dt><code" in (site / "commands" / "attach.html").read_text(encoding="utf-8")


@pytest.mark.slow
def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    for page in site.rglob("*.html"):
        for address in re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="([^"]+)"', page.read_text(encoding="utf-8")):
            assert not re.match(r"(https?:)?//", address), f"{page.name}: {address}"


@pytest.mark.parametrize("text", ["[a](index.md#nowhere)", "[a](nowhere.md)", "```{nothing}\n```"])
def test_what_leads_nowhere_fails(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "index.md").write_text(f"# A page\n\n{text}\n", encoding="utf-8")
    assert make_site.build(tmp_path / "in", tmp_path / "out") != 0
    assert "index.md:3: WARNING: " in capsys.readouterr().err


def test_links_out_of_the_site_become_names() -> None:
    page = make_site.DOCS / "guide.md"
    assert make_site.for_the_site("[x](../README.md), [y](../Makefile)\n", page) == "[x](./index.md), y (`Makefile`)\n"
    assert make_site.for_the_site("```\n[y](../Makefile)\n```\n", page) == "```\n[y](../Makefile)\n```\n"
    with pytest.raises(make_site.SiteError, match=r"there is nothing at [.][.]/nowhere"):
        make_site.for_the_site("[x](../nowhere)\n", page)


def test_what_is_typed_is_code_on_a_page_of_a_command() -> None:
    text = "With --from the a_b* is <c>: 'nextn inspect --block-hash DONOR' or $NEXTN_DATA, un--known."
    assert make_site._escaped(text) == (
        r"With `--from` the a\_b\* is \<c\>: `nextn inspect --block-hash DONOR` or `$NEXTN_DATA`, un--known."
    )


def test_long_words_may_break_and_sessions_wrap_unless_they_show_a_table() -> None:
    def session(text: str) -> str:
        return f'<div class="highlight-console notranslate"><div class="highlight"><pre>{text}</pre></div></div>'

    def word(text: str, more: str = "") -> str:
        return f'<span class="pre{more}">{text}</span>'

    broken = "tests/<wbr>a/<wbr>test_<wbr>x.py::<wbr>test_<wbr>y"
    assert make_site.readable(word("tests/a/test_x.py::test_y")) == word(broken, " long")
    assert make_site.readable(word("f" * 64)) == word("f" * 64, " long")
    for text in ("n_max", "https:", "a-word-without-separators"):
        assert make_site.readable(word(text)) == word(text)
    wraps = make_site.readable(session("$ llama-server --spec-type x"))
    assert "session-wraps" in wraps and '<span class="option">--spec-type</span> x</pre>' in wraps
    assert make_site.readable(session("│ 1 │ --a") + session("$ ls")).count("session-wraps") == 1


def test_a_page_in_no_section_is_missed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(make_site.SECTIONS, "Start", ("faq", "concepts"))
    with pytest.raises(make_site.SiteError, match=r"in no section of make_site.py: .*tutorial"):
        make_site.index_page()
