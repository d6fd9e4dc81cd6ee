"""What the shell offers when the tab key is pressed: files, folders, and names of the Hub's repositories kept here.

Only the local cache is looked at, by its folders' names: a key press must not wait for a server.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import click
from click.shell_completion import CompletionItem

Complete = Callable[[click.Context, click.Parameter, str], "list[CompletionItem]"]

_FILES = {"MODEL", "TRUNK", "FILE", "OUT", "OTHER", "PATH", "PAGE", "RESULTS", "PIECES", "ENGINE"}
_HUB = {"DONOR", "REPO", "MODEL", "OTHER"}  # may also name a repository


def _hub_names(incomplete: str) -> list[str]:
    """Repositories in the user's Hub cache whose name begins like this."""
    home = os.environ.get("HF_HUB_CACHE") or Path(os.environ.get("HF_HOME", "~/.cache/huggingface"), "hub")
    try:
        names = os.listdir(Path(home).expanduser())  # noqa: PTH208 - names only
    except OSError:
        return []
    found = (name.removeprefix("models--").replace("--", "/", 1) for name in names if name.startswith("models--"))
    return sorted(name for name in found if name.startswith(incomplete))


def _complete(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
    word = _word(ctx, param)
    out = [CompletionItem(name) for name in (_hub_names(incomplete) if word in _HUB and incomplete else [])]
    if word in _FILES or word == "DONOR":
        out.append(CompletionItem(incomplete, type="file"))
    if word == "DIR":
        out.append(CompletionItem(incomplete, type="dir"))
    return out


def _word(ctx: click.Context, param: click.Parameter) -> str:
    return param.make_metavar(ctx).strip("[].")


def add_completion(command: click.Command, ctx: click.Context) -> None:
    """Let the command's arguments and options that name files or repositories be completed."""
    for param in command.params:
        if _word(ctx, param) in _FILES | _HUB | {"DIR"} and not isinstance(param.type, click.Choice):
            param._custom_shell_complete = _complete
