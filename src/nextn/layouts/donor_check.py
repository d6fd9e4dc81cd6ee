"""Does this block fit this trunk? Checks for everything an engine would reject, before a byte is written."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from ..archs.base import Family, dimensions, missing, resolve_shape, same_shape, stops, surplus
from ..archs.drafts import ARCHS as DRAFT_ARCHS
from ..archs.others import words_of
from ..block.anatomy import Anatomy
from ..block.model import Block
from ..errors import BlockPresent, DonorMismatch, UnsupportedModel, UsageError
from ..gguf.files import Model
from ..shell import shell
from ..sources.tokenizer import ordinary_hash
from .factors import is_factor, matrix_of

TOKENS = "tokenizer.ggml.tokens"
TOKEN_TYPES = "tokenizer.ggml.token_type"
ROUTER = "ffn_gate_inp.weight"
TOKENIZER_HASH = "nextn.tokenizer_sha256"
NORMAL_TOKEN = 1  # LLAMA_TOKEN_TYPE_NORMAL; others are control, unused, user defined


def n_layer_trunk(model: Model) -> int:
    """Layers of the trunk that are actually present."""
    return Anatomy.of(model).n_layer_trunk


def n_vocab(model: Model) -> int | None:
    """Rows of the embedding matrix."""
    found = model.tensors.get("token_embd.weight")
    return found[1].ne[1] if found and len(found[1].ne) > 1 else None


def tokens_hash(model: Model) -> str | None:
    """sha256 over a model's ordinary tokens, or None when it has no token list."""
    tokens = model.header.get(TOKENS)
    return None if tokens is None else ordinary_hash(tokens, token_types(model, len(tokens)))


def token_types(model: Model, n_tokens: int) -> list[int] | None:
    """The type of each token, or None when there is no list or it has another length."""
    types = model.header.get(TOKEN_TYPES)
    return types if types is not None and len(types) == n_tokens else None


def check_trunk(trunk: Model) -> None:
    """Raise when a block cannot be put onto `trunk`: it has one, it is a sidecar, or it is incomplete."""
    seen = Anatomy.of(trunk)
    if seen.arch in DRAFT_ARCHS:
        raise UnsupportedModel(f"{trunk.entry}: {words_of(seen.arch)}.")
    if seen.is_block_only:
        raise UsageError(
            f"{trunk.entry}: this is a sidecar or donor file, not a trunk; name the model that it belongs to."
        )
    if seen.has_block:
        raise BlockPresent(
            f"{trunk.entry}: this model already has an MTP block (layer {seen.blocks[0]}); "
            "detach it first with 'nextn detach', or use the model as it is."
        )
    if not seen.layers:
        raise UsageError(f"{trunk.entry}: this file has no model layers (it may be a vocabulary or a projector).")
    trunk.check_whole()
    count = f"{trunk.entry}: '{seen.arch}.block_count'"
    if seen.block_count is None:
        raise UsageError(f"{count} is missing, so engines refuse the model; 'nextn doctor' says what fixes it.")
    if seen.unmarked:
        raise UsageError(
            f"{trunk.entry}: layer {seen.unmarked[0]} is an MTP block that lost its 'nextn.*' tensors; complete it "
            "with 'nextn doctor --fix --from DONOR', or use another copy of the model."
        )
    n_layer = seen.block_count if seen.key_is_stale else seen.block_count - seen.promised
    lost = seen.lost_layers[0] if seen.lost_layers else seen.n_trunk
    if lost < n_layer:
        raise UsageError(
            f"{count} promises {n_layer:,} layers, but layer {lost} has no tensors; the model is incomplete."
        )
    if n_layer != seen.n_trunk:
        raise UsageError(
            f"{count} promises {n_layer:,} layers, but the file has {seen.n_trunk:,}; 'nextn doctor' says more."
        )


