"""What is in a model: shape, block, problems, and what would run it. Reads only headers, decodes no vocabulary."""

from __future__ import annotations

from array import array
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

from ..archs.others import ASSISTANTS
from ..block.anatomy import Anatomy
from ..block.draft import Draft
from ..compat import ENGINES
from ..diagnosis.blocks import FOR_IK
from ..diagnosis.examine import Diagnosis, diagnose
from ..diagnosis.experts import only_llama_cpp
from ..diagnosis.finding import Finding
from ..diagnosis.unpublished import NO_ENGINE
from ..discovery.once import Asking, each_time
from ..discovery.sidecars import find_sidecars, with_sidecars
from ..gguf.files import Model, open_model
from ..gguf.kv import KVType
from ..gguf.tensors import UNKNOWN, TensorInfo
from ..layouts.metadata import TRAINED
from ..schemas.base import Documented, filled
from ..schemas.inspect import DraftEntry, InspectDocument
from ..shell import shell
from . import engines


@dataclass(frozen=True)
class Inspection(Documented):
    """A model as it is on disk."""

    model: Model
    architecture: str
    n_layer_trunk: int
    n_layer_nextn: int
    shape: str  # "bundled", "trunk-only", "sidecar" or "donor"
    block_bytes: int
    problems: tuple[str, ...]
    hints: tuple[str, ...]
    types: dict[str, int]  # type name -> stored bytes
    findings: tuple[Finding, ...] = ()  # what doctor finds from headers only
    sidecars: tuple[Path, ...] = ()
    draft: DraftEntry | None = None  # for a draft that is a model of its own
    uses: dict[str, engines.EngineUse] = field(default_factory=dict)  # engine -> what it does with the file
    label: str | None = None  # the address of a remote model
    revision: str | None = None  # its commit
    bytes_downloaded: int = 0
    block_sha256: str | None = None  # if requested: what `nextn attach --expect` compares

    @property
    def runs_on(self) -> dict[str, str]:
        """Engine -> what it does with the file, in words."""
        return {engine: use.says for engine, use in self.uses.items()}

    @property
    def where(self) -> str:
        """The path to load, or the address."""
        return self.label or str(self.model.entry)

    @property
    def document(self) -> InspectDocument:
        """What --json prints."""
        header = self.model.header
        return filled(
            InspectDocument,
            self,
            path=self.where,
            name=header.get("general.name"),
            size_bytes=self.model.size_bytes,
            n_files=len(self.model.files),
            n_tensors=len(self.model.tensors),
            n_layer_trunk=self.n_layer_trunk or None,
            n_vocab=_n_tokens(self.model),
            gguf_version=header.version,
            alignment=header.alignment,
            provenance=provenance(self.model),
            findings=[finding.entry for finding in self.findings],
        )



def _n_tokens(model: Model) -> int | None:
    tokens = model.header.by_key.get("tokenizer.ggml.tokens")
    return tokens.n_items if tokens is not None and tokens.type is KVType.ARRAY else None


def provenance(model: Model) -> dict[str, str] | None:
    """Where the block came from, if nextn attached it."""
    own = ("nextn.donor", "nextn.donor_revision", "nextn.donor_sha256", "nextn.tool_version", *TRAINED)
    found = {key: model.header.get(key) for key in own if key in model.header.by_key}
    return {key.removeprefix("nextn."): _shown(value) for key, value in found.items()} or None


