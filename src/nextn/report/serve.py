"""How a model is served, for the user; the command, or the preset, on standard output."""

from __future__ import annotations

from ..printable import printable
from ..shell import shell
from ..verbs.serve import Serving
from .text import put_path, say


def show_notes(serving: Serving) -> None:
    """What the user should know about it."""
    for note in serving.notes:
        say(f"note: {printable(note, 2000)}")


def show_preset(serving: Serving, out: str, *, print_only: bool) -> None:
    """Write the preset and print its path, or print the preset itself."""
    from ..verbs.preset import preset_text, write_preset

    if print_only:
        print(preset_text(serving), end="")
        return
    say(f"start the router with: {shell('llama-server', '--models-preset', out)}")
    put_path(write_preset(serving, out))


def show_command(serving: Serving, *, print_only: bool) -> None:
    """The command: on standard output if it is all that was asked for."""
    if print_only:
        print(serving.shell)
        return
    say(f"engine: {serving.engine} {serving.engine_version}")
    say(serving.shell)
