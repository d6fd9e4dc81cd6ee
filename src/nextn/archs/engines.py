"""What engines do with a family's block: typed facts, each with the build to which it applies.

Facts decide; what a user reads is rendered from the measured table (`nextn.compat`), and a test compares the two.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import Enum

LLAMA_CPP, IK = "llama.cpp", "ik_llama.cpp"
LLAMA_CPP_BUILD, IK_BUILD = "xllamacpp 2026.10.11549", "ik_llama.cpp 8337e4cd"  # as the measured table names them
IK_UP_TO = "ik_llama.cpp up to 8337e4cd"  # for sentences about what it does not do: that lasts up to this build
LLAMA_CPP_UP_TO = "llama.cpp up to b11549"
# Architectures whose loader in ik_llama.cpp takes the experts' gate and up only as two tensors; all others that it has
# take the one tensor too (commit 8337e4cd, src/llama-load-tensors.cpp).
IK_SPLITS_EXPERTS = ("glm-dsa", "openpangu")


class Does(Enum):
    """What an engine does with a model in one layout."""

    DRAFTS = "drafts"
    LOADS = "loads without drafting"
    REFUSES = "refuses"
    UNKNOWN = "unknown"  # nextn makes no such file, or the engine refuses every model of the kind that was measured


@dataclass(frozen=True, kw_only=True)
class Support:
    """What one engine does with the models of a family, layout by layout."""

    build: str  # the newest build that was measured
    trunk: Does  # the model without a block
    bundle: Does
    shards: Does
    sidecar: Does
    takes_heads: bool  # loads or ignores the block's own embeddings and head; else refuses the file
    extra_head: bool  # knows `output_extra.weight`, a head for drafting
    needs_head_norm: bool  # refuses a block without `nextn.shared_head_norm`

    def does(self, layout: str) -> Does:
        """What it does with "trunk-only", "bundle" (or "bundled"), "shards" or "sidecar"."""
        name = {"trunk-only": "trunk", "bundled": "bundle"}.get(layout, layout)
        found = getattr(self, name)
        assert isinstance(found, Does)
        return found

    def drafts_with(self, layout: str) -> bool:
        """Whether it drafts with a block in this layout."""
        return self.does(layout) is Does.DRAFTS

    @property
    def drafts(self) -> bool:
        """Whether there is a layout that it drafts with."""
        return any(self.drafts_with(layout) for layout in ("bundle", "shards", "sidecar"))


ON_LLAMA_CPP = Support(
    build=LLAMA_CPP_BUILD, trunk=Does.LOADS, bundle=Does.DRAFTS, shards=Does.DRAFTS, sidecar=Does.DRAFTS,
    takes_heads=True, extra_head=False, needs_head_norm=False,
)  # fmt: skip
NOT_ON_LLAMA_CPP = replace(  # it does not have this architecture
    ON_LLAMA_CPP, trunk=Does.REFUSES, bundle=Does.REFUSES, shards=Does.REFUSES, sidecar=Does.UNKNOWN
)
SIDECAR_ON_LLAMA_CPP = replace(ON_LLAMA_CPP, bundle=Does.UNKNOWN, shards=Does.UNKNOWN)
ON_IK = replace(ON_LLAMA_CPP, build=IK_BUILD)
IN_THE_MODEL_ON_IK = replace(ON_IK, sidecar=Does.REFUSES)
TRUNK_ON_IK = replace(ON_IK, bundle=Does.REFUSES, shards=Does.REFUSES, sidecar=Does.REFUSES)
NOT_ON_IK = replace(TRUNK_ON_IK, trunk=Does.REFUSES)  # it does not have this architecture
NOT_ON_OLD_IK = replace(NOT_ON_IK, build="ik-llama-cpp-python 0.1.5")  # no newer build was measured
UNKNOWN_ON_IK = replace(
    ON_IK, trunk=Does.UNKNOWN, bundle=Does.UNKNOWN, shards=Does.UNKNOWN, sidecar=Does.UNKNOWN
)
