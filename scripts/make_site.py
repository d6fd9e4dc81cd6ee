"""Makes the documentation site: `make_site.py [FOLDER]`, by default build/site. Needs the extra `docs`, and no network.

The pages are docs/*.md, with a page per command made from the command line itself. Every warning is an error: a link or
an anchor that leads nowhere, a page that is in no section.
"""

from __future__ import annotations

import importlib
import inspect
import io
import os
import re
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from nextn.cli import VERBS
from nextn.errors import EXIT_CODES
from nextn.version import __version__

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
SECTIONS = {
    "Start": ("install", "tutorial", "scan-and-up", "real-model", "concepts", "faq"),
    "Use": ("guide", "commands/index", "sidecars", "shard-sets", "serving", "drafts", "training", "publishing",
            "wild-files", "doctor"),
    "Before you rely on it": ("compatibility", "worth", "memory", "performance", "durability", "limitations",
                              "platforms"),
    "Reference": ("file-formats", "json", "python-api", "security"),
    "Develop": ("design", "adding-a-family", "goldens", "decisions/index"),
}  # fmt: skip
_FENCE = re.compile(r"^(```|~~~).*?^\1[ ]*$", re.M | re.S)
_OPTION = re.compile(
    r"'(nextn [^']+)'|(?<![\w`-])(--layout in-place|--[a-z][\w-]*|[$][A-Z_]+)"
)  # in a help text: what is typed
_LONG_WORD = re.compile(r'<span class="pre">([^<]{20,})</span>')
_SESSION = re.compile(r'<div class="highlight-console notranslate"><div class="highlight"><pre>.*?</pre>', re.S)
_LINK = re.compile(r"(?<!!)\[(?P<text>[^\]]*)\]\((?P<target>[^)\s]+)\)")


class SiteError(Exception):
    """A page that cannot be part of the site."""


def write_sources(folder: Path) -> None:
    """The site's sources: all pages, their links rewritten for the site."""
    pages = sorted(DOCS.rglob("*.md"))
    for page in pages:
        there = folder / page.relative_to(DOCS)
        there.parent.mkdir(parents=True, exist_ok=True)
        there.write_text(for_the_site(page.read_text(encoding="utf-8"), page), encoding="utf-8")
    for picture in DOCS.glob("*.svg"):
        shutil.copy(picture, folder)
    commands = folder / "commands"
    commands.mkdir()
    for verb in VERBS:
        (commands / f"{verb}.md").write_text(command_page(verb), encoding="utf-8")
    (commands / "index.md").write_text(commands_page(), encoding="utf-8")
    decisions = [page.stem for page in pages if page.parent.name == "decisions"]
    (folder / "decisions" / "index.md").write_text(
        "# Decisions\n\nWhy things are as they are, by subject.\n\n" + toctree(decisions), encoding="utf-8"
    )
    (folder / "index.md").write_text(index_page(), encoding="utf-8")


def for_the_site(text: str, page: Path) -> str:
    """A page's text, in which links to files outside the site became their names. Raises SiteError for a dead one."""

    def link(match: re.Match[str]) -> str:
        target, words = match["target"], match["text"]
        if re.match(r"[a-z]+:", target) or target.startswith("#"):
            return match[0]
        there = (page.parent / target.partition("#")[0]).resolve()
        if not there.exists():
            raise SiteError(f"{page}: there is nothing at {target}")
        if there == ROOT / "README.md":
            return f"[{words}]({os.path.relpath(DOCS, page.parent)}/index.md)"
        if there == DOCS / "decisions":
            return f"[{words}]({os.path.relpath(there, page.parent)}/index.md)"
        if there.is_relative_to(DOCS):
            return match[0]
        inside = there.relative_to(ROOT)
        return f"{words}" if words.strip("`/") == str(inside) else f"{words} (`{inside}`)"

    parts, at = [], 0
    for fence in _FENCE.finditer(text):
        parts += [_LINK.sub(link, text[at : fence.start()]), fence[0]]
        at = fence.end()
    return "".join([*parts, _LINK.sub(link, text[at:])])


def toctree(names: Sequence[str], caption: str = "", hidden: bool = False) -> str:
    """A list of pages, as MyST writes it."""
    options = (f":caption: {caption}\n" if caption else "") + (":hidden:\n" if hidden else "") + ":maxdepth: 1\n"
    return f"```{{toctree}}\n{options}\n" + "\n".join(names) + "\n```\n"


def index_page() -> str:
    """The first page: the README's own words, without its tour of the commands; then all pages."""
    readme = for_the_site((ROOT / "README.md").read_text(encoding="utf-8"), ROOT / "README.md")
    readme = re.sub(r"\]\(docs/", "](", readme.partition("\n## Read on")[0])
    opening, _, rest = readme.partition("\n## One example per command")
    parts = [f"{opening}\n## What runs where{rest.partition('## What runs where')[2]}\n## All pages\n"]
    listed = set()
    for caption, names in SECTIONS.items():
        listed |= set(names)
        parts.append(toctree(names, caption))
    forgotten = {page.stem for page in DOCS.glob("*.md")} - listed
    if forgotten:
        raise SiteError(f"in no section of {Path(__file__).name}: {', '.join(sorted(forgotten))}")
    return "\n".join(parts)


