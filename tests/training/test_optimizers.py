"""Which optimizer turns what, and that a fit goes on with what it kept."""

from __future__ import annotations

from importlib.util import find_spec
from typing import Any

import pytest

from conftest import need


@pytest.fixture(autouse=True)
def torch_is_here() -> None:
    need("torch, which 'nextn[train]' installs,", find_spec("torch") is not None)


def module() -> Any:
    import torch

    torch.manual_seed(3)
    made = torch.nn.Module()
    made.inner, made.lm_head = (torch.nn.Parameter(torch.randn(6, 4)) for _ in range(2))
    made.experts, made.norm = torch.nn.Parameter(torch.randn(2, 6, 4)), torch.nn.Parameter(torch.ones(4))
    made.frozen = torch.nn.Parameter(torch.ones(4, 4), requires_grad=False)
    return made


def steep() -> Any:
    """A gradient whose directions differ in size by 10,000."""
    import torch

    u, _ = torch.linalg.qr(torch.randn(6, 6))
    v, _ = torch.linalg.qr(torch.randn(4, 4))
    return u[:, :4] @ torch.diag(torch.tensor([100.0, 10.0, 1.0, 0.01])) @ v


def step(made: Any, optimizer: Any) -> None:
    optimizer.zero_grad()
    ((made.inner * steep()).sum() + made.lm_head.square().sum() + made.experts.sum() + made.norm.sum()).backward()
    optimizer.rate(0.01)
    optimizer.step()


@pytest.mark.slow
@pytest.mark.parametrize("muon", [True, False])
def test_muon_turns_the_matrices_but_the_head(muon: bool) -> None:
    import torch

    from nextn.training.fit.optimizers import PARTS, Optimizers

    made = module()
    before = made.inner.detach().clone()
    optimizer = Optimizers(made, 0.0, muon=muon)
    step(made, optimizer)
    kept = {name: set(optimizer.state(one)) for name, one in made.named_parameters()}
    adam = {"step", "exp_avg", "exp_avg_sq"}
    assert kept == {
        "inner": {"momentum_buffer"} if muon else adam, "lm_head": adam, "experts": adam, "norm": adam, "frozen": set(),
    }  # fmt: skip
    assert set().union(*kept.values()) <= set(PARTS)
    sizes = torch.linalg.svdvals(made.inner.detach() - before)
    assert bool(sizes[0] < 2 * sizes[2]) == muon and torch.equal(made.frozen, torch.ones(4, 4))


@pytest.mark.parametrize("muon", [True, False])
def test_what_is_kept_is_enough_to_go_on(muon: bool) -> None:
    import torch

    from nextn.training.fit.optimizers import Optimizers

    made, other = module(), module()
    optimizer, again = Optimizers(made, 0.1, muon=muon), Optimizers(other, 0.1, muon=muon)
    step(made, optimizer)
    with torch.no_grad():
        for name, one in other.named_parameters():
            mine = dict(made.named_parameters())[name]
            one.copy_(mine)
            again.restore(one, {part: value.clone() for part, value in optimizer.state(mine).items()})
    for one, its in ((made, optimizer), (other, again)):
        torch.manual_seed(4)
        step(one, its)
    assert all(torch.equal(a, b) for a, b in zip(made.parameters(), other.parameters(), strict=True))
