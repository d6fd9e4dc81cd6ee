"""One word for one thing: options, help texts, exit codes, and where a verb is found."""

from __future__ import annotations

import importlib
import inspect
import re
from collections import defaultdict
from pathlib import Path

import click
import pytest
from click.testing import CliRunner

import nextn
from conftest import ROOT
from make_docs import API_PAGE, api_page
from nextn import errors
from nextn.cli import VERBS, cli
from nextn.errors import EXIT_CODES, NextnError
from nextn.schemas import KINDS

SOURCE = ROOT / "src" / "nextn"
COMMANDS = {verb: cli.get_command(click.Context(cli), verb) for verb in VERBS}


def help_of(*args: str) -> str:
    done = CliRunner().invoke(cli, [*args, "--help"], terminal_width=80, env={"COLUMNS": "80"})
    assert done.exit_code == 0, done.output
    return done.output


# -- help -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_fits_80_columns_without_broken_words(verb: str) -> None:
    text = help_of(*([verb] if verb else []))
    for line in text.splitlines():
        assert len(line) <= 80, line
        assert not re.search(r"\w-$", line), line
    command = cli if not verb else COMMANDS[verb]
    assert command is not None
    found = " ".join(text.split())
    assert " ".join((command.help or "").split()) in found
    for option in command.params:
        if isinstance(option, click.Option) and option.help:
            assert " ".join(option.help.split()) in found


@pytest.mark.parametrize("verb", ["", *VERBS])
def test_help_shows_two_examples_that_can_be_parsed(verb: str) -> None:
    _, _, examples = help_of(*([verb] if verb else [])).partition("Examples:\n")
    lines = [line.strip() for line in examples.splitlines() if line.strip()]
    assert len(lines) == 2
    for line in lines:
        words = line.split()
        assert words[0] == "nextn" and words[1] == (verb or words[1])
        command = COMMANDS[words[1]]
        assert command is not None
        command.make_context(words[1], words[2:])


@pytest.mark.parametrize("verb", VERBS)
def test_values_are_named(verb: str) -> None:
    command = COMMANDS[verb]
    assert command is not None
    for option in command.params:
        if isinstance(option, click.Option) and not option.is_flag and not isinstance(option.type, click.Choice):
            assert option.metavar, f"--{option.name} of {verb} shows its type, not a word"
            if isinstance(option.type, click.IntRange):
                assert option.metavar == "N", option.name


def test_an_option_means_the_same_everywhere() -> None:
    uses: dict[str, set[tuple[str, str | None]]] = defaultdict(set)
    for command in COMMANDS.values():
        assert command is not None
        for option in command.params:
            for name in option.opts if isinstance(option, click.Option) else ():
                uses[name].add((str(option.name), option.metavar))
    known = {name: {dest for dest, _ in found} for name, found in uses.items()}
    assert {name: dests for name, dests in known.items() if len(dests) > 1} == {}
    assert known["--from"] == {"donor"} and known["--engine"] == {"engine"} and known["--for"] == {"for_engine"}
    assert not {"--donor", "--llama-server", "--aim"} & set(uses)
    assert uses["--engine"] == {("engine", "ENGINE")} and uses["--from"] == {("donor", "DONOR")}


@pytest.mark.parametrize("verb", VERBS)
def test_every_command_prints_json(verb: str) -> None:
    command = COMMANDS[verb]
    assert command is not None and "--json" in [name for option in command.params for name in option.opts]


# -- exit codes -------------------------------------------------------------------------------------------------------


def classes(base: type[NextnError]) -> list[type[NextnError]]:
    return [base, *(found for each in base.__subclasses__() for found in classes(each))]


def test_every_error_has_a_code_of_the_table() -> None:
    codes = {found.exit_code for found in classes(NextnError) if found.__module__ == errors.__name__}
    assert codes - {NextnError.exit_code} <= set(EXIT_CODES)
    named = {value for name, value in vars(errors).items() if name.startswith("EXIT_") and isinstance(value, int)}
    assert {0, *codes - {1}, *named} == set(EXIT_CODES)


def test_help_shows_the_table() -> None:
    shown = " ".join(help_of().split())
    for code, meaning in EXIT_CODES.items():
        assert f" {code} {meaning} " in shown


def tree(found: type[NextnError], before: str = "    ", branch: str = "") -> list[str]:
    """The tree of errors as it is drawn in the docstring."""
    meaning = EXIT_CODES.get(found.exit_code, "base; never raised itself")
    name = f"{before}{branch}{found.__name__}"
    lines = [f"{name:<29}{found.exit_code:>3}   {meaning}"]
    below = [each for each in found.__subclasses__() if each.__module__ == errors.__name__]
    inner = before + {"": "", "├── ": "│   ", "└── ": "    "}[branch]
    for each in below:
        lines += tree(each, inner, "└── " if each is below[-1] else "├── ")
    return lines


def test_the_docstring_draws_the_tree() -> None:
    drawn = [line for line in (errors.__doc__ or "").splitlines() if re.search(r"\s\d+   \w", line)]
    assert drawn == tree(NextnError)


# -- one name per verb ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", VERBS)
def test_a_verb_is_found_under_its_name(verb: str) -> None:
    assert verb in KINDS
    for room in ("cli", "verbs", "report", "schemas"):
        assert (SOURCE / room / f"{verb}.py").is_file(), room
    assert (SOURCE / "schemas" / f"{verb}.json").is_file()
    assert (ROOT / "tests" / "verbs" / f"test_{verb}.py").is_file()
    function = getattr(importlib.import_module(f"nextn.verbs.{verb}"), verb)
    assert verb in nextn.__all__ and inspect.isfunction(function) and "Raises" in (function.__doc__ or "")
    assert importlib.import_module(f"nextn.report.{verb}").__doc__


def test_no_class_has_the_name_of_another() -> None:
    homes: dict[str, list[str]] = defaultdict(list)
    for path in sorted(SOURCE.rglob("*.py")):
        for name in re.findall(r"^class (\w+)", path.read_text(), re.MULTILINE):
            homes[name].append(str(path.relative_to(SOURCE)))
    assert {name: where for name, where in homes.items() if len(where) > 1 and not name.startswith("_")} == {}


# -- the Python API ---------------------------------------------------------------------------------------------------


def test_the_page_of_the_api_is_that_of_the_code() -> None:
    assert API_PAGE.read_text(encoding="utf-8") == api_page()


def test_everything_public_is_there_on_import() -> None:
    assert nextn.errors is errors
    for name in nextn.__all__:
        assert getattr(nextn, name) is not None
    assert {verb for verb in nextn.__all__ if verb in VERBS} == set(VERBS)
    assert Path(nextn.__file__).with_name("py.typed").is_file()
