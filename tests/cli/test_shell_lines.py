"""Every command that is printed or written can be pasted: a shell takes odd names as they are and runs nothing else."""

from __future__ import annotations

import json
import os
import random
import re
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

import nextn
from conftest import CHECKPOINT, Q4
from nextn.engines import Xllamacpp
from nextn.errors import UsageError
from nextn.layouts.pack import MTP, PLAIN, Quant, Role, Variant
from nextn.publish.card import Card
from nextn.shell import Command, shell
from nextn.verbs import tune

ODD = [
    "a b", "a'b", 'a"b', "$(touch pwned)", "`touch pwned`", "a;touch pwned", "a&b", "a|b", "a>pwned", "a*b?[c]", "~",
    "#a", "a\nb", "a\r\nb", "\x1b[31mred\x07", "\u202egnp.exe", "ünïcödé-模型", "back\\slash", "tab\tbell\x07'\"$x",
    "!!", "{a,b}", "$HOME", "bad\udcff\udc80", "'", "''", "\\'", "a=b", "",
]  # fmt: skip


def pasted(line: str, folder: Path) -> list[str]:
    """The words that a program gets when the line is run by bash in `folder`: its name's first, variables apart."""
    names = ("nextn", "llama-server")
    functions = "".join(f'{name}() {{ printf "%s\\0" {name} "$@"; }}\n' for name in names)
    done = subprocess.run(["bash", "-c", os.fsencode(functions + line)], cwd=folder, capture_output=True, check=True)
    assert done.stderr == b"" and done.stdout.endswith(b"\0"), done.stderr
    return [os.fsdecode(word) for word in done.stdout[:-1].split(b"\0")]


@pytest.mark.parametrize("word", ODD, ids=ascii)
def test_a_word_comes_through_a_shell_as_it_was(tmp_path: Path, word: str) -> None:
    line = shell("nextn", word, Path(word) if word else "x")
    assert line.isprintable() and "\n" not in line
    assert pasted(line, tmp_path) == ["nextn", word, str(Path(word)) if word else "x"]
    assert list(tmp_path.iterdir()) == []


def test_random_words_come_through(tmp_path: Path) -> None:
    dice = random.Random(3)
    words = [
        os.fsdecode(bytes(dice.choice(b"ab '\"\\$`\n\t*!~-\xff\xc3\xa9") for _ in range(dice.randrange(1, 12))))
        for _ in range(300)
    ]
    assert pasted(shell("nextn", *words), tmp_path) == ["nextn", *words]
    assert list(tmp_path.iterdir()) == []


def test_a_path_with_a_dash_is_no_option() -> None:
    assert str(Command.of(Path("-rf.gguf"), "--json")) == "./-rf.gguf --json"
    assert shell("x", env={"A": "b c"}) == "A='b c' x"


# -- what the program prints ------------------------------------------------------------------------------------------

NAMES = ["a b's $(touch pwned) `touch pwned`", "new\nline; touch pwned #", 'q"uote\\ &']


@pytest.fixture(params=NAMES, ids=ascii)
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    path = tmp_path / request.param
    path.mkdir()
    shutil.copy(Q4, path / f"{request.param}-Q4_K_M.gguf")
    return path


def trunk(folder: Path) -> Path:
    return next(folder.glob("*-Q4_K_M.gguf"))


def line_of(text: str, marker: str) -> str:
    """The command behind `marker`, to the end of its line."""
    found = [line.partition(marker)[2] for line in text.splitlines() if marker in line]
    assert found, text
    return found[0].strip()


@pytest.mark.slow
def test_how_to_load_what_attach_made(run_nextn: Callable[..., subprocess.CompletedProcess[str]], folder: Path) -> None:
    done = run_nextn("attach", trunk(folder), "--from", CHECKPOINT, "-o", folder / "out dir" / "x$(touch pwned).gguf",
                     "--layout", "bundle")  # fmt: skip
    assert done.returncode == 0, done.stderr
    words = pasted(line_of(done.stderr + done.stdout, "load it with: "), folder)
    assert words[:3] == ["llama-server", "-m", str(folder / "out dir" / "x$(touch pwned).gguf")]
    assert not (folder / "pwned").exists()


def test_what_doctor_says(run_nextn: Callable[..., subprocess.CompletedProcess[str]], folder: Path) -> None:
    document = json.loads(run_nextn("doctor", trunk(folder), "--json").stdout)
    commands = [text[text.index("nextn ") :] for text in mends(document) if "nextn attach " in text]
    assert commands
    for command in commands:
        words = pasted(command.partition(" attaches one")[0], folder)
        assert str(trunk(folder)) in words, command
    assert not (folder / "pwned").exists()


def mends(value: object) -> list[str]:
    """Every text of a document."""
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [text for each in value for text in mends(each)]
    return [value] if isinstance(value, str) else []


