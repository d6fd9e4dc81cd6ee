"""Documents read back: recognised by their `kind`, checked against its definition."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import msgspec

from ..bounded import MOST_DOCUMENT, check_depth, read_bounded
from ..errors import FormatError, UnsupportedFormat
from . import KINDS, document_type
from .base import Document


def read_document(path: Path, kinds: Sequence[str] = KINDS) -> Document:
    """The document in a file. Raises StorageError, and what `decode_document` raises."""
    return decode_document(read_bounded(path, MOST_DOCUMENT, "read the result"), path, kinds)


def decode_document(data: bytes, path: Path, kinds: Sequence[str] = KINDS) -> Document:
    """The document in `data`, of one of `kinds`; `path` names it in errors.

    Raises FormatError for what is not a document, for one of another kind and for a damaged one, and UnsupportedFormat
    for one of another version.
    """
    wanted = ", ".join(kinds[:-1]) + (" or " if kinds[1:] else "") + kinds[-1]
    take = f"name a file that 'nextn {kinds[0]} --json' wrote" if len(kinds) == 1 else "name a file that --json wrote"
    try:
        value = msgspec.json.decode(data)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise FormatError(f"this is not JSON ({error}); {take}", path=path) from error
    check_depth(value, path)
    if not isinstance(value, dict) or "version" not in value:
        raise FormatError(f"this is JSON, but not a nextn document; {take}", path=path)
    kind = value.get("kind")
    if value["version"] != 1:
        which = f"{value['version']!r:.40}"
        raise UnsupportedFormat(
            f"the document has version {which}, and this nextn reads 1; use the nextn that wrote it", path=path
        )
    if kind is None:
        raise FormatError("the document has no 'kind', so an older nextn wrote it; make it again", path=path)
    if kind == "error" and kind not in kinds:
        why = str(value.get("message", "")).rstrip(".")
        raise FormatError(f"this is no result: 'nextn {value.get('verb')}' failed ({why}); make it again", path=path)
    if kind not in kinds:
        raise FormatError(f"this is a document of kind {kind!r:.40}, and {wanted} is needed here", path=path)
    try:
        return msgspec.convert(value, document_type(kind))
    except msgspec.ValidationError as error:
        raise FormatError(
            f"this is not what 'nextn {kind} --json' prints ({str(error).replace('`', chr(39))}); make it again",
            path=path,
        ) from error
