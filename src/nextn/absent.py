"""Paths at which there is nothing that can be read: what was most likely meant, and what to do about it."""

from __future__ import annotations

import difflib
import os
import re
import stat
from itertools import islice
from pathlib import Path

_MOST_NAMES = 10_000  # of a folder that is searched for similar names
_LIKENESS = 0.75
_AS_LIKE = 0.05  # names that are this much less like the one wanted than the best are not worth naming
_ON_THE_HUB = re.compile(r"(?:hf:(?://)?)?(?P<repo>[\w][\w.-]*/[\w][\w.-]*)(?:@[^:]+)?(?::.+)?")
_NAME = re.compile(r"[\w.-]+(?::[\w.-]+)?")  # as ollama has them
_SUFFIXES = (".gguf", ".safetensors", ".json")
_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
    (stat.S_ISDIR, "a folder"),
)


def nothing_at(path: Path | str) -> str:
    """The sentence about a path that does not exist, with its name first."""
    return f"{as_given(path)}: {no_such(path)}."


def as_given(path: Path | str) -> str:
    """What the user wrote: of the two slashes of an address a Path has one."""
    return re.sub(r"\A(https?):/+", r"\1://", os.fspath(path))


def is_address(path: Path | str) -> bool:
    """Whether this is an address of a server, be it as a Path."""
    return as_given(path).startswith(("http://", "https://"))


def no_such(path: Path | str) -> str:
    """Half a sentence about a path that does not exist: a similar name, or what the path was taken for."""
    text = os.fspath(path)
    what = "there is no such file or folder"
    try:
        os.lstat(text)
    except PermissionError:
        return f"whether it is there cannot be seen: a folder above it is closed to you{whose(text)}"
    except (OSError, ValueError):
        pass
    if os.path.islink(text):  # noqa: PTH114 - never raises
        return f"cannot open it: this link leads to {os.readlink(text)}, where there is nothing"  # noqa: PTH115
    if (why := quoted_home(text)) is not None:
        return f"{what}, because {why}"
    if text.startswith("file:/"):
        return f"{what}, because this is an address; write {re.sub('^file:/+', '/', text)}"
    if re.match(r"https?:/", text):
        return f"{what}, and an address has to be downloaded for this command; download the file and name it"
    near = similar(Path(text))
    if near:
        return f"{what}; {'a similar name is' if len(near) == 1 else 'similar names are'} {', '.join(near)}"
    lost = _lost_folder(Path(text))
    on_hub = _ON_THE_HUB.fullmatch(text)
    if on_hub and lost is not None and not text.endswith(_SUFFIXES):
        return f"{what}; to get it from the Hub: nextn pull {on_hub['repo']} -o FOLDER"
    if lost is not None:
        return f"{what}, and no folder {lost} either; check the path"
    if _NAME.fullmatch(text) and not text.lower().endswith(_SUFFIXES):
        return f"{what}; check the path, or use 'nextn up', which knows the names of LM Studio's and ollama's models"
    return f"{what}; check the path"


def whose(path: Path | str) -> str:
    """The end of a sentence about a path that the system refuses: whose it, or the folder above it, is; '' if yours.

    What a run with sudo left behind belongs to root, which is the usual reason.
    """
    for place in (Path(path), *Path(path).parents):
        try:
            owner = os.stat(place).st_uid  # noqa: PTH116 - as the loop's other calls, and Windows has no owner
            me = os.geteuid()
        except (OSError, ValueError, AttributeError):
            continue
        if owner in (me, -1) or me == 0:
            return ""
        return f" ({place} belongs to {_user(owner)}, and you are {_user(me)})"
    return ""


def _user(number: int) -> str:
    try:
        import pwd

        return pwd.getpwuid(number).pw_name
    except (ImportError, KeyError):
        return f"user {number}"


def quoted_home(text: str) -> str | None:
    """Half a sentence about a path that begins with a tilde, which a shell left as it is; None for others."""
    if not text.startswith("~") or os.path.lexists(text):
        return None
    return f"a shell does not expand '~' inside quotes; write {os.path.expanduser(text)}"  # noqa: PTH111


def similar(path: Path) -> list[str]:
    """Paths of at most three files and folders beside `path` with nearly its name, the most similar first."""
    try:
        with os.scandir(path.parent) as entries:
            names = [entry.name for entry in islice(entries, _MOST_NAMES) if not entry.name.startswith(".")]
    except (OSError, ValueError):  # no such folder, or a name with a zero byte
        return []
    by_lower = {name.lower(): name for name in sorted(names, reverse=True)}
    wanted = path.name.lower()
    if f"{wanted}.gguf" in by_lower:
        return [str(path.parent / by_lower[f"{wanted}.gguf"])]
    near = difflib.get_close_matches(wanted, by_lower, 3, _LIKENESS)
    likeness = [difflib.SequenceMatcher(None, name, wanted).ratio() for name in near]
    return [str(path.parent / by_lower[name]) for name, one in zip(near, likeness, strict=True)
            if one > likeness[0] - _AS_LIKE]  # fmt: skip


def _lost_folder(path: Path) -> Path | None:
    """The first folder of the path that is not there."""
    lost = None
    for folder in path.parents:
        if os.path.exists(folder):  # noqa: PTH110 - never raises
            break
        lost = folder
    return lost


def not_regular(mode: int) -> str:
    """Half a sentence about something that is not a regular file."""
    kind = next((words for is_kind, words in _KINDS if is_kind(mode)), "")
    if kind == "a folder":
        return "this is not a regular file but a folder; name a file in it"
    if kind == "a pipe":
        return "this is not a regular file but a pipe, which can be read only once; save it to a file, and name that"
    return f"this is not a regular file{f' but {kind}' if kind else ''}; name the file itself"