def _shown(value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(_shown, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def inspect(path: Path | str) -> Inspection:
    """Inspect a single GGUF, any shard of a set, or a folder with one set.

    Raises FormatError or a subclass for files that cannot be read at all, and IncompleteModel; everything else is a
    problem in the result.
    """
    return inspect_model(open_model(path))


def inspect_model(model: Model, *, neighbours: bool = True) -> Inspection:
    """Inspect an open model; with `neighbours`, also look for its sidecars."""
    return inspection_of(model, diagnose(model, beside=neighbours), neighbours=neighbours)


def inspection_of(
    model: Model, diagnosis: Diagnosis, *, neighbours: bool = True, ask: Asking = each_time
) -> Inspection:
    """The inspection of a model whose header was diagnosed."""
    seen = diagnosis.anatomy or Anatomy.of(model)
    block_bytes, types = _sizes(model, seen)
    sidecars: tuple[Path, ...] = ()
    found: list[str] = []
    if seen.shape == "trunk-only" and neighbours:
        answer = find_sidecars(model, ask)
        sidecars = tuple(each.path for each in answer.candidates)
        found = answer.hints()
        diagnosis = with_sidecars(diagnosis, answer)
    own_draft = Draft.of(model)
    hints = [*found, *hints_of(diagnosis)]
    if seen.is_draft:
        block_bytes = sum(types.values())
    if own_draft is not None:
        uses = engines.uses_of_draft(own_draft)
    elif seen.arch in ASSISTANTS:
        words = f"drafts with it beside a '{ASSISTANTS[seen.arch]}' model (-m MODEL -md this file; "
        use = engines.EngineUse(engines.DRAFTS, f"{words}read in its source, not run)")
        uses = dict.fromkeys(("llama.cpp", "ik_llama.cpp"), use)
        hints.append(f"place it beside its model with 'nextn attach MODEL --from {shell(model.entry)}'")
    else:
        useless = NO_ENGINE if seen.family is not None else ""  # for other architectures there is nothing more to say
        stops: dict[str, str] = {}
        for each in diagnosis.findings:
            if each.severity == "error" or each.id in (useless, FOR_IK):
                for engine in ("llama.cpp",) if each.id == FOR_IK or only_llama_cpp(seen, each.id) else ENGINES:
                    stops.setdefault(engine, each.entry.what)
        for engine, words in engines.unread(model).items():
            stops.setdefault(engine, words)
        beside = answer.candidates[0].model if sidecars else None
        drafting = None if beside is None else Draft.of(beside)
        path = sidecars[0] if sidecars and drafting is None else None
        uses = engines.uses(seen.arch, engines.layout_of(seen.shape, model), path, stops)
        if drafting is not None:
            uses["llama.cpp"] = engines.beside(drafting)
    return Inspection(
        model=model,
        architecture=model.architecture,
        n_layer_trunk=seen.n_layer_trunk,
        n_layer_nextn=seen.n_nextn,
        shape=seen.shape,
        block_bytes=block_bytes,
        problems=problems_of(diagnosis),
        hints=tuple(hints),
        types=types,
        findings=diagnosis.findings,
        sidecars=sidecars,
        draft=draft_entry(model),
        uses=uses,
    )


def draft_entry(model: Model) -> DraftEntry | None:
    """What a draft that is a model of its own is; None for any other file."""
    draft = Draft.of(model)
    if draft is None:
        return _assistant(model) if Anatomy.of(model).is_draft else None
    return filled(DraftEntry, draft, title=draft.kind.title, spec_type=draft.kind.spec_type)


def _assistant(model: Model) -> DraftEntry:
    """An assistant of Gemma 4: it reads the target's last state and its cache, and has all tokens."""
    return DraftEntry(
        title="Gemma 4 assistant", spec_type="draft-mtp", target_width=model.arch_int("embedding_length_out"),
        target_layers=None, n_draft_vocab=None, own_embeddings="token_embd.weight" in model.tensors,
        own_head="output.weight" in model.tensors, most_tokens=None,
    )  # fmt: skip


def problems_of(diagnosis: Diagnosis) -> tuple[str, ...]:
    """The sentences of errors and warnings, as doctor shows them."""
    return tuple(finding.entry.what for finding in diagnosis.problems)


def hints_of(diagnosis: Diagnosis) -> tuple[str, ...]:
    """Notes: what is worth knowing about a model without a block, and what to do."""
    notes = (finding.entry for finding in diagnosis.findings if not finding.is_problem)
    return tuple(
        note.what if note.mend.startswith("nothing to do") else f"{note.what.rstrip('.')}: {note.mend}"
        for note in notes
    )


def _sizes(model: Model, seen: Anatomy) -> tuple[int, dict[str, int]]:
    """Stored bytes of the block, and of all tensors by type name, largest first; without what a file does not hold."""
    of_block = 0
    types: Counter[int] = Counter()
    belong = array("b", seen.rows_of_block)
    n_before = 0
    for file in model.files:
        tensors, room = file.header.tensors, file.size_bytes - file.header.data_offset
        of_file = belong[n_before : n_before + len(tensors)]
        n_before += len(tensors)
        quick = tensors.bytes_by_type(room)
        if quick is not None:
            types.update(quick)
            of_block += tensors.bytes_of(of_file) if seen.blocks else 0
            continue
        columns = zip(tensors.offsets, tensors.sizes, tensors.type_ids, of_file, strict=True)
        for row, (offset, size, type_id, is_of_block) in enumerate(columns):
            if size == UNKNOWN:
                after = file.header.stored_size(tensors[row])
                size = max(0, room - offset) if after is None else after
            size = size if offset + size <= room else 0
            types[type_id] += size
            if is_of_block and seen.blocks:
                of_block += size
    named: Counter[str] = Counter()
    for type_id, size in types.items():
        named[TensorInfo("", (), type_id, 0).type_name] += size
    return of_block, dict(named.most_common())
