"""The recipe that `nextn assemble --pick` writes beside what it made."""

from __future__ import annotations

from typing import Annotated, Literal

from msgspec import Meta, Struct

from .base import doc


class RecipePart(Struct):
    """An object inside a recipe. Keys that this version does not know are passed over."""


class RecipePick(RecipePart):
    """Tensors taken from another set."""

    pattern: Annotated[str, doc("a regular expression that must match full names")]
    source: Annotated[list[str], Meta(min_length=1, description="absolute paths: a folder, or files")]


class RecipeTensor(RecipePart):
    """A tensor that a pick supplied."""

    name: str
    type: Annotated[str, doc("its tensor type")]
    file: Annotated[str, doc("absolute path of the file it was in")]


class RecipeDocument(RecipePart, tag_field="kind", tag="recipe", kw_only=True):
    """What was put together from where; `nextn assemble --recipe` does it again."""

    version: Literal[1] = 1
    tool: Annotated[str, doc("what wrote it")]
    base: Annotated[list[str], doc("absolute paths: a folder, or files")]
    picks: list[RecipePick]
    tensors: Annotated[list[RecipeTensor], doc("what the picks supplied, by name")]
