"""`nextn assemble`: join shards or single-tensor files into one file or set, with tensors picked from other sets."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from ..errors import FormatError, StorageError, UsageError
from ..layouts.assemble import Assembly, Pick, open_pieces, plan_assemble, with_recipe
from ..printable import one_line
from ..progress import Progress
from ..schemas.recipe import RecipeDocument, RecipePick, RecipeTensor
from ..version import __version__
from ..writing.plan import LinkMode
from ..writing.result import Result, carry_out, link_mode

RECIPE_SUFFIX = ".recipe.json"
MOST_RECIPE_BYTES = 64 << 20


def assemble(
    pieces: str | Path | Sequence[str | Path] = (),
    *,
    picks: Sequence[str] = (),
    recipe: str | Path | None = None,
    out: str | Path | None = None,
    link: str | LinkMode = LinkMode.AUTO,
    dry_run: bool = False,
    progress: Progress | None = None,
) -> Result:
    """Assemble a model from a folder of shards, or from the named files.

    `picks`: each "REGEX=DIR": tensors whose full names match come from the set in DIR; the first pick that matches a
    name supplies it. `recipe`: repeat a recipe; `pieces` and `picks`, where given, replace its own. `out`: a path
    ending in .gguf becomes one file; a folder gets a set with the base's shards, linked where they are unchanged.
    With picks, a recipe is written beside the model.

    Raises UsageError, DonorMismatch (another model, another shape), IncompleteModel, FormatError, OutputExists,
    NoSpace, StorageError.
    """
    named = [pieces] if isinstance(pieces, str | Path) else list(pieces)
    asked = [_pick(text) for text in picks]
    before = None if recipe is None else read_recipe(Path(recipe))
    if before is not None:
        named = named or list(before.base)
        asked = asked or [(one.pattern, list(one.source)) for one in before.picks]
    if not named:
        raise UsageError("name a folder of shards, or the files to put together.")
    opened = [Pick(pattern, open_pieces(source)) for pattern, source in asked]
    made = plan_assemble(open_pieces(named), opened, out, link_mode(link))
    if before is not None:
        made = _compared(made, before)
    if opened:
        document = RecipeDocument(
            tool=f"nextn {__version__}",
            base=[_absolute(path) for path in named],
            picks=[RecipePick(pattern, [_absolute(path) for path in source]) for pattern, source in asked],
            tensors=[RecipeTensor(one_line(one.name), one.type_name, _absolute(one.file.path)) for one in made.taken],
        )
        stem = made.plan.entry.name.removesuffix(".gguf").split("-00001-of-")[0]
        data = msgspec.json.format(msgspec.json.encode(document), indent=1) + b"\n"
        made = with_recipe(made, stem + RECIPE_SUFFIX, data)
    return carry_out(made.plan, dry_run, progress)


def _absolute(path: str | Path) -> str:
    """A path as text for JSON. Raises UsageError if it is not UTF-8."""
    text = str(Path(path).absolute())
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UsageError(f"{text!r}: a recipe cannot hold a path that is not UTF-8; rename it.") from None
    return text


def _pick(text: str) -> tuple[str, list[str | Path]]:
    """Pattern and source of "REGEX=DIR". Raises UsageError."""
    pattern, equals, source = text.rpartition("=")
    if not equals or not pattern or not source:
        raise UsageError(f"--pick: '{text}' is not of the form REGEX=DIR, such as 'blk[.]0[.].*=other/'.")
    if not pattern.isprintable():
        raise UsageError(f"--pick: {pattern!r} holds characters that no terminal shows; use '.' for them.")
    return pattern, [Path(source).expanduser()]


def read_recipe(path: Path) -> RecipeDocument:
    """A recipe that an earlier run wrote. Raises FormatError, StorageError."""
    try:
        if path.stat().st_size > MOST_RECIPE_BYTES:
            raise FormatError(f"a recipe has at most {MOST_RECIPE_BYTES:,} bytes", path=path)
        return msgspec.json.decode(path.read_bytes(), type=RecipeDocument)
    except OSError as error:
        raise StorageError(f"{path}: cannot read the recipe: {error.strerror or error}.") from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        what = str(error).replace("`", "'")
        raise FormatError(f"this is not a recipe that 'nextn assemble' wrote ({what})", path=path) from None


def _compared(made: Assembly, before: RecipeDocument) -> Assembly:
    """The assembly, with a note on each difference from the recipe."""
    then = {one.name: one.type for one in before.tensors}
    now = {one_line(one.name): one.type_name for one in made.taken}
    notes = [f"the recipe took {then[name]} of '{name}', and now it is {now.get(name, 'missing')}"
             for name in then if now.get(name) != then[name]]  # fmt: skip
    notes += [f"'{name}' matches now, but did not when the recipe was written" for name in now if name not in then]
    return replace(made, plan=made.plan.noted(notes))
