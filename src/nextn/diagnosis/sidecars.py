"""Sidecars: what an engine wants beside the block, and forks' marks."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

from ..block.anatomy import Anatomy
from ..block.model import DRAFT_HEAD, SHARED_MARKS
from ..gguf.files import Model
from ..printable import quoted
from .commands import doctor_command
from .finding import Change, Finding
from .patient import Patient

_ROOTS = ("token_embd.weight", "output_norm.weight", "output.weight")  # of most families
_TOKENIZER = "tokenizer.ggml.model"


def check_sidecar(seen: Anatomy, trunk: Model | None = None) -> Iterator[Finding]:
    """Findings about a sidecar; `trunk` is the model that it belongs to."""
    if seen.shape != "sidecar" or not seen.is_language_model:
        return
    model = seen.model
    marks = [kv.key for kv in model.kvs if any(mark in kv.key for mark in SHARED_MARKS)]
    family = seen.family
    roots = _ROOTS if family is None else family.root
    lost = [name for name in roots if name != "output.weight" and name not in model.tensors]
    no_tokenizer = _TOKENIZER not in model.header.by_key
    has_head = "output.weight" in model.tensors
    own_head = any(f"blk.{layer}.{DRAFT_HEAD}" in model.tensors for layer in seen.blocks)
    change: Change | None = None if trunk is None else lambda patient: patient
    mend = (
        f"nextn attach TRUNK --from {quoted(model.entry)} --layout sidecar makes a full one, and so does "
        + doctor_command(seen, "--trunk TRUNK")
        if trunk is None
        else doctor_command(seen, f"--trunk {quoted(trunk.entry)}")
    )
    if marks:
        yield Finding(
            "sidecar-shares-target",
            "error" if lost else "warning",
            f"the sidecar is marked '{marks[0]}': it is meant to share the target's embeddings and head, which only "
            "forks of llama.cpp do.",
            marks[0],
            f"llama.cpp refuses to draft with it: 'tensor '{lost[0]}' not found'"
            if lost
            else "llama.cpp ignores the mark; a fork leaves the sidecar's own embeddings aside",
            mend if lost else doctor_command(seen),
            change if lost else partial(_unmarked, marks=tuple(marks)),
            attaches=bool(lost),
        )
        lost = []
    if lost or no_tokenizer:
        what = [f"tensor '{name}'" for name in lost] + (["tokenizer"] if no_tokenizer else [])
        words = f"tensor '{lost[0]}' not found" if lost else f"key not found in model: {_TOKENIZER}"
        yield Finding(
            "sidecar-without-roots",
            "error",
            f"the sidecar has no {' and no '.join(what)}, and an engine takes none of the target's.",
            lost[0] if lost else _TOKENIZER,
            f"llama.cpp loads the target and refuses to draft: '{words}'",
            mend,
            change,
            attaches=True,
        )
    elif not marks and not has_head and _head_is_missing(seen, trunk, own_head):
        needed = family is not None and family.head_needed
        yield Finding(
            "sidecar-without-head",
            "error",
            "the sidecar has no 'output.weight', and its target's head is not its embeddings.",
            "output.weight",
            "llama.cpp refuses to draft: 'tensor 'output.weight' not found'"
            if needed
            else "llama.cpp takes the embeddings for the head without a word, and hardly a draft is accepted",
            mend,
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
