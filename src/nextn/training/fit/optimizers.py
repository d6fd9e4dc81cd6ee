"""What changes the weights: Muon for the matrices of a draft that starts from nothing, AdamW for the rest.

Muon makes every step of a matrix as large in all directions (K. Jordan 2024; arXiv 2502.16982 for the scale at which it
shares AdamW's learning rate). Measured with SmolLM2's EAGLE-3 draft after the same 200 CPU seconds: 37 % of held-out
first tokens against 32 % with AdamW alone.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

PARTS = ("step", "exp_avg", "exp_avg_sq", "momentum_buffer")  # of a parameter's state, what a continued fit needs
_HEAD = "lm_head"


class Optimizers:
    """One or two of torch's optimizers that take their steps together."""

    def __init__(self, module: nn.Module, decay: float, *, muon: bool) -> None:
        """`decay` of matrices; `muon`: for the matrices that are not the head."""
        named = [(name, one) for name, one in module.named_parameters() if one.requires_grad]
        turned = {name: one for name, one in named if muon and one.ndim == 2 and name != _HEAD}
        matrices = [one for name, one in named if one.ndim > 1 and name not in turned]
        vectors = [one for _, one in named if one.ndim <= 1]
        groups = [{"params": matrices, "weight_decay": decay}, {"params": vectors, "weight_decay": 0.0}]
        used = [group for group in groups if group["params"]]
        self._all: list[torch.optim.Optimizer] = [torch.optim.AdamW(used, lr=0.0, betas=(0.9, 0.95), fused=True)]
        if turned:
            scale = "match_rms_adamw"
            self._all.append(torch.optim.Muon(turned.values(), lr=0.0, weight_decay=decay, adjust_lr_fn=scale))

    def rate(self, value: float) -> None:
        """Set the learning rate of all."""
        for one in self._all:
            for group in one.param_groups:
                group["lr"] = value

    def zero_grad(self) -> None:
        """Before a batch."""
        for one in self._all:
            one.zero_grad(set_to_none=True)

    def step(self) -> None:
        """After it."""
        for one in self._all:
            one.step()

    def state(self, parameter: Tensor) -> dict[str, Tensor]:
        """What is kept of one parameter, by `PARTS`; empty before the first step."""
        return next((one.state[parameter] for one in self._all if parameter in one.state), {})

    def restore(self, parameter: Tensor, state: dict[str, Tensor]) -> None:
        """Put back what `state` gave."""
        for one in self._all:
            if any(parameter is each for group in one.param_groups for each in group["params"]):
                one.state[parameter] = state
