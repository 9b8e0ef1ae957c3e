"""The gate of an MLP computes what autograd does, by torch's kernels where there are some."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from transformers.activations import ACT2FN

from actune.tune.fast import gate

LENGTH, WIDTH = gate.ROWS + 5, 24


def through(act: Any) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """Output and both gradients, of the gate and of autograd."""
    draw = torch.Generator().manual_seed(0)
    sides = torch.randn(LENGTH, 2 * WIDTH, generator=draw).mul_(3).requires_grad_()
    grad, kind, out = torch.randn(LENGTH, WIDTH, generator=draw), gate.known(act), torch.empty(LENGTH, WIDTH)
    active = gate.forward(sides.detach(), act, kind, out)
    assert (active is None) == (kind is None)
    into = torch.empty(2, LENGTH, WIDTH).unbind()
    gate.backward(grad, sides.detach(), act, kind, active, into)
    wanted = act(sides[:, :WIDTH]) * sides[:, WIDTH:]
    wanted.backward(grad)
    return [out, *into], [wanted.detach(), *sides.grad.split(WIDTH, 1)]


@pytest.mark.parametrize("name", ["silu", "gelu", "gelu_pytorch_tanh", "gelu_new", "relu", "quick_gelu"])
def test_outputs_and_gradients_are_those_of_autograd(name: str) -> None:
    for got, wanted in zip(*through(ACT2FN[name]), strict=True):
        assert torch.allclose(got, wanted, rtol=1e-5, atol=1e-5)


def test_only_what_torch_has_kernels_for_is_known() -> None:
    names = ("silu", "gelu", "gelu_pytorch_tanh", "gelu_new", "relu", "quick_gelu", "relu2")
    assert [name for name in names if gate.known(ACT2FN[name])] == list(names[:4])
    assert gate.known(torch.nn.PReLU()) is None
