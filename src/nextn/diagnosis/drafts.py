"""EAGLE-3, DFlash and DSpark drafts: what llama.cpp refuses or aborts at, by itself and beside a given target.

Sources: llama.cpp b11549, src/models/eagle3.cpp, src/models/dflash.cpp, common/speculative.cpp.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..archs.drafts import BLOCK_SIZE, D2T, DSPARK, EAGLE3, MASK, N_EAGLE_LAYERS, TARGET_LAYERS
from ..block.anatomy import Anatomy
from ..block.draft import TOKENS, Draft
from ..compat.graphs import graphs
from ..errors import DonorMismatch
from ..gguf.files import Model
from ..layouts.draft_fit import check_tokens_beside, misfits
from ..shell import Command
from ..sources.ranges import FileRange, Reader
from .advice import Advice, Help
from .finding import Finding

TABLE = "d2t"  # the check that reads the table of tokens
_REFUSES = "llama.cpp loads the target and refuses to draft: "
_TOKENIZER = "tokenizer.ggml.model"


# What llama.cpp says of a DFlash or DSpark, and of an EAGLE-3 draft.
_NO_LAYERS = (
    "'DFlash model requires 'target_layers' in GGUF metadata'",
    "'EAGLE3 requires exactly 3 entries in 'extract_layers''",
)


def check_draft(seen: Anatomy, trunk: Model | None, reader: Reader | None) -> Iterator[Finding]:
    """Findings about a draft; `trunk`: its target. Without `reader` its table of tokens is not read."""
    draft = Draft.of(seen.model)
    if draft is None:
        return
    again = Advice.of(
        "convert it again from its checkpoint with 'nextn extract CHECKPOINT --for-trunk MODEL', or get another copy"
    )
    yield from _header(draft, seen, again)
    yield from _vocabulary(draft, again)
    if reader is not None and draft.table_type == "i64":
        yield from _table(draft, seen.model, trunk, reader, again)
    if trunk is None:
        return
    for each in misfits(draft, trunk):
        advice: Help = "use a draft that was made for this model"
        if each.id == "target-without-taps":
            advice = "run the model without this draft; a native MTP block, where its family has one, needs no taps"
        yield Finding(each.id, "error", f"{_first_upper(each.what)}.", each.where, each.engine, advice)
    try:
        check_tokens_beside(seen.model, trunk, str(draft.path))
    except DonorMismatch as error:
        if draft.n_vocab == _n_tokens(trunk):
            yield Finding(
                "draft-wrong-tokenizer", "error", str(error).removeprefix(f"{draft.path}: "), TOKENS,
                "drafted tokens mean something else to the target, so hardly any is accepted",
                "use a draft that was made for this model",
            )  # fmt: skip
    if graphs().has_taps(trunk.architecture) is None:
        yield Finding(
            "taps-not-measured", "note",
            f"whether llama.cpp {graphs().build} accepts such a draft beside '{trunk.architecture}' was not measured.",
            "general.architecture", "", "nothing to do",
        )  # fmt: skip


def does_not_fit(path: Path, why: str, model: Model) -> Finding:
    """The finding about a model that has a draft of its own beside it which it cannot be used with."""
    return Finding(
        "draft-beside-does-not-fit", "warning", f"the draft {path.name} beside it cannot be used with it: {why}.",
        path.name, "llama.cpp's -hf takes it for this model's, and then refuses to draft or aborts",
        Advice.of(Command.of("nextn", "doctor", path, "--trunk", model.entry), " says more"),
    )  # fmt: skip


def _first_upper(text: str) -> str:
    return text[0].upper() + text[1:]


def _n_tokens(model: Model) -> int:
    kv = model.header.by_key.get(TOKENS)
    return 0 if kv is None else kv.n_items or 0


def _header(draft: Draft, seen: Anatomy, again: Help) -> Iterator[Finding]:
    kind, key = draft.kind, f"{draft.kind.arch}.{TARGET_LAYERS}"
    layers = draft.target_layers
    if layers is None or (kind is EAGLE3 and len(layers) != N_EAGLE_LAYERS) or not layers:
        n = len(layers or ())
        wanted = f"exactly {N_EAGLE_LAYERS}" if kind is EAGLE3 else "at least 1"
        said = "no list of target layers" if layers is None else f"{n} target layers"
        yield Finding(
            "draft-target-layers", "error",
            f"the {kind.title} draft has {said}, but engines demand {wanted}.", key,
            _REFUSES + _NO_LAYERS[kind is EAGLE3], again,
        )  # fmt: skip
    if _TOKENIZER not in seen.model.header.by_key:
        yield Finding(
            "draft-without-tokenizer", "error", "the draft has no tokenizer, and engines do not use the target's.",
            _TOKENIZER, f"{_REFUSES}'key not found in model: {_TOKENIZER}'", again,
        )  # fmt: skip
    if kind is EAGLE3:
        return
    if draft.mask is None:
        yield Finding(
            "draft-without-mask", "error",
            f"the {kind.title} draft does not say which token stands for one that is to be drafted.", MASK,
            "llama.cpp aborts when it drafts: 'failed to add embedding at index 1'", again,
        )  # fmt: skip
    if kind is DSPARK and draft.block_size is None:
        yield Finding(
            "draft-without-block-size", "error", "the DSpark draft does not say how many tokens it drafts at once.",
            f"{kind.arch}.{BLOCK_SIZE}", f"llama.cpp aborts: 'DSpark draft requires '{kind.arch}.{BLOCK_SIZE}''", again,
        )  # fmt: skip


def _vocabulary(draft: Draft, again: Help) -> Iterator[Finding]:
    """Head, table and tokenizer have to agree on the number of tokens."""
    head, table, n_vocab = draft.n_head, draft.n_draft_vocab, draft.n_vocab
    if table is None and head is not None and n_vocab and head != n_vocab:
        yield Finding(
            "draft-without-d2t", "error",
            f"the draft's head covers {head:,} of {n_vocab:,} tokens, and the table that maps them to the target's "
            "('d2t') is missing.",
            D2T, f"{_REFUSES}'tensor 'output.weight' has wrong shape'", again,
        )  # fmt: skip
    elif table is not None and head is not None and table != head:
        yield Finding(
            "draft-without-d2t", "error",
            f"the table 'd2t' maps {table:,} tokens to the target's, but the draft's head covers {head:,}.",
            D2T, f"{_REFUSES}'tensor 'output.weight' has wrong shape'", again,
        )  # fmt: skip
    elif table is not None and head is None:
        yield Finding(
            "draft-without-d2t", "error",
            "the draft has a table for a vocabulary of its own ('d2t') but no head ('output.weight').",
            "output.weight", "llama.cpp aborts: 'GGML_ASSERT(model.d2t->ne[0] == n_draft_vocab) failed'", again,
        )  # fmt: skip
    if table is not None and draft.table_type != "i64":
        yield Finding(
            "draft-table-type", "error", f"the table 'd2t' is stored as {draft.table_type}, not as i64.", D2T,
            "llama.cpp aborts: 'GGML_ASSERT(model.d2t->type == GGML_TYPE_I64)'", again,
        )  # fmt: skip


def _table(draft: Draft, model: Model, trunk: Model | None, reader: Reader, again: Help) -> Iterator[Finding]:
    import numpy as np

    file, info = model.tensors[D2T]
    start, end = file.tensor_range(info)
    tokens = np.frombuffer(reader.read(FileRange.of(file, start, end)), "<i8")
    n_vocab = (_n_tokens(trunk) if trunk is not None else 0) or draft.n_vocab
    outside = int(((tokens < 0) | (tokens >= n_vocab)).sum()) if n_vocab else 0
    n_same = len(tokens) - len(np.unique(tokens))
    if not outside and not n_same:
        return
    what = f"{outside:,} of its {len(tokens):,} tokens to none of the target's {n_vocab:,}" if outside else (
        f"{n_same:,} of its {len(tokens):,} tokens to one that another is mapped to"
    )
    why = " (it holds distances, as checkpoints do, not tokens)" if n_same > len(tokens) // 10 else ""
    yield Finding(
        "draft-table-damaged", "error", f"the table 'd2t' maps {what}{why}.", D2T,
        "llama.cpp aborts when it drafts: 'GGML_ASSERT(i1 >= 0 && i1 < ne1) failed'" if outside else
        "llama.cpp drafts the wrong tokens, so hardly any is accepted",
        again,
    )  # fmt: skip
