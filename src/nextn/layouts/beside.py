"""Does this sidecar fit this model? Checks for what would break an engine that loads the two side by side."""

from __future__ import annotations

from ..archs import FAMILIES
from ..archs.others import ASSISTANTS, LOADS_ONLY
from ..block.draft import Draft
from ..block.from_gguf import block_from_model
from ..errors import DonorMismatch, UsageError
from ..gguf.files import Model
from . import qkv
from .assistant import check_assistant, is_assistant
from .donor_check import check_shapes, check_sizes, check_tokens, differences
from .draft_fit import check_draft_fit


def check_beside(sidecar: Model, model: Model) -> list[str]:
    """How `sidecar` differs from one made for `model`, as clauses; empty for the model's own.

    An engine loads a sidecar as a separate model, so only width, vocabulary and tokens have to match the model's: the
    block of a shallower or unpruned trunk still drafts, only worse. Raises DonorMismatch, NoBlock, UnsupportedModel,
    UsageError (a donor file, which no engine runs) and FormatError.
    """
    where = f"{sidecar.entry} does not fit {model.entry.name}"
    if (draft := Draft.of(sidecar)) is not None:
        check_draft_fit(draft, model, sidecar)
        return []
    if is_assistant(sidecar):
        check_assistant(model, sidecar)
        return []
    if model.architecture in ASSISTANTS.values():
        raise DonorMismatch(f"{where}: only assistants draft for '{model.architecture}'.")
    family = FAMILIES.get(model.architecture)
    if family is None:
        known = "no engine drafts" if model.architecture in LOADS_ONLY else "nextn knows no engine that drafts"
        raise DonorMismatch(f"{where}: {known} with the architecture '{model.architecture}'.")
    block = block_from_model(sidecar)
    check_sizes(block, model, family, where)
    if block.kind == "donor":
        raise UsageError(
            f"{sidecar.entry}: this is a donor file, which no engine runs; make a sidecar from it with "
            "'nextn attach MODEL --from' it."
        )
    form = qkv.rules_form(family)
    if form is not None and form != qkv.block_form(block):
        block = qkv.shaped(block, form, qkv.lookup_of(model.architecture, list(sidecar.kvs)))
    check_shapes(block, sidecar, family, where)
    check_tokens(block, model, where)
    return differences(block, model)
