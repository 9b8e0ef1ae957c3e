"""A row by itself gets the same product as among others, by the quicker way, and training is left alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from actune.actor import load_actor
from actune.engine import one_row

SEED = 3


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("shape", [(1, 1), (1,), (2, 3)])
def test_product_is_as_near_to_the_truth_as_torch_s(bias: bool, shape: tuple[int, ...]) -> None:
    torch.manual_seed(SEED)
    module = torch.nn.Linear(96, 40, bias=bias).to(torch.bfloat16)
    rows = torch.randn(*shape, 96).to(torch.bfloat16)
    with torch.inference_mode():
        got, torch_s = one_row.product(module, rows), module(rows)
        truth = torch.nn.functional.linear(rows.double(), module.weight.double(), None)
        truth = truth if module.bias is None else truth + module.bias.double()
    assert got.shape == torch_s.shape
    assert (got - truth).abs().max() <= 1.5 * (torch_s - truth).abs().max() + 1e-6


def test_single_tokens_take_it_and_say_the_same(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    whole = torch.mv
    monkeypatch.setattr(torch, "mv", lambda *given: calls.append(1) or whole(*given))
    actor = load_actor(tiny_base, dtype="bf16")
    request = actor.request("饿了", ("tea-pour",), max_tokens=8)
    quick = actor.local.generate([request])
    assert calls
    for module in actor.local.model.modules():
        module.__dict__.pop("forward", None)
    calls.clear()
    assert actor.local.generate([request]) == quick
    assert not calls


def test_fp32_is_left_as_it_is(tiny_base: Path) -> None:
    actor = load_actor(tiny_base, dtype="fp32")
    assert not any("forward" in module.__dict__ for module in actor.local.model.modules())


def test_gradients_are_torch_s() -> None:
    module = torch.nn.Linear(8, 4).to(torch.bfloat16)
    one_row.quicken(module)
    module(torch.ones(1, 8, dtype=torch.bfloat16)).sum().backward()
    assert module.weight.grad is not None
