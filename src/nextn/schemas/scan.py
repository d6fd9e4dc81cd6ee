"""`nextn scan --json`."""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from msgspec import Meta

from .base import Bytes, Count, Document, DocumentPart, doc

Place: TypeAlias = Literal["hub", "lmstudio", "ollama", "llama.cpp", "folder"]


class ScannedPlace(DocumentPart):
    """A folder that was looked through."""

    place: Annotated[Place, doc("whose folder it is; folder: the user named it")]
    path: str


class ProgramUse(DocumentPart):
    """What a program does with a model as it is, with its sidecar beside it."""

    word: Annotated[
        Literal["drafts", "runs", "refuses", "fails", "unknown"],
        doc("runs: without MTP; fails: loads and then dies; unknown: not measured"),
    ]
    says: Annotated[str, doc("what follows the program's name in a sentence, with the builds that were measured")]


class DonorOffer(DocumentPart):
    """Where a model could get a block from, and what that takes."""

    state: Annotated[
        Literal["found", "guess", "doubt", "none", "not_asked"],
        doc(
            "guess: only names or sizes speak for it; doubt: several fit equally well; not_asked: this machine has "
            "none, and the Hub was not asked or did not answer in time"
        ),
    ]
    why: str
    source: Annotated[str | None, doc("a value for attach --from; null: no donor, or several")]
    candidates: Annotated[list[str], doc("in doubt: values for attach --from")]
    fetch_bytes: Annotated[Bytes | None, doc("to download; 0: the donor is on this machine; null: not known")]
    block_bytes: Annotated[Bytes | None, doc("of the block in the donor")]
    memory_bytes: Annotated[
        int | None, doc("what drafting adds at 8,192 tokens of context, from headers: see plan --header-only")
    ]


class Outlook(DocumentPart):
    """Whether drafting is likely to be faster."""

    word: Annotated[
        Literal["can_pay", "cannot_pay", "unlikely", "not_measured"],
        doc("can_pay, cannot_pay: 'nextn worth' measured it on this machine; unlikely: by the model's class"),
    ]
    why: str


class SameModel(DocumentPart):
    """Another name of a model, or a copy of it."""

    path: str
    place: Place
    name: str
    how: Annotated[
        Literal["symlink", "hard link", "same blob", "copy"],
        doc("copy: another file with the same header and the same size; its data were not compared"),
    ]


class ScannedModel(DocumentPart, kw_only=True):
    """A language model."""

    path: Annotated[str, doc("path to load")]
    place: Place
    name: Annotated[str, doc("what the program or the Hub calls it; its path in a plain folder")]
    title: Annotated[str | None, doc("general.name")]
    architecture: str
    size_bytes: Bytes
    n_files: Annotated[int, Meta(ge=1)]
    n_parameters: Annotated[Count, doc("of the trunk")]
    block: Annotated[Literal["in the model", "sidecar", "none"], doc("where it has something to draft with")]
    sidecars: Annotated[list[str], doc("the one that is used first")]
    projectors: list[str]
    same: list[SameModel]
    programs: Annotated[dict[str, ProgramUse], doc("llama.cpp, ik_llama.cpp, LM Studio, ollama; empty: not known")]
    problems: Annotated[list[str], doc("what 'nextn doctor' finds from headers alone: errors and warnings")]
    offer: Annotated[DonorOffer | None, doc("null: it has a block, or a problem comes first")]
    faster: Annotated[Outlook | None, doc("null: there is nothing to draft with, now or by an offer")]
    command: Annotated[str | None, doc("what to run next, for a POSIX shell; null: nothing")]


class ScannedOther(DocumentPart):
    """A sound GGUF that is not a model by itself."""

    path: str
    place: Place
    size_bytes: Bytes
    what: str
    models: Annotated[list[str], doc("paths of the models that it belongs to; empty: none was found")]


class SpoiltFile(DocumentPart):
    """A file that is damaged, incomplete or unfinished."""

    path: str
    size_bytes: Bytes
    what: Annotated[str, doc("what is wrong, and what to do")]
    unfinished: Annotated[bool, doc("whether its download is not finished")]


class ScanDocument(Document, tag="scan", kw_only=True):
    """The models on this machine, and what could be done for each."""

    places: list[ScannedPlace]
    offline: Annotated[bool, doc("whether the Hub was not to be asked")]
    models: list[ScannedModel]
    others: list[ScannedOther]
    spoilt: list[SpoiltFile]
    wasted_bytes: Annotated[Bytes, doc("of copies")]
    notes: list[str]
