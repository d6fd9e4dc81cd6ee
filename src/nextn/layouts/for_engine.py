"""Files for one engine or for both: what each accepts, and why no such file is possible where it is not.

Rules of ik_llama.cpp (commit 8337e4cd: src/llama-load-tensors.cpp, src/llama-hparams.cpp, common/speculative.cpp) and
of llama.cpp (b11549). What engines accept of a family is in the family's module, as `Family.llama_cpp` and `Family.ik`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ..archs.base import Family
from ..archs.engines import IK_UP_TO, Does
from ..block.model import DRAFT_HEAD, EMBED_TOKENS, Block
from ..compat import said, verdict
from ..errors import QuantizeError, UnsupportedModel, UsageError
from ..gguf.files import GGUFFile, Model
from ..gguf.tensors import TensorInfo
from ..gguf.types import TensorType, tensor_type
from . import programs

LLAMA_CPP, IK, BOTH = "llama.cpp", "ik", "both"
WITH_IK = (IK, BOTH)
LMSTUDIO, OLLAMA = PROGRAMS = programs.PROGRAMS
ENGINES = (LLAMA_CPP, IK, BOTH, *PROGRAMS)
IK_HEAD = "output_extra.weight"  # ik's own low-bit head for drafting, a root tensor
_TITLES = {LMSTUDIO: "LM Studio", OLLAMA: "ollama"}
_FUSED = "attn_qkv.weight"


@dataclass(frozen=True)
class EngineForm:
    """What an attach has to do so that the engine accepts the file."""

    layout: str
    head_name: str | None = None  # root tensor that replaces the block's draft head
    leave_out: tuple[str, ...] = ()  # suffixes of block tensors that an engine refuses
    notes: tuple[str, ...] = ()


def check_name(for_engine: str | None) -> None:
    """Raise UsageError for an unknown name."""
    if for_engine is not None and for_engine not in ENGINES:
        raise UsageError(f"'{for_engine}' is not an engine to write for; choose one of {', '.join(ENGINES)}.")


def form_for(
    for_engine: str | None, family: Family, trunk: Model, block: Block, layout: str | None, default: str, *, head: bool
) -> EngineForm:
    """What `for_engine` requires; `layout` is what the user requested, `default` what is used otherwise.

    Raises UnsupportedModel with the reason when no such file is possible, UsageError for mutually exclusive options.
    """
    check_name(for_engine)
    wanted = layout or ("bundle" if for_engine == LMSTUDIO else default)
    if for_engine == LMSTUDIO and (wanted == "sidecar" or family.only_sidecar):
        why = f"the block of '{family.arch}' works only there" if family.only_sidecar else "use --layout bundle"
        raise UnsupportedModel(f"{trunk.entry}: LM Studio takes no block in a file of its own; {why}.")
    if wanted == "sidecar" and not family.takes_sidecar:
        raise UnsupportedModel(
            f"{trunk.entry}: no engine accepts the block of '{family.arch}' in a separate file; use --layout bundle, "
            "or shards."
        )
    if for_engine in (LLAMA_CPP, BOTH, LMSTUDIO) and not family.llama_cpp.drafts:
        raise UnsupportedModel(
            f"{trunk.entry}: no file with the block of '{family.arch}' works in llama.cpp, which "
            f"{said(family.arch, 'bundle', 'llama.cpp')}; use --for ik."
        )
    if for_engine in (None, LLAMA_CPP, LMSTUDIO):
        return EngineForm(wanted)
    ik = family.ik
    if not ik.drafts:
        kind = "sidecar" if family.only_sidecar else "bundle"
        plain = ", and give ik_llama.cpp the model without a block" if ik.trunk is Does.LOADS else ""
        raise UnsupportedModel(
            f"{trunk.entry}: ik_llama.cpp drafts with no file that has the block of '{family.arch}': it "
            f"{said(family.arch, kind, 'ik_llama.cpp')}; leave out --for{plain}."
        )
    notes: list[str] = []
    if wanted == "sidecar" and not ik.drafts_with("sidecar"):
        if layout is not None:
            raise UnsupportedModel(f"{trunk.entry}: {no_sidecar(family)}; use --layout bundle, or shards.")
        wanted = "shards" if len(trunk.files) > 1 else "bundle"
        notes.append(f"{no_sidecar(family)}, so the block goes into the model ({wanted})")
    leave_out: tuple[str, ...] = ()
    head_name = None
    if head and not ik.takes_heads:
        if for_engine == BOTH:
            raise UnsupportedModel(
                f"{trunk.entry}: no draft head is accepted by both engines (llama.cpp b11549 needs it in the block, "
                f"{IK_UP_TO} as '{IK_HEAD}', and each refuses the other's); leave out --draft-head, or name one engine."
            )
        if not ik.extra_head:
            raise UnsupportedModel(
                f"{trunk.entry}: {IK_UP_TO} accepts no draft head for '{family.arch}'; leave out --draft-head."
            )
        head_name = IK_HEAD
    if not ik.takes_heads:
        leave_out = _left_out(block, notes)
    _check_forms(block, family)
    if for_engine == BOTH and family.only_sidecar and not ik.drafts_with("sidecar"):
        raise UnsupportedModel(
            f"{trunk.entry}: llama.cpp accepts this block only as a sidecar, and {no_sidecar(family)}."
        )
    return EngineForm(wanted, head_name, leave_out, tuple(notes))


def no_sidecar(family: Family) -> str:
    """A sentence on what ik_llama.cpp does with a sidecar of the family."""
    found = verdict(family.arch, "sidecar", "ik_llama.cpp")
    what = f"a sidecar of '{family.arch}'"
    return f"{IK_UP_TO} accepts no sidecar of '{family.arch}'" if found is None else f"ik_llama.cpp {found.of(what)}"


def _left_out(block: Block, notes: list[str]) -> tuple[str, ...]:
    """Leaves out the block's own head, since both engines use the trunk's; its own embeddings have no substitute."""
    if block.find(EMBED_TOKENS) is not None:
        raise UnsupportedModel(
            f"{block.origin}: its block has embeddings of its own, which {IK_UP_TO} refuses for "
            f"'{block.architecture}'; use another donor."
        )
    if block.find(DRAFT_HEAD) is None:
        return ()
    notes.append(f"the block's own draft head is left out: {IK_UP_TO} refuses it, and drafts with the trunk's head")
    return (DRAFT_HEAD,)


def _check_forms(block: Block, family: Family) -> None:
    axes = {rule.target: len(rule.ne.split()) for rule in family.rules}
    if block.find(_FUSED) is not None:
        raise UnsupportedModel(
            f"{block.origin}: its block has '{_FUSED}', but {IK_UP_TO} accepts only separate tensors; use --qkv split."
        )
    for suffix in ("attn_k_b.weight", "attn_v_b.weight"):
        found = block.find(suffix)
        if found is not None and len(found.ne) != axes.get(suffix, 3):
            raise UnsupportedModel(
                f"{block.origin}: '{suffix}' has {len(found.ne)} axes, but engines need {axes.get(suffix, 3)}; use "
                "the checkpoint as the donor."
            )


def check_trunk(for_engine: str | None, trunk: Iterable[tuple[GGUFFile, TensorInfo]]) -> None:
    """Raise QuantizeError when one of the trunk's tensors has a type that the engine lacks."""
    lacking = _lacking(for_engine)
    for file, info in trunk if lacking else ():
        kind = tensor_type(info.type_id)
        if kind is not None and kind.engine in lacking:
            raise QuantizeError(
                f"{file.path}: '{info.name}' is stored as {kind.name}, which {lacking[kind.engine]} cannot read, so "
                "no file of this model works in it."
            )


def check_block(for_engine: str | None, types: Sequence[TensorType]) -> None:
    """Raise QuantizeError when the engine lacks one of the types that the block would be written as."""
    lacking = _lacking(for_engine)
    for kind in types:
        if kind.engine in lacking:
            raise QuantizeError(
                f"the block would be written as {kind.name}, which {lacking[kind.engine]} cannot read; choose another "
                "--type."
            )


def _lacking(for_engine: str | None) -> dict[str, str]:
    """The only engine that reads a type -> the requested engine that does not."""
    return {
        **({"ik": "llama.cpp"} if for_engine in (LLAMA_CPP, BOTH) else {}),
        **({"ik": _TITLES[for_engine]} if for_engine in PROGRAMS else {}),
        **({"mainline": "ik_llama.cpp"} if for_engine in (IK, BOTH) else {}),
    }
