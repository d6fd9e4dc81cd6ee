"""Rows and groups of facts that several families' tables share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypedDict

from .base import Donor, Lookup, Memory, Qkv, Rule, Source, Tail, TextSplit, Transform

L = "layers.{k}."
KV_B = ("qk_nope_head_dim", "v_head_dim")  # config.json keys of the parts of a head in kv_b


def tensor(
    target: str,
    ne: str,
    *names: str,
    f32: bool = False,
    optional: bool = False,
    form: str = "",
    needed_by: str = "",
    stops: str = "",
) -> Rule:
    """A tensor taken as it is from the first of `names` that is present."""
    sources = tuple(Source(L + name) for name in names)
    return Rule(target, ne, sources, f32=f32, optional=optional, form=form, needed_by=needed_by, stops=stops)


def norm(
    target: str, *names: str, ne: str = "E", optional: bool = False, form: str = "", needed_by: str = ""
) -> Rule:
    """A vector, always F32."""
    return tensor(target, ne, *names, f32=True, optional=optional, form=form, needed_by=needed_by)


def norm_plus_one(target: str, *names: str, ne: str = "E", optional: bool = False) -> Rule:
    """A zero-centred norm."""
    sources = tuple(Source(L + name, Transform.PLUS_ONE) for name in names)
    return Rule(target, ne, sources, f32=True, optional=optional)


def nextn(own_embeddings: bool = True, norms: Callable[..., Rule] = norm) -> tuple[Rule, ...]:
    """eh_proj and its norms under DeepSeek's names; optionally the block's own embeddings and head."""
    rules = (
        tensor("nextn.eh_proj.weight", "2*E E", "eh_proj.weight"),
        norms("nextn.enorm.weight", "enorm.weight"),
        norms("nextn.hnorm.weight", "hnorm.weight"),
    )
    return (*rules, *OWN_EMBEDDINGS) if own_embeddings else rules


OWN_EMBEDDINGS = (
    tensor("nextn.embed_tokens.weight", "E V", "embed_tokens.weight", optional=True),
    tensor("nextn.shared_head_head.weight", "E V", "shared_head.head.weight", "shared_head.output.weight",
           "transformer.shared_head.output.weight", optional=True),
)  # fmt: skip
SHARED_HEAD_NORM = norm("nextn.shared_head_norm.weight", "shared_head.norm.weight", optional=True)


def attention(*, bias: bool = False, value: str = "Dv") -> tuple[Rule, ...]:
    """Separate q, k, v and output projections; nothing is permuted for RoPE."""
    parts = (("q", "H*D"), ("k", "K*D"), ("v", f"K*{value}"))
    rules = tuple(tensor(f"attn_{x}.weight", f"E {rows}", f"self_attn.{x}_proj.weight") for x, rows in parts)
    biases = tuple(
        norm(f"attn_{x}.bias", f"self_attn.{x}_proj.bias", ne=rows, optional=True) for x, rows in parts if bias
    )
    return (*rules, *biases, tensor("attn_output.weight", f"H*{value} E", "self_attn.o_proj.weight"))


def qk_norms(*, optional: bool = False) -> tuple[Rule, ...]:
    """Norms over one head's queries and keys."""
    return (
        norm("attn_q_norm.weight", "self_attn.q_norm.weight", ne="D", optional=optional),
        norm("attn_k_norm.weight", "self_attn.k_norm.weight", ne="D", optional=optional),
    )


NO_PLAIN_QUERIES = (
    "its queries are not low-rank ('q_lora_rank' is null), but llama.cpp's drafting graph needs them to be; no other "
    "donor helps"
)


def mla(p: str = "self_attn.", output: str = "o_proj", *, plain: bool = False) -> tuple[Rule, ...]:
    """Multi-head latent attention; kv_b becomes two tensors of three axes, the keys' part transposed.

    `plain`: engines also draft where the queries are one matrix.
    """
    kv_b = f"{L}{p}kv_b_proj.weight"
    rank, whole, key = "queries.low-rank", "queries.plain", "attention.q_lora_rank"
    return (
        tensor("attn_q_a.weight", "E Lq", f"{p}q_a_proj.weight", form=rank, needed_by=key),
        norm("attn_q_a_norm.weight", f"{p}q_a_layernorm.weight", ne="Lq", form=rank, needed_by=key),
        tensor("attn_q_b.weight", "Lq H*Dm", f"{p}q_b_proj.weight", form=rank, needed_by=key),
        tensor(
            "attn_q.weight", "E H*Dm", f"{p}q_proj.weight", form=whole, stops="" if plain else NO_PLAIN_QUERIES
        ),
        tensor("attn_kv_a_mqa.weight", "E Lr", f"{p}kv_a_proj_with_mqa.weight"),
        norm("attn_kv_a_norm.weight", f"{p}kv_a_layernorm.weight", ne="Lkv"),
        Rule("attn_k_b.weight", "Dn Lkv H", (Source(kv_b, Transform.KEY_HALF, KV_B),)),
        Rule("attn_v_b.weight", "Lkv Dw H", (Source(kv_b, Transform.VALUE_HALF, KV_B),)),
        tensor("attn_output.weight", "H*Dw E", f"{p}{output}.weight"),
    )


