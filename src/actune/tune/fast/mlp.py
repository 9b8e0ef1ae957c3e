"""A whole gated MLP as one step of autograd, where a module proves to be one."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch

from actune.tune.fast import gate, linear
from actune.tune.fast.blocks import back, back_filled, filled, layers


def gated_mlp(module: Any) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """Make a forward for down(act(gate(x)) * up(x)), or None if the module has other parts."""
    parts, act = layers(module, ("gate_proj", "up_proj", "down_proj")), module._modules.get("act_fn")
    if parts is None or act is None or len(module._modules) != 4:
        return None
    whole, both, down = module.forward, linear.Joined(parts[:2]), linear.Joined(parts[2:])
    kind = gate.known(act)

    def forward(x: torch.Tensor) -> torch.Tensor:
        if not linear.ready(parts):
            return whole(x)  # type: ignore[no-any-return]
        adapter = (*both.parameters(), *down.parameters())
        out: torch.Tensor = _Mlp.apply(x, both, down, act, kind, *adapter)  # type: ignore[no-untyped-call]
        return out

    return forward


class _Mlp(torch.autograd.Function):
    """down(act(gate) * up)."""

    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        both: linear.Joined,
        down: linear.Joined,
        act: Any,
        kind: gate.Known | None,
        *adapter: torch.Tensor,
    ) -> torch.Tensor:
        buffer = filled(x, both)
        sides, mask = both.forward(buffer)
        hidden = down.room(x, len(buffer))
        active = gate.forward(sides, act, kind, hidden[:, : down.width])
        out, more = down.forward(hidden)
        ctx.save_for_backward(buffer, sides, hidden, active, mask, more)
        ctx.both, ctx.down, ctx.act, ctx.kind, ctx.shape, ctx.dtype = both, down, act, kind, x.shape, x.dtype
        return out.view(x.shape)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        both, down = ctx.both, ctx.down
        buffer, sides, hidden, active, mask, more = ctx.saved_tensors
        d_hidden, last = down.backward(back_filled(grads[0], down), hidden, more, True)
        d_sides = both.back_room(len(buffer))
        into = d_sides[:, : both.height].tensor_split(2, 1)
        gate.backward(d_hidden, sides, ctx.act, ctx.kind, active, into)
        d_x, first = both.backward(d_sides, buffer, mask, ctx.needs_input_grad[0])
        return back(d_x, ctx), None, None, None, None, *first, *last
