"""What may be pulled: files with harmless names whose content is what their repository says it is.

A repository is untrusted. Only visible `*.gguf` names get into the user's folder, no name with a special meaning to a
shell, to Python or to another system, and no two that some file system treats as equal. By content each has to be
a GGUF, and listing, manifest and headers have to agree; otherwise nothing gets a name.
"""

from __future__ import annotations

import unicodedata
from pathlib import PurePosixPath

from ..errors import FormatError
from ..gguf.files import split_shard_name
from ..gguf.sets import SPLIT_COUNT, SPLIT_NO
from ..layouts.pack import MTP, PLAIN
from ..oscalls import invalid_on_windows
from ..printable import printable
from .choose import Chosen
from .listing import Group, Headers, is_sidecar_of, kind_of

SUFFIX = ".gguf"
MAX_NAME_BYTES = 255  # most file systems


def wrong_name(path: str) -> str | None:
    """Why a path of a repository may not be pulled, as the end of a sentence; None: it may."""
    parts = path.split("/")
    for part in parts:
        if part in ("", ".", ".."):
            return "leads out of its folder"
        if part.startswith((".", "-")):
            return "begins with a dot or a dash"
        if not part.isprintable() or any(unicodedata.category(c)[0] == "C" for c in part):
            return "contains invisible characters"
        if invalid_on_windows(part) or part != part.strip():
            return "is not valid on every system"
        if len(part.encode("utf-8", "surrogatepass")) > MAX_NAME_BYTES:
            return f"is longer than {MAX_NAME_BYTES} bytes"
    return None if parts[-1].endswith(SUFFIX) and parts[-1] != SUFFIX else f"does not end in {SUFFIX}"


def check_names(chosen: Chosen, origin: str) -> None:
    """Raise FormatError unless every chosen file may get its name, alongside all the others."""
    known: dict[str, str] = {}
    for file in chosen.files:
        why = wrong_name(file.path)
        if why is not None:
            raise _refused(f"its name {why}, so it is not pulled", file.path, origin)
        name = PurePosixPath(file.path).name
        other = known.setdefault(unicodedata.normalize("NFC", name).casefold(), file.path)
        if other is not file.path:
            raise _refused(
                f"'{printable(other)}' would get the same name, so the repository cannot be pulled", file.path, origin
            )


def check_content(chosen: Chosen, header: Headers, architecture: str | None, origin: str) -> None:
    """Raise FormatError unless the headers of all chosen files match names, manifest and variant.

    `architecture` is what the manifest says, or None without one.
    """
    own = [file for file in chosen.files if file.path != chosen.sidecar]
    entry = header(chosen.entry)
    found = entry.header.get("general.architecture")
    if not isinstance(found, str) or (architecture is not None and found != architecture):
        raise _refused(
            "its architecture is not what the manifest says", chosen.entry, origin,
            printable(architecture or "one"), printable(found) if isinstance(found, str) else "none",
        )  # fmt: skip
    for file in chosen.files:
        if header(file.path).size_bytes != file.size_bytes:
            raise _refused(
                "its size is not what the repository says", file.path, origin,
                f"{file.size_bytes:,} bytes", f"{header(file.path).size_bytes:,} bytes",
            )  # fmt: skip
        header(file.path).check_whole()
    _check_set(chosen, [file.path for file in own], header, origin)
    kind = kind_of(Group(chosen.quant, tuple(own)), header)
    wanted = MTP if chosen.variant == MTP and chosen.sidecar is None else PLAIN
    if kind != wanted:
        names = {MTP: "a model with its MTP block", PLAIN: "a model without an MTP block"}
        raise _refused(
            f"it is not what the repository says of the variant {chosen.variant}", chosen.entry, origin,
            names[wanted], names.get(kind, kind),
        )  # fmt: skip
    if chosen.sidecar is not None:
        beside = header(chosen.sidecar)
        theirs = beside.header.get("general.architecture")
        if not isinstance(theirs, str) or (theirs == found and not is_sidecar_of(beside, entry)):
            raise _refused(f"it is not a sidecar of '{printable(chosen.entry)}'", chosen.sidecar, origin)


def _check_set(chosen: Chosen, paths: list[str], header: Headers, origin: str) -> None:
    """Check that the files are the complete set that the first one's header counts, in order, under one prefix."""
    count = header(chosen.entry).header.integer(SPLIT_COUNT) or 0
    if len(paths) != max(count, 1):
        raise _refused("the set is not what its header says", chosen.entry, origin, f"{max(count, 1):,} files",
                       f"{len(paths):,}")  # fmt: skip
    if count == 0:
        return
    prefixes = set()
    for i, path in enumerate(sorted(paths)):
        shard, number = split_shard_name(PurePosixPath(path).name), header(path).header.integer(SPLIT_NO)
        if shard is None or (shard[1], shard[2], number) != (i + 1, count, i):
            raise _refused("its name and its header disagree", path, origin, f"shard {i + 1} of {count}",
                           "no shard" if shard is None or number is None else f"shard {number + 1}")  # fmt: skip
        prefixes.add((PurePosixPath(path).parent, shard[0]))
    if len(prefixes) > 1 or sorted(paths)[0] != chosen.entry:
        raise _refused("its shards have several names", chosen.entry, origin)


def _refused(
    what: str, path: str, origin: str, expected: str | None = None, found: str | None = None
) -> FormatError:
    return FormatError(
        f"{what}; nothing was written, use another repository", path=f"{origin}:{printable(path)}",
        expected=expected, found=found,
    )  # fmt: skip
