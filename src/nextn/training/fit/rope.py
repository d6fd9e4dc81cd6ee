"""How far a trunk's heads rotate per position, as llama.cpp reads it from the header (b11549).

Sources: ggml's `rope_yarn` and `ggml_rope_yarn_corr_dims`, src/llama-context.cpp for the factors.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from ...errors import UnsupportedModel
from ...gguf.files import Model
from .parts import frequencies


@dataclass(frozen=True)
class Rope:
    """Rotation of the first `n_rot` values of each head."""

    n_rot: int
    base: float
    factor: float = 1.0  # positions are divided by it
    yarn: bool = False
    original: int = 0  # positions that the model was first trained for
    extrapolation: float = 1.0
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    scale: float = 1.0  # of sine and cosine
    score_factor: float = 1.0  # of attention scores, in latent attention

    def turns(self) -> Tensor:
        """Radians per position of each pair, [n_rot / 2]."""
        plain = frequencies(self.n_rot, self.base)
        if not self.yarn:
            return plain / self.factor
        low = max(0.0, math.floor(self._pair(self.beta_fast)))
        high = min(self.n_rot - 1.0, math.ceil(self._pair(self.beta_slow)))
        ramp = 1 - ((torch.arange(self.n_rot // 2) - low) / max(0.001, high - low)).clamp(0, 1)
        mix = ramp * self.extrapolation
        return plain / self.factor * (1 - mix) + plain * mix

    def _pair(self, n_turns: float) -> float:
        """The pair that turns so many times within the original context."""
        return self.n_rot * math.log(self.original / (n_turns * 2 * math.pi)) / (2 * math.log(self.base))


def rope_of(trunk: Model) -> Rope:
    """The trunk's rotation. Raises UnsupportedModel for a kind of scaling that is not computed here."""
    n_rot = trunk.arch_int("rope.dimension_count") or trunk.arch_int("attention.key_length")
    base = float(trunk.arch_value("rope.freq_base") or 10000.0)
    kind = trunk.arch_value("rope.scaling.type") or "none"
    factor = float(trunk.arch_value("rope.scaling.factor") or 1.0)
    if kind == "none":
        return Rope(n_rot, base)
    if kind == "linear":
        return Rope(n_rot, base, factor)
    own = trunk.arch_value("rope.scaling.yarn_ext_factor")
    extrapolation = 1.0 if own is None or own < 0 else float(own)
    if kind != "yarn" or not extrapolation or trunk.arch_value("rope.scaling.attn_factor") not in (None, 1.0):
        raise UnsupportedModel(
            f"{trunk.entry}: its positions are scaled in a way ('{kind}') that nextn's training does not compute."
        )
    log_multiplier = float(trunk.arch_value("rope.scaling.yarn_log_multiplier") or 0.0)
    latent = trunk.architecture == "deepseek2"
    multiplier = log_multiplier / 0.1 if latent else log_multiplier
    own_scale = multiplier if latent and multiplier not in (0.0, 1.0) else 1.0
    scale = _magnitude(factor, own_scale) / (_magnitude(factor, multiplier) if multiplier else 1.0)
    return Rope(
        n_rot, base, factor, True,
        original=trunk.arch_int("rope.scaling.original_context_length") or trunk.arch_int("context_length"),
        extrapolation=extrapolation,
        beta_fast=float(trunk.arch_value("rope.scaling.yarn_beta_fast", 32.0)),
        beta_slow=float(trunk.arch_value("rope.scaling.yarn_beta_slow", 1.0)),
        scale=scale, score_factor=(scale * _magnitude(factor, multiplier)) ** 2 if latent else 1.0,
    )  # fmt: skip


def _magnitude(factor: float, multiplier: float) -> float:
    return 1.0 if factor <= 1 else 0.1 * multiplier * math.log(factor) + 1
