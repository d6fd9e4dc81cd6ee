"""The building blocks of documents, and how they are filled, written and read."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import UNSET, Meta, Struct

from ..brief import Brief, brief

T = TypeVar("T", bound=Struct)


def doc(text: str) -> Meta:
    """What a field holds, for the schema."""
    return Meta(description=text)


Bytes = Annotated[int, Meta(ge=0)]
Count = Annotated[int, Meta(ge=0)]
Positive = Annotated[int, Meta(ge=1)]
Seconds = Annotated[float, Meta(ge=0)]
Share = Annotated[float, Meta(ge=0, le=1)]
Sha256 = Annotated[str, Meta(pattern="^[0-9a-f]{64}$")]


class DocumentPart(Struct):
    """An object inside a document. A field that it does not have was added by a later version, and is passed over."""


class Document(Struct, tag_field="kind"):
    """What a verb prints with --json: `kind` is the verb's name."""

    version: Literal[1] = 1

    def __repr__(self) -> str:
        return brief(self, self.__struct_fields__)


class EngineName(DocumentPart):
    """An engine that was asked."""

    name: str
    version: str


def filled(kind: type[T], source: object, /, **given: Any) -> T:
    """A part or document filled from the attributes of `source` that match its field names, or from `given`.

    Nested objects are filled in the same way, and paths become text; UNSET leaves a field out. Everything is checked
    against the types.
    """
    names = [name for name in kind.__struct_fields__ if name not in {*given, "version"} and hasattr(source, name)]
    values = {**{name: getattr(source, name) for name in names}, **given}
    aliases = dict(zip(kind.__struct_fields__, kind.__struct_encode_fields__, strict=True))
    found = {aliases[name]: _text(value) for name, value in values.items() if value is not UNSET}
    tag = kind.__struct_config__.tag
    return msgspec.convert({**found, **({"kind": tag} if tag else {})}, kind, from_attributes=True)


def _text(value: object) -> object:
    if isinstance(value, Path):
        return str(value)
    if isinstance(value, list | tuple):
        return [_text(each) for each in value]
    return value


class Documented(Brief):
    """A result that a document describes."""

    @property
    def document(self) -> Document:
        """What --json prints."""
        raise NotImplementedError

    @property
    def when_unprinted(self) -> str:
        """Part of a sentence saying what was done, for when the document cannot be printed."""
        return "nothing was written"

    def to_json(self) -> dict[str, Any]:
        """The document as plain dictionaries and lists; its schema is KIND.json, beside this module."""
        return plain(self.document)


def plain(document: Struct) -> dict[str, Any]:
    """A document as plain dictionaries and lists."""
    made: dict[str, Any] = msgspec.to_builtins(document)
    return made
