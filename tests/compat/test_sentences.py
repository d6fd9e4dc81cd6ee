"""Typed facts, and every sentence about an engine, agree with the measured table."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sick import rewrite
from sicknesses import CASES

import nextn
from compat import made, models
from conftest import CHECKPOINT, Q4, ROOT
from nextn.archs import FAMILIES
from nextn.archs.engines import Does
from nextn.compat import ENGINES, EngineBuild, Run, table, verdict
from nextn.errors import NextnError, UnsupportedModel
from nextn.layouts.pack import MTP, PLAIN, Quant, Variant
from nextn.publish.card import Card

IN_WORDS = {"drafts": "drafts with", "runs": "without MTP", "refuses": "refuses", "fails": "fails with"}
FACT = {"drafts": Does.DRAFTS, "runs": Does.LOADS, "refuses": Does.REFUSES, "fails": Does.REFUSES}
HELP = {
    "llama.cpp": "-md, --model-draft FNAME\n--spec-type none,draft-mtp\n--spec-draft-n-max N\n--draft-p-min P\n",
    "ik_llama.cpp": "--spec-type SPEC  e.g. mtp:n_max=1,p_min=0.0\n-md FNAME\n",
}


def newest(arch: str, engine: str) -> EngineBuild:
    """The newest build that a family was measured on."""
    return next(b for b in reversed(table().builds(engine)) if table().of(arch, "trunk-only", b.name) is not None)


def measured(arch: str, layout: str, engine: str) -> Run | None:
    """The run on the newest build that was measured; None where nextn makes no such file."""
    run = table().of(arch, layout, newest(arch, engine).name)
    return None if run is None or run.result == "not made" else run


def agrees(said: str, run: Run, engine: str) -> bool:
    """Whether a sentence says what was measured, nothing else, and on which build."""
    label = newest(run.arch, engine).label
    there = {result for result, words in IN_WORDS.items() if words in said}
    return there == {run.result} and label in said and run.says in said


# ---- facts ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("arch", FAMILIES)
def test_a_familys_facts_are_those_of_the_table(arch: str, engine: str) -> None:
    support = FAMILIES[arch].on(engine)
    assert support.build == newest(arch, engine).name
    trunk = measured(arch, "trunk-only", engine)
    assert trunk is not None
    # A build that knows the architecture and refuses the tiny trunk says nothing of files with a block.
    stand_in = trunk.result == "refuses" and "unknown model architecture" not in trunk.says
    for layout in ("trunk-only", "bundle", "shards", "sidecar"):
        run = measured(arch, layout, engine)
        wanted = Does.UNKNOWN if stand_in or run is None else FACT[run.result]
        assert support.does(layout) is wanted, (arch, layout, engine)
    head = measured(arch, "bundle+head", engine)
    if support.drafts_with("bundle") and head is not None:
        assert support.takes_heads == (head.result == "drafts")
    extra = measured(arch, "ik-bundle+head", engine)
    assert support.extra_head == (extra is not None and extra.result == "drafts")


# ---- verbs ------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Made:
    """A file of a family in one layout."""

    arch: str
    layout: str
    entry: Path
    sidecar: Path | None


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> list[Made]:
    """Every family in every layout that nextn makes; sidecars are made into folders of their own."""
    scratch = tmp_path_factory.mktemp("models")
    found = []
    for name, trunk, donor in models(scratch):
        arch = nextn.inspect(trunk).architecture
        for layout in ("trunk-only", "bundle", "shards", "sidecar"):
            try:
                entry, sidecar = made(trunk, donor, arch, layout, scratch / f"{name} {layout}")
            except UnsupportedModel:
                assert measured(arch, layout, "llama.cpp") is None
                continue
            found.append(Made(arch, layout, entry, sidecar))
    assert {one.arch for one in found} == set(FAMILIES)
    return found


def test_inspect_says_what_was_measured(files: list[Made], tmp_path: Path) -> None:
    for n, one in enumerate(files):
        seen = nextn.inspect(one.sidecar or one.entry)
        assert seen.problems == () and set(seen.runs_on) == set(ENGINES)
        for engine, said in seen.runs_on.items():
            run = measured(one.arch, one.layout, engine)
            assert run is not None and agrees(said, run, engine), (one, engine, said)
        if one.sidecar is None:
            continue
        folder = tmp_path / str(n)
        folder.mkdir()
        for path in (one.entry, one.sidecar):
            (folder / path.name).symlink_to(path)
        for engine, said in nextn.inspect(folder / one.entry.name).runs_on.items():
            run = measured(one.arch, "sidecar", engine)
            if run is None or run.result != "drafts":
                run = measured(one.arch, "trunk-only", engine)
            assert run is not None and agrees(said, run, engine), (one, engine, said)


@pytest.mark.parametrize("engine", ENGINES)
def test_serve_drafts_with_what_was_measured_to_draft(engine: str, files: list[Made], tmp_path: Path) -> None:
    binary = tmp_path / "llama-server"
    (tmp_path / "help").write_text(HELP[engine])
    binary.write_text(f'#!/bin/sh\n[ "$1" = --version ] && echo "version: 7" && exit\ncat "{tmp_path}/help"\n')
    binary.chmod(0o755)
    for n, one in enumerate(files):
        folder = tmp_path / str(n)
        folder.mkdir()
        for path in (one.entry, one.sidecar, *one.entry.parent.glob(f"{one.entry.name.split('-000')[0]}-0*.gguf")):
            if path is not None and not (folder / path.name).exists():
                (folder / path.name).symlink_to(path)
        chosen = nextn.serve(folder / one.entry.name, engine=binary)
        run = measured(one.arch, one.layout, engine)
        assert chosen.engine == ("llama-server" if engine == "llama.cpp" else engine) and run is not None
        unknown = FAMILIES[one.arch].on(engine).does(one.layout) is Does.UNKNOWN
        drafts = one.layout != "trunk-only" and (run.result == "drafts" or unknown)
        assert (chosen.layout != "none") == drafts, (one, chosen.notes)
        for note in chosen.notes:
            if f"{engine} " in note and any(words in note for words in IN_WORDS.values()):
                with_block = "sidecar" if FAMILIES[one.arch].only_sidecar else "bundle"
                layout = with_block if "with one of" in note else one.layout
                about = measured(one.arch, layout, engine)
                assert about is not None and agrees(note.partition(engine)[2], about, engine), note
        if run.result != "drafts" and not unknown and one.layout != "trunk-only":
            assert any(run.says in note for note in chosen.notes), (one, chosen.notes)


def test_a_file_for_ik_is_refused_where_none_drafts(tmp_path: Path) -> None:
    for name, trunk, donor in models(tmp_path / "models"):
        arch = nextn.inspect(trunk).architecture
        runs = [measured(arch, layout, "ik_llama.cpp") for layout in ("bundle", "shards", "sidecar")]
        drafts = any(run is not None and run.result == "drafts" for run in runs)
        if drafts:
            nextn.attach(trunk, donor, for_engine="ik", dry_run=True, out=tmp_path / name)
            continue
        with pytest.raises(UnsupportedModel) as error:
            nextn.attach(trunk, donor, for_engine="ik", out=tmp_path / name)
        run = next(run for run in runs if run is not None)
        assert newest(arch, "ik_llama.cpp").label in str(error.value) and run.says in str(error.value), arch


@pytest.mark.parametrize("layout", ["shards", "sidecar"])
def test_a_model_card_says_what_was_measured(layout: str) -> None:
    side = "mtp-m.gguf" if layout == "sidecar" else None
    variants = {PLAIN: Variant("m.gguf", None, ()), MTP: Variant("m-MTP.gguf", side, ())}
    n_lines = 0
    for arch in FAMILIES:
        text = Card("A model", arch, [Quant("Q4_K_M", layout, variants)], {"m.gguf": 1, "m-MTP.gguf": 1}).text()
        for where, engine, said in re.findall(r"^- ([\w ]+): (\S+) (.*)$", text, re.MULTILINE):
            kind = "trunk-only" if where == "without a block" else layout
            run = measured(arch, kind, engine)
            assert run is not None and agrees(said.replace("\\", ""), run, engine), (arch, said)
            n_lines += 1
        ik = text.partition("## ik_llama.cpp")[2].partition("##")[0]
        run = measured(arch, layout, "ik_llama.cpp")
        assert ("--spec-type mtp" in ik) == (run is not None and run.result == "drafts"), arch
    assert n_lines > 3 * len(FAMILIES)


def test_the_readmes_families_are_those_of_the_page() -> None:
    from compat_document import families

    text = (ROOT / "README.md").read_text("utf-8")
    assert "docs/compatibility.md" in text
    rows = [line for line in text.splitlines() if re.match(r"\| .*\(`[\w-]+`\) \|", line)]
    assert not rows or rows == families(table())


# ---- what is wrong with a file stands above what was measured of its kind ----------------------------------------


@pytest.fixture(scope="module")
def healthy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return nextn.attach(Q4, CHECKPOINT, layout="bundle", out=tmp_path_factory.mktemp("healthy")).entry


def sick_files(healthy: Path, tmp_path: Path) -> Iterator[Path]:
    for name, case in CASES.items():
        yield rewrite(healthy, tmp_path / f"{name}.gguf", **case.how)


def test_nothing_is_said_to_draft_beside_a_finding_that_it_does_not(healthy: Path, tmp_path: Path) -> None:
    n_sick = 0
    for path in sick_files(healthy, tmp_path):
        try:
            seen = nextn.inspect(path)
        except NextnError:
            continue
        errors = [finding for finding in seen.findings if finding.severity == "error"]
        if not errors:
            continue
        n_sick += 1
        for said in seen.runs_on.values():
            assert said == f"not as it is: {errors[0].entry.what}"
    assert n_sick >= len(CASES) - 4  # some show only in a tensor's data
    assert nextn.inspect(healthy).runs_on["llama.cpp"].startswith("drafts with it")


# ---- the source ---------------------------------------------------------------------------------------------------


def _strings(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Texts that are no docstrings; what an f-string fills in stands in braces."""
    docs = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    inside: set[int] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            inside |= {id(value) for value in node.values}
            yield node.lineno, "".join(
                str(value.value) if isinstance(value, ast.Constant) else "{" + ast.unparse(value.value) + "}"
                for value in node.values
                if isinstance(value, ast.Constant | ast.FormattedValue)
            )
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docs | inside:
            yield node.lineno, node.value


