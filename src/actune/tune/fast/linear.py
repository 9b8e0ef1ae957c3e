"""LoRA's linear layers over one input as one matrix: frozen weights get no gradient, nothing is computed twice.

y = x W' + s (x A') B' + b. The matrix holds [W, s B] above [A, 0]; input and small product x A' stand side by side, so
that one product of matrices gives y, in one sum that is rounded once. In bf16 a small delta that is added to a product
which is rounded already is lost: that is why stock bf16 LoRA learns less (loss 2.112 against 2.070 at the second step).
Backward is the same matrix the other way round: [dy, dy s B] times [W; A] is the gradient of x.

Layers that read the same input (queries, keys and values; gate and up) are one such matrix.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft.tuners.lora import Linear

from actune.tune.fast.dropout import kept, kept_mask

# Sides go up to a multiple of this: AMX takes 32 bf16 at a time, and a remainder costs a fifth of a product.
_WIDTH = 32


def can_fuse(layer: Any) -> bool:
    """Tell whether a layer is plain LoRA on a plain linear layer."""
    return (
        type(layer) is Linear
        and type(layer.base_layer) is torch.nn.Linear
        and len(layer.active_adapters) == 1
        and not layer.lora_variant
        and not layer.fan_in_fan_out
        and layer.lora_B[layer.active_adapters[0]].bias is None
        and type(layer.lora_dropout[layer.active_adapters[0]]) in (torch.nn.Dropout, torch.nn.Identity)
    )


def fused(layer: Any) -> Any:
    """Return a forward for a peft layer; it reads the adapter anew at each call."""
    whole, joined = layer.forward, Joined([layer])

    def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
        if args or kwargs or not ready([layer]):
            return whole(x, *args, **kwargs)  # type: ignore[no-any-return]
        return joined(x)

    return forward


class Once:
    """The layers of a `Joined` one by one, as modules of others call them: the first one computes all."""

    def __init__(self, joined: Joined) -> None:
        self.joined, self.x = joined, torch.empty(0)
        self.parts: list[torch.Tensor] = []

    def forwards(self) -> list[tuple[Any, Any]]:
        """Return the layers and a forward for each."""
        return [(layer, self._forward(index, layer.forward)) for index, layer in enumerate(self.joined.layers)]

    def _forward(self, index: int, whole: Any) -> Any:
        def forward(x: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            if args or kwargs or not ready(self.joined.layers):
                return whole(x, *args, **kwargs)  # type: ignore[no-any-return]
            if self.x is not x or not self.parts:
                sizes = [span.stop - span.start for span in self.joined.spans]
                self.x, self.parts = x, list(self.joined(x).split_with_sizes(sizes, -1))
            part = self.parts[index]
            if index == len(self.joined.layers) - 1:
                self.x, self.parts = torch.empty(0), []
            return part

        return forward


def ready(layers: Sequence[Any]) -> bool:
    """Tell whether layers compute with their adapters now: those can be switched off, merged or removed."""
    return all(
        type(layer) is torch.nn.Linear
        or (not layer.disable_adapters and not layer.merged and layer.active_adapters[0] in layer.lora_A)
        for layer in layers
    )


class Joined:
    """Layers over one input. Their frozen weights move into one matrix, of which each layer's weight is a view then.

    Args:
        layers: peft layers that `can_fuse`, or linear layers without an adapter.
    """

    def __init__(self, layers: Sequence[Any]) -> None:
        bases = [layer if type(layer) is torch.nn.Linear else layer.base_layer for layer in layers]
        weight = bases[0].weight
        self.layers, self.width, self.height = layers, bases[0].in_features, sum(base.out_features for base in bases)
        self.rank = sum(layer.r[layer.active_adapters[0]] for layer in layers if type(layer) is Linear)
        sides = (self.height + self.rank, self.width + self.rank)
        self.matrix = weight.new_zeros([-(-side // _WIDTH) * _WIDTH for side in sides])
        self.spans: list[slice] = []
        self.ranks: list[slice] = []
        at, place = 0, self.width
        for layer, base in zip(layers, bases, strict=True):
            self.spans.append(slice(at, at + base.out_features))
            self.matrix[self.spans[-1], : self.width] = base.weight.detach()
            base.weight.data = self.matrix[self.spans[-1], : self.width]
            more = 0 if type(layer) is torch.nn.Linear else layer.r[layer.active_adapters[0]]
            self.ranks.append(slice(place, place + more))
            at, place = at + base.out_features, place + more
        biases = [base.bias for base in bases]
        some = [weight.new_zeros(base.out_features) if base.bias is None else base.bias.detach() for base in bases]
        self.bias = None if all(bias is None for bias in biases) else torch.cat(some)

    def parameters(self) -> list[torch.nn.Parameter]:
        """Return A and B of each layer that has an adapter, as they are now."""
        tuned = [(layer, layer.active_adapters[0]) for layer in self.layers if type(layer) is Linear]
        return [part[name].weight for layer, name in tuned for part in (layer.lora_A, layer.lora_B)]

    def __call__(self, x: torch.Tensor) -> torch.Tensor:
        """Apply the layers: [..., in] to their outputs side by side [..., out]."""
        out: torch.Tensor = _Project.apply(x, self, *self.parameters())  # type: ignore[no-untyped-call]
        return out

    def room(self, x: torch.Tensor, length: int) -> torch.Tensor:
        """Make an input [length, columns] whose first `width` columns the caller fills; `forward` needs the rest."""
        buffer = torch.empty(length, self.matrix.shape[1], dtype=self.matrix.dtype, device=x.device)
        buffer[:, self.width + self.rank :] = 0
        return buffer

    def back_room(self, length: int) -> torch.Tensor:
        """Make a gradient [length, rows] whose first `height` columns the caller fills; `backward` needs the rest."""
        buffer = torch.empty(length, len(self.matrix), dtype=self.matrix.dtype, device=self.matrix.device)
        buffer[:, self.height + self.rank :] = 0
        return buffer

    def forward(self, buffer: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Compute the outputs from a filled `room`.

        Returns:
            Outputs side by side [length, height], and the mask of dropout [length, width] for `backward`: one for all
            layers over this input, as LoRA's authors have it (`MergedLinear` of github.com/microsoft/LoRA), where peft
            draws one for each.
        """
        self._fill()
        x, mask = buffer[:, : self.width], None
        if self.rank:
            dropout, a = self._dropout(), self.matrix[self.height : self.height + self.rank, : self.width]
            if dropout:
                mask = kept_mask(x.shape, dropout, x.device)
            thin = torch.mm(kept(x, mask), a.t(), out=buffer[:, self.width : self.width + self.rank])
            if mask is not None:
                thin.mul_(1 / (1 - dropout))  # what stays is scaled on the thin side
        out = torch.mm(buffer, self.matrix[: self.height].t())
        return out if self.bias is None else out.add_(self.bias), mask

    def _dropout(self) -> float:
        """Tell with what probability the adapter's input is dropped: peft has one number for all layers."""
        layer = next(layer for layer in self.layers if type(layer) is Linear)
        drop = layer.lora_dropout[layer.active_adapters[0]]
        return float(drop.p) if layer.training and type(drop) is torch.nn.Dropout else 0.0

    def _fill(self) -> None:
        """Bring the adapter's values up to date in the matrix."""
        # At each call: an adapter that is loaded does not always show in the version of its tensors.
        at = self.height
        for layer, span, ranks in zip(self.layers, self.spans, self.ranks, strict=True):
            if type(layer) is Linear:
                name = layer.active_adapters[0]
                self.matrix[at : at + ranks.stop - ranks.start, : self.width] = layer.lora_A[name].weight.detach()
                self.matrix[span, ranks] = layer.lora_B[name].weight.detach() * layer.scaling[name]
                at += ranks.stop - ranks.start

    def backward(
        self, grad: torch.Tensor, buffer: torch.Tensor, mask: torch.Tensor | None, wanted: bool
    ) -> tuple[torch.Tensor | None, list[torch.Tensor]]:
        """Compute gradients.

        Args:
            grad: A filled `back_room`.
            buffer: What `forward` took.
            mask: What `forward` gave.
            wanted: The gradient of the input is.

        Returns:
            That of the input [length, width], and those of `parameters`.
        """
        height, x = self.height, buffer[:, : self.width]
        inner, thin = buffer[:, self.width : self.width + self.rank], grad[:, height : height + self.rank]
        found: list[torch.Tensor] = []
        if self.rank:
            torch.mm(grad[:, :height], self.matrix[:height, self.width : self.width + self.rank], out=thin)
            if mask is not None:
                thin.mul_(1 / (1 - self._dropout()))
            found = self._of_adapter(thin.t() @ kept(x, mask), inner.t() @ grad[:, :height])
        if not wanted:
            return None, found
        if mask is None:
            return grad @ self.matrix[:, : self.width], found
        # In bf16 the small part goes in first, inside one sum; what is there already is as large as itself.
        more = kept(thin @ self.matrix[height : height + self.rank, : self.width], mask)
        return more.addmm_(grad[:, :height], self.matrix[:height, : self.width]), found

    def _of_adapter(self, d_a: torch.Tensor, d_b: torch.Tensor) -> list[torch.Tensor]:
        """Part gradients [rank, width] and [rank, height] of all layers into those of `parameters`."""
        found: list[torch.Tensor] = []
        for layer, span, ranks in zip(self.layers, self.spans, self.ranks, strict=True):
            if type(layer) is Linear:
                name, own = layer.active_adapters[0], slice(ranks.start - self.width, ranks.stop - self.width)
                a, b = layer.lora_A[name].weight, layer.lora_B[name].weight
                found += [d_a[own].to(a.dtype), (d_b[own, span].t() * layer.scaling[name]).to(b.dtype)]
        return found


class _Project(torch.autograd.Function):
    """`Joined` as a step of autograd."""

    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, joined: Joined, *adapter: torch.Tensor) -> torch.Tensor:
        buffer = joined.room(x, x.numel() // x.shape[-1])
        buffer[:, : joined.width] = x.reshape(-1, x.shape[-1])
        out, mask = joined.forward(buffer)
        ctx.save_for_backward(buffer, mask)
        ctx.joined, ctx.shape, ctx.dtype = joined, x.shape, x.dtype
        return out.view(*x.shape[:-1], -1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        buffer, mask = ctx.saved_tensors
        grad = ctx.joined.back_room(len(buffer))
        grad[:, : ctx.joined.height] = grads[0].reshape(len(buffer), -1)
        d_x, found = ctx.joined.backward(grad, buffer, mask, ctx.needs_input_grad[0])
        return None if d_x is None else d_x.view(ctx.shape).to(ctx.dtype), None, *found