def check_fit(block: Block, trunk: Model, family: Family) -> list[str]:
    """Raise DonorMismatch, with figures, when no layout can hold the block with this trunk; return warnings.

    Width, vocabulary and shapes have to match. The depth may differ, and so may the number of experts: see
    `differences`, which are among the warnings.
    """
    where = f"{block.origin} does not fit {trunk.entry.name}"
    check_sizes(block, trunk, family, where)
    check_shapes(block, trunk, family, where)
    notes = check_tokens(block, trunk, where)
    if unlike := differences(block, trunk):
        notes.append(
            f"the block is not this trunk's own ({'; '.join(unlike)}): engines draft with it, perhaps less well, which "
            "'nextn verify' measures"
        )
    return notes


def differences(block: Block, trunk: Model) -> list[str]:
    """How the trunk that the block was made for differs from this one, as clauses; engines draft all the same."""
    found = []
    layers = n_layer_trunk(trunk)
    if block.n_layer_trunk is not None and block.n_layer_trunk != layers:
        found.append(f"it was made for {block.n_layer_trunk:,} trunk layers, but the model has {layers:,}")
    experts = other_experts(block, trunk)
    if experts is not None:
        found.append(f"it has {experts:,} experts, but the model has {trunk.arch_int('expert_count'):,}")
    return found


def other_experts(block: Block, trunk: Model) -> int | None:
    """The block's number of experts where it is not the trunk's, as beside a trunk that was pruned; else None."""
    router = block.find(ROUTER)
    n = router.ne[-1] if router is not None and len(router.ne) > 1 else None
    return None if n == trunk.arch_int("expert_count") else n


def check_one_model(block: Block, trunk: Model, family: Family) -> None:
    """Raise DonorMismatch when block and trunk cannot be one model: its header holds one number of experts."""
    experts = other_experts(block, trunk)
    if experts is None:
        return
    beside = shell("nextn", "attach", trunk.entry, "--from", block.origin, "--layout", "sidecar")
    raise DonorMismatch(
        f"{block.origin} does not fit into {trunk.entry.name}: its block has {experts:,} experts and the trunk "
        f"{trunk.arch_int('expert_count'):,}, and one model has one number of them; "
        + (f"a sidecar can: {beside}" if family.takes_sidecar else "use a donor with as many.")
    )


def check_sizes(block: Block, trunk: Model, family: Family, where: str) -> None:
    """Raise DonorMismatch unless architecture, width and vocabulary match; UnsupportedModel for too many layers."""
    if block.architecture != trunk.architecture:
        raise DonorMismatch(
            f"{where}: the donor's architecture is '{block.architecture}', the trunk's '{trunk.architecture}'."
        )
    for what, theirs, ours in (
        ("hidden size", block.hidden_size, trunk.arch_int("embedding_length") or None),
        ("vocabulary", block.n_vocab, n_vocab(trunk)),
    ):
        if theirs is not None and ours is not None and theirs != ours:
            raise DonorMismatch(f"{where}: the donor's {what} is {theirs:,}, the trunk's {ours:,}.")
    if block.n_layer_nextn > family.max_blocks:
        raise UnsupportedModel(
            f"{block.origin}: it has {block.n_layer_nextn} MTP blocks, but engines accept {family.max_blocks} "
            f"for '{family.arch}'."
        )


def check_shapes(block: Block, trunk: Model, family: Family, where: str) -> None:
    """Raise DonorMismatch unless the block is complete and its tensors' shapes match `trunk`'s header."""
    rules = {rule.target: rule for rule in family.rules}
    for tensor in block.tensors:
        rule = rules.get(tensor.suffix)
        if rule is None and is_factor(tensor.suffix) and matrix_of(tensor.suffix) in rules:
            continue
        if rule is None:
            raise DonorMismatch(
                f"{block.origin}: its block has a tensor '{tensor.suffix}' that engines' loaders do not know for "
                f"'{family.arch}', so they would refuse the file; use another donor, such as the checkpoint."
            )
    shapes = ((tensor.suffix, tensor.ne) for tensor in block.tensors)
    for name, ne, wanted in misshapen(shapes, trunk, family, other_experts(block, trunk)):
        raise DonorMismatch(f"{where}: tensor '{name}' is {_times(ne)}, but the trunk needs {_times(wanted)}.")
    for layer in range(block.n_layer_nextn):
        there = {tensor.suffix for tensor in block.tensors if tensor.layer == layer}
        if reason := stops(family, there):
            raise UnsupportedModel(f"{block.origin}: no engine drafts with this block: {reason}.")
        if unannounced := surplus(family.rules, there, trunk.arch_value):
            raise DonorMismatch(
                f"{where}: the block has '{unannounced[0]}', but the trunk's metadata announces none "
                f"('{trunk.architecture}.{rules[unannounced[0]].needed_by}')."
            )
        lost = missing(family.rules, there, trunk.arch_value)
        if lost:
            raise DonorMismatch(
                f"{block.origin}: the MTP block is incomplete ('{lost[0]}' and {len(lost) - 1} more are missing); "
                "use another donor."
                if len(lost) > 1
                else f"{block.origin}: the MTP block is incomplete ('{lost[0]}' is missing); use another donor."
            )


