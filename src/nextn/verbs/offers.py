"""The donor of each model that has no block: on this machine, else on the Hub, within a time limit for all of them.

The same donors that `attach` without --from would find (`discovery.donors.find`). Quants of one model ask the Hub once,
and what the Hub answered is kept for a week in nextn's cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from ..discovery.donors import NotAsked, Unreachable, find
from ..discovery.once import Asking
from ..donors.infer import Doubt, infer_donors, names_of
from ..donors.open_donor import open_block
from ..errors import NextnError, RemoteError
from ..gguf.files import Model, open_model
from ..gguf.sets import SPLIT_KEYS
from ..layouts.attach import default_layout
from ..layouts.places import real_place
from ..memory.drafting import drafting_bytes
from ..remote.cache import cache_root
from ..remote.cache_entries import DONORS
from ..workfile import Folder, private_folder

FOUND, GUESS, DOUBT, NONE, NOT_ASKED = "found", "guess", "doubt", "none", "not_asked"
KEPT_S = 7 * 24 * 3600.0  # seconds that an answer of the Hub is believed
_STREAMS = 4
_MOST_KEPT_BYTES = 1 << 16
_OF_A_QUANT = ("general.file_type", "general.quantization_version", "quantize.", *SPLIT_KEYS)


@dataclass(frozen=True)
class Offer:
    """Where a model could get a block from, and what that takes."""

    state: str  # FOUND, GUESS (by names or sizes only), DOUBT (several fit), NONE, or NOT_ASKED: the Hub may have one
    why: str  # a clause
    source: str | None = None  # a value for --from
    candidates: tuple[str, ...] = field(default=())  # in doubt
    fetch_bytes: int | None = None  # to download; 0: the donor is on this machine
    block_bytes: int | None = None  # read from the donor
    memory_bytes: int | None = None  # that drafting adds

    @property
    def is_there(self) -> bool:
        """Whether `nextn up` has something to attach, perhaps after a question."""
        return self.state in (FOUND, GUESS, DOUBT)


def kind_of_model(model: Model) -> str:
    """A digest that quants of one model share: all key-value pairs that do not describe the quant, and the guesses."""
    digest = hashlib.sha256()
    for piece in model.kvs.edited(drop_prefixes=_OF_A_QUANT).pieces():
        digest.update(piece)
    for guess in infer_donors(model):
        digest.update(f"{guess.repo} {guess.strength}".encode("utf-8", "surrogateescape"))
    return digest.hexdigest()[:32]


class LocalOffers:
    """What this machine has for many models: quants of one model in one folder share an answer."""

    def __init__(self, scratch: Path, ask: Asking) -> None:
        self.scratch, self.ask = scratch, ask
        self._known: dict[tuple[object, ...], Offer] = {}

    def of(self, model: Model, kind: str) -> Offer:
        """The offer for a model of that kind. For what the Hub may have, the state is NOT_ASKED, or GUESS."""
        folder = real_place(model.entry).parent
        key = (kind, folder, frozenset(names_of(model)), default_layout(model))
        if (known := self._known.get(key)) is None:
            known = self._known[key] = _offer(model, self.scratch, self.ask, ask_hub=False)
        return known


def _offer(model: Model, scratch: Path, ask: Asking, *, ask_hub: bool) -> Offer:
    from ..remote.http import Options

    options = Options(n_retries=1, timeout_s=10.0, head_s=10.0) if ask_hub else None
    layout = default_layout(model)
    name = model.entry.name
    try:
        found = find(model, layout=layout, options=options, ask_hub=ask_hub, ask=ask)
    except Doubt as doubt:
        sources = tuple(source for source, _ in doubt.candidates)
        return Offer(DOUBT, f"{len(sources)} donors fit equally well", candidates=sources)
    except NotAsked as error:
        return Offer(NOT_ASKED, _clause(error, name))
    except Unreachable:
        raise
    except RemoteError as error:  # such as a repository that this user may not read yet
        return Offer(NOT_ASKED, _clause(error, name))
    except NextnError as error:
        return Offer(NONE, _clause(error, name))
    made = Offer(GUESS if found.is_guess else FOUND, _clause(found.why, name), found.source)
    try:
        with open_block(found.source, trunk=model) as donor:
            block, remote = donor.block, donor.remote
            fetch = 0 if remote is None else remote.missing_bytes(list(block.ranges))
            more = drafting_bytes(model, block, layout, scratch)
            return replace(made, fetch_bytes=fetch, block_bytes=block.read_bytes, memory_bytes=more)
    except RemoteError as error:
        return replace(made, why=f"{made.why}; its size is not known ({_clause(error, name)})")
    except NextnError as error:
        return Offer(NONE, _clause(error, name))


def _clause(error: NextnError | str, name: str) -> str:
    """A sentence without the name of the model in front and the full stop."""
    text = str(error).rstrip(".")
    head, mark, rest = text.partition(": ")
    return rest if mark and Path(head).name == name else text


# -- on the Hub -------------------------------------------------------------------------------------------------------


class HubQuestions:
    """Asks the Hub for the donors of many models, each kind of model once, for at most `seconds` in all."""

    def __init__(self, scratch: Path, ask: Asking, seconds: float) -> None:
        self.scratch, self.ask = scratch, ask
        self.deadline = time.monotonic() + seconds
        self.seconds = seconds
        self.unreachable: str | None = None  # why the Hub cannot be reached: then nobody asks again
        self._lock = threading.Lock()

    def answers(self, questions: Sequence[tuple[str, Path, Offer]]) -> dict[str, Offer]:
        """Kind -> its offer; a question is a kind, a model of that kind, and what this machine offers."""
        with ThreadPoolExecutor(_STREAMS) as pool:
            found = pool.map(lambda one: self._answer(*one), questions)
            return {kind: offer for (kind, _, _), offer in zip(questions, found, strict=True)}

    def _answer(self, kind: str, path: Path, here: Offer) -> Offer:
        from ..remote.within import TooSlow, within

        if (kept := _read(kind)) is not None and not (kept.state == NONE and here.is_there):
            return kept
        left = self.deadline - time.monotonic()
        if self.unreachable is not None or left <= 0:
            return self._unasked(here)
        try:
            offer = within(left, lambda: _offer(open_model(path), self.scratch, self.ask, ask_hub=True), lambda _: None)
        except TooSlow:
            return self._unasked(here)
        except NextnError as error:
            with self._lock:
                self.unreachable = self.unreachable or (
                    error.reason if isinstance(error, Unreachable) else _clause(error, path.name)
                )
            return self._unasked(here)
        if offer.state != NOT_ASKED and (offer.source is None or offer.source.startswith("hf:")):
            _keep(kind, offer)
        return offer

    def _unasked(self, here: Offer) -> Offer:
        if here.is_there:
            return here
        asked = "cannot be asked" if self.unreachable is not None else f"did not answer within {self.seconds:g} s"
        return Offer(NOT_ASKED, f"no donor is on this machine, and the Hub {asked}")


def _read(kind: str) -> Offer | None:
    """An answer that is not older than KEPT_S."""
    try:
        with private_folder(cache_root(), (DONORS,)) as folder:
            data = None if folder is None else folder.read(f"{kind}.json", _MOST_KEPT_BYTES)
        found = json.loads(data or b"null")
        if found["version"] != 1 or not 0 <= time.time() - found["asked"] <= KEPT_S:
            return None
        offer = Offer(**{**found["offer"], "candidates": tuple(found["offer"]["candidates"])})
        return offer if offer.state in (FOUND, GUESS, DOUBT, NONE) and isinstance(offer.why, str) else None
    except (OSError, NextnError, ValueError, KeyError, TypeError, RecursionError):
        return None


def _keep(kind: str, offer: Offer) -> None:
    data = json.dumps({"version": 1, "asked": time.time(), "offer": asdict(offer)}).encode()
    with contextlib.suppress(OSError, NextnError), Folder.private(cache_root(), (DONORS,), make=True) as folder:
        folder.write(f"{kind}.json", data)
