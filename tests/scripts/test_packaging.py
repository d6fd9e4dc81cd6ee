"""What is installed besides the code: man pages, completion, the long description, what the source archive contains."""

from __future__ import annotations

import json
import os
import re
import runpy
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

import make_man
from conftest import Q4, ROOT, need
from nextn.cli import VERBS
from nextn.cli.up import command as up
from nextn.version import __version__


def test_the_man_pages_are_those_of_the_command_line() -> None:
    made = make_man.pages()
    assert set(made) == {"nextn.1", *(f"nextn-{verb}.1" for verb in VERBS)}
    kept = {path.name: path.read_text(encoding="utf-8") for path in (ROOT / "man").glob("*.1")}
    assert kept == made, "run scripts/make_man.py"


def test_the_man_pages_are_valid() -> None:
    need("mandoc", shutil.which("mandoc") is not None)
    pages = sorted(str(path) for path in (ROOT / "man").glob("*.1"))
    command = ["mandoc", "-T", "lint", "-W", "warning", *pages]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    found = [line for line in done.stdout.splitlines() if "missing date" not in line]
    assert found == []


def test_links_of_the_long_description_work_outside_the_repository(monkeypatch: pytest.MonkeyPatch) -> None:
    long_description = runpy.run_path(str(ROOT / "setup.py"), run_name="setup")["long_description"]
    relative = re.compile(r"\]\((?!https?://|#)")
    assert relative.search((ROOT / "README.md").read_text(encoding="utf-8")), "there is something to rewrite"
    monkeypatch.delenv("NEXTN_FILES_URL", raising=False)
    text = long_description()
    assert not relative.search(text) and "Guide (`docs/guide.md`)" in text and "share/doc/nextn" in text
    monkeypatch.setenv("NEXTN_FILES_URL", "https://example.org/files/")
    text = long_description()
    assert not relative.search(text) and "[Guide](https://example.org/files/docs/guide.md)" in text


def test_the_citation_has_this_version() -> None:
    assert f"\nversion: {__version__}\n" in (ROOT / "CITATION.cff").read_text(encoding="utf-8")


def test_the_source_archive_has_every_file_of_the_repository() -> None:
    git = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=False)
    need("a git checkout, which says what belongs to it,", git.returncode == 0 and bool(git.stdout))
    lines = [line.split() for line in (ROOT / "MANIFEST.in").read_text(encoding="utf-8").splitlines()]
    folders = {line[1] for line in lines if line[0] == "graft"} | {"src"}
    files = {name for line in lines if line[0] == "include" for name in line[1:]}
    files |= {"pyproject.toml", "setup.py", "README.md", "LICENSE", "MANIFEST.in"}  # setuptools' own
    left = {name for name in git.stdout.splitlines() if name.partition("/")[0] not in folders and name not in files}
    assert left == set()