@pytest.mark.slow
def test_what_serve_prints(run_nextn: Callable[..., subprocess.CompletedProcess[str]], folder: Path) -> None:
    server = folder / "llama-server"
    server.write_text(
        '#!/bin/sh\ncase "$1" in\n--version) echo "version: 1 (x)" ;;\n'
        '--help) echo "--spec-type draft-mtp --model-draft" ;;\n*) printf "%s\\0" "$0" "$@" ;;\nesac\n'
    )
    server.chmod(0o755)
    more = ("--engine", server, "--n-max", "0", "--print", "--", "--alias", "$(touch x)")
    done = run_nextn("serve", trunk(folder), *more)
    assert done.returncode == 0, done.stderr
    line = done.stdout.strip()
    assert "\n" not in line
    words = pasted(line, folder)
    assert words[0] == str(server) and str(trunk(folder)) in words and words[-1] == "$(touch x)"
    assert not (folder / "pwned").exists() and not (folder / "x").exists()


@pytest.mark.slow
def test_a_preset_holds_values_as_they_are_or_is_refused(
    run_nextn: Callable[..., subprocess.CompletedProcess[str]], folder: Path
) -> None:
    """Its format cannot quote: what it cannot hold is refused, and the line that starts it is quoted."""
    test_what_serve_prints(run_nextn, folder)
    preset = folder / "pre set$(touch pwned).ini"
    done = run_nextn("serve", trunk(folder), "--engine", folder / "llama-server", "--n-max", "0", "--preset", preset)
    if "\n" in folder.name:
        assert done.returncode == UsageError.exit_code and "cannot be written" in done.stderr
        return
    assert f"model = {trunk(folder)}" in preset.read_text().splitlines()
    words = pasted(line_of(done.stderr + done.stdout, "start the router with: "), folder)
    assert words == ["llama-server", "--models-preset", str(preset)]
    assert not (folder / "pwned").exists()


def test_tune_and_report_lines(folder: Path) -> None:

    point = type("Point", (), {"n_max": 2, "p_min": 0.0, "threads": None})()
    line = tune.command_line(Xllamacpp("x"), trunk(folder), trunk(folder), point, ["--alias", "a b"])  # type: ignore[arg-type]
    words = pasted(line, folder)
    assert words[:3] == ["nextn", "serve", str(trunk(folder))] and words[-1] == "a b"
    assert str(trunk(folder)) == words[words.index("--sidecar") + 1]
    assert not (folder / "pwned").exists()


# -- what it writes ---------------------------------------------------------------------------------------------------


def blocks(text: str) -> list[str]:
    """The commands of a card's code blocks."""
    out, fence = [], ""
    for line in text.splitlines():
        if fence and line == fence:
            fence = ""
        elif fence:
            out.append(line)
        elif re.fullmatch("`{3,}", line):
            fence = line
    assert not fence
    return [line for line in out if not line.startswith("#")]


@pytest.mark.slow
@pytest.mark.parametrize("name", [*ODD[:-1], "```", "a``` b\n```\ntouch pwned"], ids=ascii)
def test_the_lines_of_a_card(tmp_path: Path, name: str) -> None:
    entry, sidecar = f"{name}-Q4_K_M.gguf", f"mtp-{name}.gguf"
    plain = Variant(entry, None, (Role(entry, "trunk"),))
    mtp = Variant(entry, sidecar, (*plain.roles, Role(sidecar, "sidecar")))
    quant = Quant("Q4_K_M", "sidecar", {PLAIN: plain, MTP: mtp})
    card = Card("title", "qwen35", [quant], {entry: 1, sidecar: 1}, repo="me/x").text()
    lines = blocks(card)
    assert len(lines) >= 6
    seen = [word for line in lines for word in pasted(line, tmp_path)[1:]]
    assert seen.count(sidecar) >= 2 and seen.count(entry) >= 3
    assert list(tmp_path.iterdir()) == []
    for row in (line for line in card.splitlines() if line.startswith("| Q4_K_M")):
        assert len(re.findall(r"(?<!\\)\|", row)) == 8


def test_a_packed_card_of_an_odd_model(tmp_path: Path) -> None:
    name = "it's $(touch pwned) & `co`"
    model = Path(shutil.copy(Q4, tmp_path / f"{name}-Q4_K_M.gguf"))
    made = nextn.pack([model], donor=CHECKPOINT, out=tmp_path / "out")
    empty = tmp_path / "empty"
    empty.mkdir()
    words = [pasted(line, empty) for line in blocks((made.folder / "README.md").read_text())]
    assert any(f"{name}-Q4_K_M.gguf" in some for some in words) and list(empty.iterdir()) == []


@pytest.mark.parametrize("name", ["a\nb", "a|b", "-x", "a:b", "con"])
def test_pack_refuses_names_that_nobody_could_pull(tmp_path: Path, name: str) -> None:
    model = Path(shutil.copy(Q4, tmp_path / (f"{name}-Q4_K_M.gguf" if name != "con" else "con.x-Q4_K_M.gguf")))
    with pytest.raises(UsageError, match="nobody could pull"):
        nextn.pack([model], donor=CHECKPOINT, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()