def misshapen(
    shapes: Iterable[tuple[str, tuple[int, ...]]], trunk: Model, family: Family, n_expert: int | None = None
) -> list[tuple[str, tuple[int, ...], tuple[int, ...]]]:
    """A block's tensors (name after `blk.N.`, ne) of another shape than `trunk`'s header demands, and that shape.

    `n_expert`: the block's number of experts where it is not the trunk's.
    """
    symbols = dimensions(trunk.arch_value, n_vocab(trunk))
    if n_expert is not None:
        symbols["X"] = n_expert
    rules = {rule.target: rule for rule in family.rules}
    found = []
    for name, ne in shapes:
        wanted = resolve_shape(rules[name].ne, symbols) if name in rules else None
        if wanted is not None and not same_shape(ne, wanted):
            found.append((name, ne, wanted))
    return found


def _times(ne: tuple[int, ...]) -> str:
    return " x ".join(f"{n:,}" for n in ne)


def check_tokens(block: Block, trunk: Model, where: str) -> list[str]:
    """Compare tokenizers as far as the donor has one."""
    ours = trunk.header.by_key.get(TOKENS)
    if ours is None:
        return ["the trunk has no token list: tokenizers were not compared"]
    theirs = block.model.header.by_key.get(TOKENS) if block.model else None
    if theirs is not None:
        if memoryview(ours.buffer)[ours.value_start : ours.end] == memoryview(theirs.buffer)[
            theirs.value_start : theirs.end
        ]:
            return []
        return compare_tokens(dict(enumerate(theirs.value)), ours.value, trunk, where)
    if block.model is not None:
        known = block.model.header.get(TOKENIZER_HASH)
        if known is None:
            return ["the donor has no tokenizer: tokenizers were not compared"]
        mine = tokens_hash(trunk)
        if known != mine:
            raise DonorMismatch(
                f"{where}: their ordinary tokens differ (sha256 {str(known)[:12]}... in the donor file, "
                f"{str(mine)[:12]}... in the trunk)."
            )
        return []
    texts = block.checkpoint.vocabulary if block.checkpoint else None
    if texts is None:
        return ["the donor has no tokenizer.json: tokenizers were not compared"]
    return compare_tokens(texts, ours.value, trunk, where)


def compare_tokens(theirs: Mapping[int, str], ours: list[str], trunk: Model, where: str) -> list[str]:
    """Refuse when ordinary tokens differ; special ones may (fine-tunes rename them) and are only reported."""
    n_theirs = max(theirs, default=-1) + 1
    types = token_types(trunk, len(ours)) or [NORMAL_TOKEN] * len(ours)
    different = [i for i, text in theirs.items() if i >= len(ours) or ours[i] != text]
    normal = [i for i in different if i >= len(ours) or types[i] == NORMAL_TOKEN]
    lacking = [i for i in range(len(ours)) if types[i] == NORMAL_TOKEN and i not in theirs]
    bad = sorted(set(normal) | set(lacking))
    if bad:
        i = bad[0]
        mine = repr(ours[i]) if i < len(ours) else "nothing"
        raise DonorMismatch(
            f"{where}: the tokenizers differ in {len(bad):,} of {max(n_theirs, len(ours)):,} tokens (token {i:,} is "
            f"{theirs.get(i)!r} in the donor and {mine} in the trunk)."
        )
    if different:
        return [f"{len(different):,} special tokens differ between donor and trunk (the first is {different[0]:,})"]
    return []