def commands_page() -> str:
    """The list of commands."""
    rows = "".join(f"| [{verb}]({verb}.md) | {text} |\n" for verb, text in VERBS.items())
    codes = "".join(f"| {code} | {meaning} |\n" for code, meaning in EXIT_CODES.items())
    return (
        f"# Commands\n\n| command | what it does |\n| --- | --- |\n{rows}\n"
        f"## Exit codes\n\n| code | meaning |\n| --- | --- |\n{codes}\n" + toctree(list(VERBS), hidden=True)
    )


def command_page(verb: str) -> str:
    """One command: its own help, as a page."""
    command: click.Command = importlib.import_module(f"nextn.cli.{verb}").command
    context = click.Context(command, info_name=f"nextn {verb}")
    usage = " ".join(["nextn", verb, *command.collect_usage_pieces(context)])
    parts = [f"# nextn {verb}\n\n```text\n{usage}\n```\n\n{_escaped(inspect.cleandoc(command.help or ''))}\n"]
    rows = []
    for option in command.params:
        record = option.get_help_record(context)
        if isinstance(option, click.Option) and record is not None:
            names, text = record
            rows.append(f"`{names}`\n: {_escaped(text)}\n\n")
    parts.append("\n## Options\n\n" + "".join(rows))
    examples = (command.epilog or "").partition("Examples:\n")[2]
    if examples:
        parts.append("\n## Examples\n\n```text\n" + inspect.cleandoc(examples) + "\n```\n")
    parts.append(
        f"\nThe same from Python: [`nextn.{verb}`](../python-api.md#{verb}). [All commands and exit codes](index.md).\n"
    )
    return "".join(parts)


def _escaped(text: str) -> str:
    """Help as Markdown: commands and options as code; angle brackets, stars and underscores are meant literally."""
    parts, at = [], 0
    for found in _OPTION.finditer(text):
        parts += [re.sub(r"([<>*_])", r"\\\1", text[at : found.start()]), f"`{found[1] or found[2]}`"]
        at = found.end()
    return "".join([*parts, re.sub(r"([<>*_])", r"\\\1", text[at:])])


def readable(body: str) -> str:
    """A page's HTML, in which long words of code may break after a separator, and sessions without a table wrap."""

    def long_word(word: re.Match[str]) -> str:
        parts = re.sub(r"(::|[/_])(?=[^/_:])", r"\1<wbr>", word[1])
        is_long = parts != word[1] or len(parts) > 36
        return f'<span class="pre{" long" if is_long else ""}">{parts}</span>'

    def session(found: re.Match[str]) -> str:
        if re.search("[│┃]", found[0]):
            return found[0]
        whole = re.sub(r"(?<![\w-])--[a-z][\w-]*", r'<span class="option">\g<0></span>', found[0])
        return whole.replace(" notranslate", " notranslate session-wraps", 1)

    return _SESSION.sub(session, _LONG_WORD.sub(long_word, body))


def build(sources: Path, out: Path) -> int:
    """The site from its sources; the exit status of Sphinx, for which every warning counts."""
    from sphinx.application import Sphinx
    from sphinx.util.docutils import docutils_namespace, patch_docutils

    settings = {
        "project": "nextn", "release": __version__, "html_title": f"nextn {__version__}", "html_theme": "furo",
        "extensions": ["myst_parser"], "myst_heading_anchors": 4, "myst_enable_extensions": ["deflist"],
        "smartquotes": False, "exclude_patterns": [], "html_copy_source": False,
        "html_show_sphinx": False, "html_show_copyright": False, "html_use_index": False,
        "html_static_path": [str(Path(__file__).resolve().parent / "site_static")], "html_css_files": ["site.css"],
        "nitpicky": True, "suppress_warnings": ["misc.highlighting_failure"],
        "myst_links_external_new_tab": False, "highlight_language": "none",
    }  # fmt: skip
    with tempfile.TemporaryDirectory() as doctrees, patch_docutils(), docutils_namespace():
        warnings = io.StringIO()
        app = Sphinx(
            str(sources), None, str(out), doctrees, "html", confoverrides=settings, status=None, warning=warnings
        )
        app.connect("html-page-context", _make_readable)
        app.build(force_all=True)
        said = warnings.getvalue().replace(f"{sources}/", "")
        print(said, end="", file=sys.stderr)
        return int(app.statuscode or bool(said))


def _make_readable(app: object, page: str, template: str, context: dict[str, Any], doctree: object) -> None:
    """Called by Sphinx before it writes a page."""
    if "body" in context:
        context["body"] = readable(context["body"])


def main(argv: list[str]) -> int:
    """Make the site in the folder named, which is emptied first."""
    out = Path(argv[0]) if argv else ROOT / "build" / "site"
    with tempfile.TemporaryDirectory() as folder:
        sources = Path(folder)
        try:
            write_sources(sources)
        except SiteError as error:
            print(error, file=sys.stderr)
            return 1
        if out.exists():
            shutil.rmtree(out)
        status = build(sources, out)
    print(out)
    return status


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
