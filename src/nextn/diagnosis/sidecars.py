"""Sidecars: what an engine needs besides the block, and marks left by forks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from ..block.anatomy import Anatomy
from ..block.from_gguf import block_from_model
from ..block.model import DRAFT_HEAD, SHARED_MARKS
from ..errors import FormatError, NoBlock
from ..gguf.files import Model
from ..layouts.donor_check import differences
from ..shell import Command
from .advice import Advice, Help
from .commands import attach_command, doctor_command
from .finding import Change, Finding
from .patient import Patient

_ROOTS = ("token_embd.weight", "output_norm.weight", "output.weight")  # of most families
_TOKEN_TABLES = ("d2t", "t2d")  # token of the draft -> token of the target, and back
_TOKENIZER = "tokenizer.ggml.model"


def check_sidecar(seen: Anatomy, trunk: Model | None = None) -> Iterator[Finding]:
    """Findings about a sidecar; `trunk` is the model that it belongs to."""
    if seen.shape != "sidecar" or not seen.is_language_model:
        return
    model = seen.model
    marked = [kv for kv in model.kvs if any(mark in kv.key for mark in SHARED_MARKS)]
    marks = [kv.key for kv in marked if kv.value]
    family = seen.family
    roots = _ROOTS if family is None else family.root
    lost = [name for name in roots if name != "output.weight" and name not in model.tensors]
    no_tokenizer = _TOKENIZER not in model.header.by_key
    has_head = "output.weight" in model.tensors
    most = family.max_blocks if family else 1  # more blocks are a finding of their own
    own_head = any(f"blk.{layer}.{DRAFT_HEAD}" in model.tensors for layer in seen.blocks[:most])
    change: Change | None = None if trunk is None else lambda patient: patient
    advice: Help = (
        Advice.of(
            attach_command("TRUNK", "--from", model.entry, "--layout", "sidecar"), " makes a full one, and so does ",
            doctor_command(seen, "--trunk", "TRUNK"),
        )
        if trunk is None
        else doctor_command(seen, "--trunk", trunk.entry)
    )
    if marks:
        yield Finding(
            "sidecar-shares-target",
            "error" if lost else "warning",
            f"the sidecar is marked '{marks[0]}'{_of_another(seen.arch, marks[0])}: it is meant to share the target's "
            "embeddings and head, which only forks of llama.cpp do.",
            marks[0],
            f"llama.cpp refuses to draft with it: 'tensor '{lost[0]}' not found'"
            if lost
            else "llama.cpp ignores the mark; a fork does not use the sidecar's own embeddings",
            advice if lost else doctor_command(seen),
            change if lost else partial(_unmarked, marks=tuple(marks)),
            attaches=bool(lost),
        )
        lost = []
    yield from _compact_head(seen, advice, change)
    yield from _of_another_trunk(model, trunk)
    if lost or no_tokenizer:
        what = [f"tensor '{name}'" for name in lost] + (["tokenizer"] if no_tokenizer else [])
        words = f"tensor '{lost[0]}' not found" if lost else f"key not found in model: {_TOKENIZER}"
        yield Finding(
            "sidecar-without-roots",
            "error",
            f"the sidecar has no {' and no '.join(what)}, and engines do not use the target's"
            + (f" ('{marked[0].key}' also says that it shares nothing)." if lost and marked and not marks else "."),
            lost[0] if lost else _TOKENIZER,
            f"llama.cpp loads the target and refuses to draft: '{words}'",
            advice,
            change,
            attaches=True,
        )
    elif not marks and not has_head and _head_is_missing(seen, trunk, own_head):
        needed = family is not None and family.head_needed
        yield Finding(
            "sidecar-without-head",
            "error",
            "the sidecar has no 'output.weight', and its target's head is not tied to the embeddings.",
            "output.weight",
            "llama.cpp refuses to draft: 'tensor 'output.weight' not found'"
            if needed
            else "llama.cpp silently uses the embeddings as the head, and hardly any draft is accepted",
            advice,
            change,
            attaches=True,
        )


def _of_another_trunk(sidecar: Model, trunk: Model | None) -> Iterator[Finding]:
    """A note on a sidecar that was made for a trunk of another depth or another number of experts."""
    if trunk is None or trunk.architecture != sidecar.architecture:
        return
    try:
        unlike = differences(block_from_model(sidecar), trunk)
    except (FormatError, NoBlock):  # other findings say so
        return
    if unlike:
        yield Finding(
            "sidecar-of-another-trunk",
            "note",
            f"the sidecar was not made for {trunk.entry.name}: {'; '.join(unlike)}.",
            sidecar.entry.name,
            "llama.cpp drafts with it, perhaps less well",
            Advice.of(Command.of("nextn", "verify", trunk.entry, "--sidecar", sidecar.entry), " measures how well"),
        )


def _of_another(arch: str, mark: str) -> str:
    """The finding that a mark has another architecture's prefix, or none."""
    prefix = mark.rpartition(".")[0]
    return "" if prefix == arch else f" (a key of '{prefix}')" if prefix else " (without an architecture's name)"


def _compact_head(seen: Anatomy, advice: Help, change: Change | None) -> Iterator[Finding]:
    """A head for part of the vocabulary, with or without the table that maps its tokens."""
    tensors = seen.model.tensors
    table = next((name for name in _TOKEN_TABLES if name in tensors), None)
    head = tensors.get("output.weight")
    tokens = seen.model.header.by_key.get("tokenizer.ggml.tokens")
    n_vocab = tokens.n_items if tokens is not None and tokens.n_items else None
    n_rows = head[1].ne[1] if head is not None and len(head[1].ne) > 1 else None
    short = n_rows is not None and n_vocab is not None and n_rows < n_vocab
    if table is None and not short:
        return
    covers = f"its head covers {n_rows:,} of {n_vocab:,} tokens" if short else "its head covers only part of the tokens"
    by_table = f", mapped by '{table}'" if table else ""
    yield Finding(
        "sidecar-compact-head",
        "error",
        f"the sidecar drafts with a compact vocabulary: {covers}{by_table}, which llama.cpp does not read.",
        "output.weight" if short else str(table),
        "llama.cpp loads the target and refuses to draft: "
        + ("'tensor 'output.weight' has wrong shape'" if short else "'wrong number of tensors'"),
        advice,
        change,
        attaches=True,
    )


def _head_is_missing(seen: Anatomy, trunk: Model | None, own_head: bool) -> bool:
    family = seen.family
    if family is not None and family.head_needed:
        return True
    return not own_head and trunk is not None and "output.weight" in trunk.tensors


def _unmarked(patient: Patient, marks: tuple[str, ...]) -> Patient:
    return patient.with_kvs(drop=marks)