CLAIM = re.compile(
    r"ik_llama\.cpp (?:(?:takes|accepts) (?:no|only|a block)|refuses|ignores|misses|cannot|does not|knows no|has no|"
    r"wants|runs \w+ only|turns|with the default)|only ik_llama\.cpp"
)


@pytest.mark.slow
def test_what_ik_does_not_do_is_said_with_the_commit() -> None:
    known = re.compile(r"8337e4cd|\{found\.words\}|measured|IK_UP_TO")
    bad = [
        f"{path.relative_to(ROOT)}:{line}: {text}"
        for path in sorted((ROOT / "src").rglob("*.py"))
        for line, text in _strings(ast.parse(path.read_text("utf-8")))
        if CLAIM.search(text) and not known.search(text)
    ]
    assert not bad, "\n".join(bad)


def test_the_pages_say_it_with_the_commit_too() -> None:
    own_builds = {"compatibility.md", "ik.md"}  # a page of tables by build, one that says it for all of the page
    bad = [
        f"{path.relative_to(ROOT)}: {' '.join(part.split())[:200]}"
        for path in (ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md")))
        if path.name not in own_builds
        for part in re.split(r"\n\s*\n|\n(?=- |\| )", path.read_text("utf-8"))
        if CLAIM.search(" ".join(part.split())) and not re.search(r"8337e4cd|wheel 0\.1\.5|own types", part)
    ]
    assert not bad, "\n".join(bad)
    assert "up to that commit" in (ROOT / "docs" / "decisions" / "ik.md").read_text("utf-8")


def test_a_verdict_is_a_sentence_with_its_builds() -> None:
    for arch in FAMILIES:
        for engine in ENGINES:
            for layout in ("trunk-only", "bundle", "shards", "sidecar"):
                found, run = verdict(arch, layout, engine), measured(arch, layout, engine)
                assert (found is None) == (run is None)
                assert found is None or (run is not None and agrees(found.words, run, engine))
