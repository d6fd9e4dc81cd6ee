"""Finds a trunk's donor when none was named: on this machine, or on the Hub where its metadata points.

Local files need no network and are checked first: the trunk's sidecar (see `sidecars`), donor files and bundled
models beside the trunk, then checkpoints near it and in caches (see `nearby`), all of which bear its name and fit by
their headers. Then `donors.infer` guesses repositories from metadata, which are confirmed by their headers:
config.json, the index, and tokenizer.json of the one that fits so far. What fits on this machine under another name
comes last, and is called a guess.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..archs import family_of
from ..block.anatomy import Anatomy
from ..block.from_gguf import block_from_model
from ..diagnosis.unpublished import words_of_trunk
from ..donors.infer import Doubt, Evidence, Strength, find_donor, names_of, same_name
from ..errors import BlockPresent, NextnError, NoBlock, RemoteError
from ..gguf.files import Model, model_candidates, open_model
from ..layouts.donor_check import check_fit, check_trunk, differences
from ..layouts.places import is_named_by_hash
from ..remote.address import HubSource
from .nearby import Nearby, cached_snapshot, evidence, nearby
from .once import Asking, each_time
from .sidecars import base_of, find_sidecars

if TYPE_CHECKING:
    from ..remote.http import Options
    from ..remote.model import Remote, RemoteCheckpoint

MOST_NEIGHBOURS = 64  # at most this many GGUF files beside the trunk have their headers read


@dataclass(frozen=True)
class FoundDonor:
    """The donor that was chosen."""

    source: str  # a value for --from, pinned to a commit if it has one
    why: str  # one sentence: what was chosen, and why
    bytes_downloaded: int = 0  # while checking candidates
    is_guess: bool = False  # only names or sizes speak for it


class NotAsked(NoBlock):
    """There is no donor on this machine, and the Hub was not to be asked."""


def find(
    trunk: Model, *, layout: str, options: Options | None = None, ask_hub: bool = True, ask: Asking = each_time
) -> FoundDonor:
    """The donor for `trunk`, to be attached as `layout`; `ask_hub` False: only on this machine.

    Raises Doubt (several fit equally well), NoBlock (none was found; the message names what was tried), BlockPresent (a
    sidecar was requested and is already beside the trunk), RemoteError, UnsupportedModel (no engine would draft, so
    nothing is searched), and what `check_trunk` raises.
    """
    family_of(trunk.architecture, trunk.entry)
    check_trunk(trunk)
    if (found := _beside(trunk, layout, ask)) is not None:
        return found
    near = nearby(trunk, ask)
    if named := [each for each in near if each.is_named]:
        return _chosen(trunk, named)
    if (known := words_of_trunk(Anatomy.of(trunk))) is not None:
        raise NoBlock(f"{trunk.entry}: {known}.")
    if not ask_hub:
        if not near:
            raise NotAsked(f"{trunk.entry}: no donor is on this machine, and the Hub was not asked.")
        return _chosen(trunk, near, "; the Hub was not asked")
    try:
        return _on_the_hub(trunk, options)
    except NoBlock:
        if not near:
            raise
        return _chosen(trunk, near, "; the Hub has none by the model's metadata")
    except Unreachable as error:
        if not near:
            raise
        return _chosen(trunk, near, f"; the Hub was not asked ({error.reason})")


class Unreachable(RemoteError):
    """A repository that the metadata name, and that cannot be looked at; `reason` is why, without a full stop."""

    def __init__(self, trunk: Model, error: RemoteError) -> None:
        self.reason = str(error).removesuffix(".").removesuffix(", or name a local file")
        super().__init__(
            f"{trunk.entry.name}: no donor was named, and the one that its metadata points to cannot be examined "
            f"({self.reason}); name one with --from."
        )


def _chosen(trunk: Model, found: Sequence[Nearby], more: str = "") -> FoundDonor:
    """The only donor on this machine that fits. Raises Doubt if there are several."""
    if len(found) > 1:
        some = "; ".join(each.what if str(each.path) in each.what else f"{each.what} ({each.path})" for each in found)
        raise Doubt(
            f"{trunk.entry.name}: {len(found)} donors on this machine hold a block that fits: {some}; name one with "
            "--from.",
            [(str(each.path), f"{each.what}; {each.agreed}") for each in found],
        )
    only = found[0]
    if only.is_named:
        why = f"the donor is {only.what}: it has the model's name; {only.agreed}"
    else:
        why = (
            f"the donor is a guess: {only.what}; {only.agreed}, but nothing says that it belongs to this model; if it "
            f"is not, name the right one with --from{more}"
        )
    return FoundDonor(str(only.path), f"{trunk.entry.name}: {why}.", is_guess=not only.is_named)


# -- beside the trunk -------------------------------------------------------------------------------------------------


def _beside(trunk: Model, layout: str, ask: Asking) -> FoundDonor | None:
    """The trunk's sidecar, or a file of the same name in its folder, whose block fits."""
    answer = find_sidecars(trunk, ask)
    if layout == "sidecar" and answer.candidates:
        several = f" (and {len(answer.equals) - 1} more that fit equally well)" if len(answer.equals) > 1 else ""
        raise BlockPresent(
            f"{trunk.entry}: {answer.candidates[0].place} already{several}; 'nextn serve' uses it, or name a donor "
            "with --from to make another one."
        )
    kinds = {each.path: "sidecar" for each in answer.equals}
    judged = {os.path.realpath(each.path) for each in answer.candidates}
    kinds |= {path: kind for path, kind in neighbours(trunk, ask) if os.path.realpath(path) not in judged}
    if len(kinds) > 1:
        some = "; ".join(f"{path.name} ({kind})" for path, kind in kinds.items())
        raise Doubt(
            f"{trunk.entry.name}: {len(kinds)} files beside it hold a block that fits: {some}; name one with --from.",
            [(str(path), f"the {kind} file beside the trunk") for path, kind in kinds.items()],
        )
    for path, kind in kinds.items():
        why = f"it is beside the trunk, is a {kind} file of the same name, and its header fits"
        if kind == "sidecar" and answer.candidates:
            why = f"{answer.candidates[0].place}, and its header fits"
        return FoundDonor(str(path), f"{trunk.entry.name}: the donor is {path.name}: {why}.")
    return None