def indexer(*, optional: bool) -> tuple[Rule, ...]:
    """The lightning indexer of DeepSeek's sparse attention."""
    p = "self_attn.indexer."
    return (
        norm("indexer.k_norm.weight", f"{p}k_norm.weight", ne="Di", optional=optional),
        norm("indexer.k_norm.bias", f"{p}k_norm.bias", ne="Di", optional=optional),
        tensor("indexer.proj.weight", "E I", f"{p}weights_proj.weight", f32=True, optional=optional),
        tensor("indexer.attn_k.weight", "E Di", f"{p}wk.weight", optional=optional),
        tensor("indexer.attn_q_b.weight", "Lq I*Di", f"{p}wq_b.weight", optional=optional),
    )


DENSE, EXPERTS = "feed-forward.dense", "feed-forward.experts"  # forms of a layer that may be either


def dense(p: str = "mlp.", *, form: str = "") -> tuple[Rule, ...]:
    """A feed-forward network without experts."""
    return (
        tensor("ffn_gate.weight", "E F", f"{p}gate_proj.weight", form=form),
        tensor("ffn_up.weight", "E F", f"{p}up_proj.weight", form=form),
        tensor("ffn_down.weight", "F E", f"{p}down_proj.weight", form=form),
    )


def experts(p: str = "mlp.", *, form: str = "") -> tuple[Rule, ...]:
    """Routed experts, published one by one and stacked, or fused already."""

    def stacked(target: str, ne: str, part: str, *fused: Source) -> Rule:
        one_by_one = Source(f"{L}{p}experts.{{x}}.{part}.weight", Transform.STACK_EXPERTS)
        return Rule(target, ne, (one_by_one, *fused), form=form)

    both = f"{L}{p}experts.gate_up_proj"
    return (
        stacked("ffn_gate_exps.weight", "E Fx X", "gate_proj", Source(both, Transform.GATE_HALF)),
        stacked("ffn_up_exps.weight", "E Fx X", "up_proj", Source(both, Transform.UP_HALF)),
        stacked("ffn_down_exps.weight", "Fx E X", "down_proj", Source(f"{L}{p}experts.down_proj")),
    )


def gate_up(*, form: str = "") -> Rule:
    """The routed experts' gate and up as one tensor, which a few loaders take instead of the two (llama.cpp b11549).

    Only GGUFs hold it, as newer converters write it on request: of a checkpoint, nextn makes the two.
    """
    halves = ("ffn_gate_exps.weight", "ffn_up_exps.weight")
    return Rule("ffn_gate_up_exps.weight", "E 2*Fx X", (), optional=True, form=form, replaces=halves)


def shared_experts(
    p: str = "mlp.shared_experts.", *, optional: bool = False, form: str = "", needed_by: str = ""
) -> tuple[Rule, ...]:
    """The expert that every token passes through."""
    parts = (("gate", "E Fs"), ("up", "E Fs"), ("down", "Fs E"))
    return tuple(
        tensor(
            f"ffn_{x}_shexp.weight", ne, f"{p}{x}_proj.weight", optional=optional, form=form, needed_by=needed_by
        )
        for x, ne in parts
    )


def router(
    bias: str | None,
    *,
    target: str = "exp_probs_b.bias",
    gate: str = "mlp.gate.weight",
    optional: bool = False,
    form: str = "",
) -> tuple[Rule, ...]:
    """The router, F32, and the bias of its selection (`optional`: loaders do without it)."""
    rule = tensor("ffn_gate_inp.weight", "E X", gate, f32=True, form=form)
    return (rule,) if bias is None else (rule, norm(target, bias, ne="X", optional=optional, form=form))


def limits(key: str) -> Tail:
    """A layer's clamp limit as config.json lists it, blocks included; 0 for null and for layers after its end.

    Unknown (None) without a config.json.
    """

    def value(donor: Donor, block: int) -> float | None:
        if not donor.config:
            return None
        listed, at = donor.config.get(key), donor.n_layer + block
        found = listed[at] if isinstance(listed, list) and at < len(listed) else None
        return float(found) if isinstance(found, int | float) else 0.0

    return value


