"""Makes docs/python-api.md from the functions of the Python API and the table of exit codes, and docs/wild-files.md
from the registry of files that the tests rebuild.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import nextn
from nextn import errors
from nextn.cli import VERBS
from nextn.errors import EXIT_CODES, NextnError

ROOT = Path(__file__).resolve().parent.parent
API_PAGE, WILD_PAGE = ROOT / "docs" / "python-api.md", ROOT / "docs" / "wild-files.md"

MORE = {"bench": ("bench_tensors",)}  # functions that a command has beside the one of its name

HEAD = """\
# Python API

Every command is a function of `nextn`, typed, with the same words for the same things:

```python
import nextn

made = nextn.attach("model-Q4_K_M.gguf", "ORG/NAME", layout="sidecar")
print(made.entry, made.sidecar, made.to_json()["bytes_written"])
try:
    verdict = nextn.verify(made.entry, sidecar=made.sidecar)
except nextn.errors.EngineMissing as error:
    print(error)
```

- **Results** have attributes, `document` (what `--json` prints, typed) and `to_json()` (the same as dictionaries).
  Their schemas are in [src/nextn/schemas](../src/nextn/schemas).
- **Progress**: `progress(bytes_done, bytes_in_all)` is called while bytes move, `say(text)` when a step begins
  (their types: `nextn.Progress`, `nextn.Say`). Without `say`, steps are logged to the logger `nextn` at level INFO.
- **Engines**: `engine` is `"xllamacpp"`, `"llama-server"`, `"ik"`, the path of a llama-server, or what
  `nextn.engines.find_engine` (after `import nextn.engines`) returned.
- **Donors and models** are paths, `ORG/NAME`, `hf:ORG/NAME@REVISION:FILE` or addresses, as on the command line.

This page is made by scripts/make_docs.py.
"""


def api_page() -> str:
    """The page's text."""
    parts = [HEAD, "\n## Functions\n"]
    for verb in (name for command in VERBS for name in (command, *MORE.get(command, ()))):
        function = getattr(importlib.import_module(f"nextn.verbs.{verb}"), verb)
        parts.append(f"\n### {verb}\n\n```python\n{_signature(verb, function)}\n```\n\n{_text(function)}\n")
    parts.append(
        "\n## Results\n\nWhat the functions return. Those with `document` also have `to_json()`. Types that are not in "
        "`nextn` itself are described where they are defined; what a program should rely on is `document`.\n"
    )
    for name in nextn.__all__:
        kind = getattr(nextn, name)
        if inspect.isclass(kind):
            parts.append(f"\n### {name}\n\n{_text(kind)}\n\n| attribute | type | what |\n| --- | --- | --- |\n")
            parts += [f"| `{one}` | `{shown}` | {what} |\n" for one, shown, what in _attributes(kind)]
    parts.append("\n## Errors\n\nAll are in `nextn.errors`; `str(error)` is one sentence that says what to do.\n")
    parts.append("\n| class | exit code | when |\n| --- | --- | --- |\n")
    for found in _classes(NextnError):
        if found is not NextnError:
            parts.append(f"| `{found.__name__}` | {found.exit_code} | {EXIT_CODES[found.exit_code]} |\n")
    parts.append("\n## Exit codes of the command line\n\n| code | meaning |\n| --- | --- |\n")
    parts += [f"| {code} | {meaning} |\n" for code, meaning in EXIT_CODES.items()]
    parts.append("\n`nextn serve` passes on the exit code of the server.\n")
    return "".join(parts)


def _signature(verb: str, function: object) -> str:
    signature = inspect.signature(function)  # type: ignore[arg-type]
    lines = [f"nextn.{verb}("]
    keywords = False
    for parameter in signature.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not keywords:
            keywords = True
            lines.append("    *,")
        default = parameter.default
        value = getattr(default, "value", default)  # of an enumeration
        ending = "" if default is parameter.empty else f" = {value!r}"
        lines.append(f"    {parameter.name}: {parameter.annotation}{ending},")
    return "\n".join([*lines, f") -> {signature.return_annotation}"])


_FIELD = re.compile(r"    (\w+): .*?  # (.+)")


def _attributes(kind: type[object]) -> Iterator[tuple[str, str, str]]:
    """Name, type and meaning: a field's comment, or a property's first sentence."""
    comments: dict[str, str] = {}
    for base in reversed(kind.__mro__[:-1]):
        found = map(_FIELD.fullmatch, inspect.getsource(base).splitlines())
        comments |= {match[1]: match[2] for match in found if match is not None}
    for field in dataclasses.fields(kind) if dataclasses.is_dataclass(kind) else ():
        if not field.name.startswith("_"):
            yield field.name, _cell(field.type), _cell(comments.get(field.name, ""))
    for name, value in inspect.getmembers(kind):
        if isinstance(value, property | functools.cached_property) and not name.startswith(("_", "when_unprinted")):
            getter = value.fget if isinstance(value, property) else value.func
            what = (inspect.getdoc(getter) or "").partition("\n\n")[0]
            yield name, _cell(getter.__annotations__.get("return", "")), _cell(what)


def _cell(text: object) -> str:
    return " ".join(str(text).split()).replace("|", "\\|")


def _text(function: object) -> str:
    text = inspect.getdoc(function) or ""
    return re.sub(r"(?<=\S)\n(?=\S)", " ", text)


def _classes(base: type[NextnError]) -> list[type[NextnError]]:
    below = [each for each in base.__subclasses__() if each.__module__ == errors.__name__]
    return [base, *(found for each in below for found in _classes(each))]


if __name__ == "__main__":
    API_PAGE.write_text(api_page(), encoding="utf-8")
    print(API_PAGE)
    sys.path[:0] = [str(ROOT / name) for name in ("tests", "tests/support", "tests/support/engine_watch", "scripts")]
    from wild_page import page

    WILD_PAGE.write_text(page(), encoding="utf-8")
    print(WILD_PAGE)
