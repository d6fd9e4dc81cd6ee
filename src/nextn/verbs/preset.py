"""A model's settings as a preset of llama.cpp's router: `llama-server --models-preset FILE`.

The format is that of llama.cpp's `docs/preset.md` and `common/preset.cpp`: one section per model; keys are options
without their dashes. A value ends at the first `;` or `#`, and values cannot be quoted.
"""

from __future__ import annotations

import re
from pathlib import Path

from ..errors import UsageError
from .serve import Serving

_NO_VALUE = re.compile(r"[;#\r\n]")
_NO_NAME = re.compile(r"[\[\]:;#\s]+")
_ROUTERS_OWN = ("--host", "--port")
_LONG = {"-m": "--model", "-md": "--model-draft", "-t": "--threads"}  # what nextn itself puts into a command


def preset_text(choice: Serving) -> str:
    """The preset file's text. Raises UsageError if the engine has no router, or a setting cannot be written."""
    from ..engines import LlamaServer

    if choice.engine != LlamaServer.name:
        raise UsageError(f"--preset: {choice.engine} has no router; name a llama-server of llama.cpp.")
    pairs = [pair for pair in _pairs(choice.command[1:]) if pair[0] not in _ROUTERS_OWN]
    lines = ["version = 1", "", f"[{_section(choice.model)}]"]
    for option, value in pairs:
        if _NO_VALUE.search(value) or value != value.strip():
            raise UsageError(
                f"--preset: {option} {value!r} cannot be written, since a preset's values end at ';', '#' and line "
                "ends; rename the file, or start the server without a preset."
            )
        lines.append(f"{_LONG.get(option, option).lstrip('-')} = {value}")
    return "\n".join(lines) + "\n"


def _section(model: Path) -> str:
    name = re.sub(r"-00001-of-\d{5}$", "", model.name.removesuffix(".gguf"))
    return _NO_NAME.sub("-", name)


def _pairs(args: tuple[str, ...]) -> list[tuple[str, str]]:
    """Options and their values, in order; an option without a value is a switch that is on, and the last one wins."""
    found: dict[str, str] = {}
    name = None
    for arg in args:
        if name is not None and not _is_option(arg):
            if found[name] != "true":
                raise UsageError(f"--preset: {name} has two values, which presets cannot hold.")
            found[name] = arg
            name = None
            continue
        if not _is_option(arg):
            raise UsageError(
                f"--preset: {arg!r} is not an option; engine arguments of a preset must be options and their values."
            )
        name, equals, value = arg.partition("=")
        found.pop(name, None)
        found[name] = value if equals else "true"
        if equals:
            name = None
    return list(found.items())


def _is_option(arg: str) -> bool:
    """Whether an argument is an option: `-1` and `-0.5` are values."""
    return arg.startswith("-") and not re.fullmatch(r"-\d[\d.]*|-", arg)


def write_preset(choice: Serving, out: str | Path) -> Path:
    """Write the preset to `out`, which must not exist. Raises OutputExists, NoSpace, StorageError, UsageError."""
    from ..writing.durable import write_file

    path = Path(out)
    write_file(path, preset_text(choice).encode("utf-8", "surrogateescape"))
    return path