def root(
    model: str = "model.", embeddings: str = "embed_tokens", last_norm: str = "norm"
) -> dict[str, tuple[str, ...]]:
    """Where a checkpoint keeps embeddings, last norm and head."""
    return {
        "token_embd.weight": (f"{model}{embeddings}.weight", f"{embeddings}.weight"),
        "output_norm.weight": (f"{model}{last_norm}.weight", f"{last_norm}.weight"),
        "output.weight": ("lm_head.weight", "model.lm_head.weight"),
    }

# -- groups of a Family's facts, for `Family(..., **GROUP)`; a family that differs in one writes all of them out -------


class Placing(TypedDict):
    """Where the block is in a checkpoint."""

    count_keys: tuple[str, ...]
    prefixes: tuple[str, ...]
    behind_trunk: bool
    layer_mark: str
    n_source_layers: int


class Number(TypedDict):
    """How many blocks there are."""

    n_blocks: int
    max_blocks: int


class Names(TypedDict):
    """What is odd about the block's names and shapes."""

    symbols: Callable[[Lookup, Mapping[str, int]], Mapping[str, int]] | None
    not_blocks: tuple[tuple[str, str], ...]


class Arrays(TypedDict):
    """What is odd about the header's arrays."""

    trunk_arrays: tuple[str, ...]
    longer_arrays: tuple[str, ...]
    id_lists: tuple[tuple[str, str], ...]


class Sidecar(TypedDict):
    """What is odd about a sidecar."""

    sidecar_drops: tuple[str, ...]
    only_sidecar: str
    sidecar_extra: tuple[str, ...]


AFTER_TRUNK: Placing = {
    "count_keys": ("num_nextn_predict_layers",),
    "prefixes": ("model.",),
    "behind_trunk": True,
    "layer_mark": "layers.",
    "n_source_layers": 1,
}
ONE_BLOCK: Number = {"n_blocks": 1, "max_blocks": 1}
USUAL_NAMES: Names = {"symbols": None, "not_blocks": ()}
USUAL_ARRAYS: Arrays = {"trunk_arrays": (), "longer_arrays": (), "id_lists": ()}
USUAL_SIDECAR: Sidecar = {"sidecar_drops": (), "only_sidecar": "", "sidecar_extra": ()}

# llama.cpp's drafting graph looks for q, k and v fused, then for the three.
QKV_EITHER = Qkv(fused=True, split=True, refusal="")
QKV_SPLIT = Qkv(fused=False, split=True, refusal="")
# Only a cache, fully described by the sizes in the header.
PLAIN_CACHE = Memory(
    recurrent=None, rolls_back=False, window_period=None, indexer=None, block_in_target=False, loaded_anyway=(),
    pool_rows=0,
)  # fmt: skip

# How tokenizers split text (regex_exprs in llama.cpp's src/llama-vocab.cpp). The first two differ in where combining
# marks (\p{M}) go.
_REGEX = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?LETTERS|\p{N}| ?[^\s\p{L}MARK\p{N}]+[\r\n]*"
    r"|\s*[\r\n]+|\s+(?!\S)|\s+"
)
QWEN2_SPLIT = TextSplit("qwen2", (_REGEX.replace("LETTERS", r"\p{L}+").replace("MARK", ""),))
QWEN35_SPLIT = TextSplit("qwen35", (_REGEX.replace("LETTERS", r"[\p{L}\p{M}]+").replace("MARK", r"\p{M}"),))
GLM4_SPLIT = TextSplit(  # also Llama 3's pattern, but only GLM has these tokens
    "glm4",
    (_REGEX.replace("LETTERS", r"\p{L}+").replace("MARK", "").replace(r"\p{N}|", r"\p{N}{1,3}|"),),
    {"bos": "[gMASK]", "eot": "<|user|>", "unk": "<|endoftext|>", "eom": "<|observation|>"},
)
DEEPSEEK3_SPLIT = TextSplit(
    "deepseek-v3",
    (
        r"\p{N}{1,3}",
        "[一-龥\u3040-ゟ゠-ヿ]+",
        "[!\"#$%&'()*+,\\-./:;<=>?@\\[\\\\\\]^_`{|}~][A-Za-z]+|[^\r\n\\p{L}\\p{P}\\p{S}]?[\\p{L}\\p{M}]+"
        "| ?[\\p{P}\\p{S}]+[\r\n]*|\\s*[\r\n]+|\\s+(?!\\S)|\\s+",
    ),
)