def neighbours(trunk: Model, ask: Asking = each_time) -> Iterator[tuple[Path, str]]:
    """Files with the trunk's name and a block that fits, and their kind."""
    if is_named_by_hash(trunk.entry):
        return
    folder = trunk.entry.parent
    names = names_of(trunk)
    own = {file.path.name for file in trunk.files}
    try:
        sidecars = [path for path in ask(_mtp_files, folder) if path.name not in own]
        paths = sorted({*sidecars, *(path for path in ask(model_candidates, folder) if path.name not in own)})
    except (NextnError, OSError):
        return
    bearing = [path for path in paths if any(same_name(base_of(path.name), name) for name in names)]
    for path in bearing[:MOST_NEIGHBOURS]:
        try:
            block = block_from_model(ask(open_model, path))
            check_fit(block, trunk, family_of(trunk.architecture, trunk.entry))
        except NextnError:
            continue
        if not differences(block, trunk):  # one made for another trunk is for the user to name
            yield path, block.kind


def _mtp_files(folder: Path) -> list[Path]:
    return sorted(folder.glob("mtp-*.gguf"))


# -- on the Hub -------------------------------------------------------------------------------------------------------


class _Remote:
    """The headers of a remote checkpoint, each read on demand."""

    def __init__(self, remote: Remote, checkpoint: RemoteCheckpoint) -> None:
        self.remote, self.checkpoint = remote, checkpoint

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except NextnError as error:
            self.remote.rename(error)
            raise

    @property
    def config(self) -> Mapping[str, Any]:
        with self._explained():
            return self.checkpoint.config

    @property
    def tensor_names(self) -> Collection[str]:
        with self._explained():
            return self.checkpoint.weight_map.keys()

    @property
    def vocabulary(self) -> Mapping[int, str] | None:
        with self._explained():
            return self.checkpoint.vocabulary


def _on_the_hub(trunk: Model, options: Options | None) -> FoundDonor:
    """Where the metadata points; what the Hub's local cache has of it is not asked for again."""
    from ..remote.hub import Gated
    from ..remote.snapshot import open_remote
    from ..remote.target import NotThere

    sources: dict[str, str] = {}
    looked_at: list[Remote] = []
    unreachable: list[Unreachable] = []

    with ExitStack() as stack:

        def read(repo: str) -> Evidence | NextnError | None:
            snapshot = cached_snapshot(repo)
            if snapshot is not None and (known := evidence(trunk, snapshot)) is not None:
                sources[repo] = str(snapshot)
                return known
            if unreachable:
                return None
            try:
                remote = stack.enter_context(open_remote(HubSource(repo), options=options, checkpoint_only=True))
            except NotThere:
                return None
            except Gated as error:
                return error
            except RemoteError as error:
                unreachable.append(Unreachable(trunk, error))
                return None
            looked_at.append(remote)
            if remote.checkpoint is None:
                return None
            sources[repo] = f"hf:{repo}" + (f"@{remote.revision}" if remote.revision else "")
            return _Remote(remote, remote.checkpoint)

        try:
            made = find_donor(trunk, read)
        except (Doubt, NoBlock):
            if unreachable:
                raise unreachable[0] from None
            raise
    source, sentence = sources[made.guess.repo], made.sentence
    if not source.startswith("hf:"):
        sentence = f"{sentence.removesuffix('.')}; it comes from the Hub's local cache."
    n_bytes = sum(remote.traffic.bytes_received for remote in looked_at)
    return FoundDonor(source, sentence, n_bytes, made.guess.strength is Strength.NAME)