@pytest.mark.slow
def test_the_built_source_archive_has_every_file_and_no_other(tmp_path: Path) -> None:
    """Built from the files that git knows, since setuptools takes up what an earlier build has left in a checkout."""
    git = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False)
    need("a git checkout, which says what belongs to it,", git.returncode == 0 and bool(git.stdout))
    tracked = {name for name in git.stdout.split("\0") if name and (ROOT / name).exists()}
    clean, out = tmp_path / "clean", tmp_path / "dist"
    for name in tracked:
        (clean / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(ROOT / name, clean / name)
    build = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    done = subprocess.run(
        [sys.executable, "-c", build, str(out)], cwd=clean, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    (archive,) = out.iterdir()
    with tarfile.open(archive) as opened:
        kept = {
            each.name.partition("/")[2]: (file.read(), bool(each.mode & 0o100))
            for each in opened if (file := opened.extractfile(each)) is not None
        }  # fmt: skip
    assert archive.name == f"nextn-{__version__}.tar.gz"
    assert tracked - set(kept) == set()
    made = {name for name in set(kept) - tracked if not name.startswith("src/nextn.egg-info/")}
    assert made == {"PKG-INFO", "setup.cfg"}
    for name in tracked:
        assert kept[name] == ((ROOT / name).read_bytes(), os.access(ROOT / name, os.X_OK)), name


# -- container --------------------------------------------------------------------------------------------------------


def test_the_container_gets_what_its_image_is_built_of() -> None:
    lines = [line.split() for line in (ROOT / "Dockerfile").read_text(encoding="utf-8").splitlines() if line]
    copied = {name for word, *names in lines if word == "COPY" and "--from=build" not in names for name in names[:-1]}
    ignored = (ROOT / ".dockerignore").read_text(encoding="utf-8").split()
    assert {name for name in copied if (ROOT / name).exists()} == copied == {
        line.removeprefix("!") for line in ignored if line.startswith("!")
    }  # fmt: skip
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    installed = re.findall(r'^"share/.*" = \["(.*?)/.*"\]', project, re.MULTILINE)
    assert installed and set(installed) <= copied


def test_the_container_can_be_reached_unless_it_is_told_otherwise() -> None:
    (entry,) = re.findall(r"^ENTRYPOINT (.*)$", (ROOT / "Dockerfile").read_text(encoding="utf-8"), re.MULTILINE)
    program, verb, *options = json.loads(entry)
    assert (program, verb) == ("nextn", "up")
    for more, host in (((), "0.0.0.0"), (("--host", "::1"), "::1")):
        context = up.make_context("up", [*options, Q4.name, *more])
        assert context.params["host"] == host and context.params["model"] == Q4.name


# -- completion -------------------------------------------------------------------------------------------------------


def complete(tmp_path: Path, line: str, shell: str = "bash") -> list[str]:
    """What nextn answers for the last word of `line`."""
    words = line.split(" ")
    env = {**os.environ, "_NEXTN_COMPLETE": f"{shell}_complete", "HF_HOME": str(tmp_path)}
    env |= {"COMP_WORDS": line, "COMP_CWORD": words[-1] if shell == "fish" else str(len(words) - 1)}
    nextn = "import sys; sys.argv[0] = 'nextn'; from nextn.cli import entry_point; entry_point()"
    done = subprocess.run([sys.executable, "-c", nextn], env=env, capture_output=True, text=True, check=False)
    assert not done.stderr
    return done.stdout.splitlines()


def test_commands_options_files_and_kept_repositories_are_completed(tmp_path: Path) -> None:
    (tmp_path / "hub" / "models--org--some--name").mkdir(parents=True)
    (tmp_path / "hub" / "datasets--org--other").mkdir()
    assert complete(tmp_path, "nextn de") == ["plain,detach", "plain,demo"]
    assert "plain,--layout" in complete(tmp_path, "nextn attach --la")
    assert complete(tmp_path, "nextn attach --layout b") == ["plain,bundle"]
    assert complete(tmp_path, "nextn inspect m") == ["file,m"]
    assert complete(tmp_path, "nextn attach x.gguf --from org/so") == ["plain,org/some--name", "file,org/so"]
    assert complete(tmp_path, "nextn pull or") == ["plain,org/some--name"]
    assert complete(tmp_path, "nextn pack m.gguf -o r") == ["dir,r"]


SHELLS = {
    "bash": 'eval "$(_NEXTN_COMPLETE=bash_source nextn)"; COMP_WORDS=(nextn inspect mo); COMP_CWORD=2; '
    "_nextn_completion nextn; compopt() { :; }; printf '%s\\n' \"${COMPREPLY[@]}\"; complete -p nextn",
    "zsh": "autoload -U compinit; compinit -u; eval \"$(_NEXTN_COMPLETE=zsh_source nextn)\"; print $_comps[nextn]",
    "fish": "_NEXTN_COMPLETE=fish_source nextn | source; complete -C 'nextn at'",
}
EXPECTED = {"bash": "_nextn_completion", "zsh": "_nextn_completion", "fish": "attach"}


@pytest.mark.parametrize("shell", SHELLS)
def test_the_documented_line_works_in_the_shell(shell: str, tmp_path: Path) -> None:
    need(shell, shutil.which(shell) is not None)
    page = (ROOT / "docs" / "install.md").read_text(encoding="utf-8")
    assert f"_NEXTN_COMPLETE={shell}_source nextn" in page
    nextn = tmp_path / "nextn"
    nextn.write_text(f"#!/bin/sh\nexec '{sys.executable}' -c 'import sys; sys.argv[0] = \"nextn\"; "
                     "from nextn.cli import entry_point; entry_point()' \"$@\"\n")  # fmt: skip
    nextn.chmod(0o755)
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)}
    done = subprocess.run(
        [shell, "-c", SHELLS[shell]], env=env, cwd=tmp_path, capture_output=True, text=True, check=False, timeout=120
    )
    assert EXPECTED[shell] in done.stdout, done.stdout + done.stderr
