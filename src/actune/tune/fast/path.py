"""The fast path: what it puts into a model, and how it computes a loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch

from actune.tune.fast import attention, head, linear
from actune.tune.fast.pack import pack


class FastPath:
    """A model's fast path.

    Args:
        model: The base with its adapter (peft).
        dropout: Of the adapter. While it drops, rows do not share their beginning: each draws its own.
        chunked: Leave the model's own head aside and compute loss and gradient by chunks of places.
    """

    def __init__(self, model: Any, *, dropout: float, chunked: bool) -> None:
        self.model, self.dropout, self.chunked = model, dropout, chunked
        self.head = model.get_output_embeddings()
        self.config = model.config.get_text_config()
        self.before = self.config._attn_implementation
        self.inside = False
        self.layers = [layer for layer in model.modules() if linear.can_fuse(layer)]

    def put_in(self) -> None:
        """Put the fast parts into the model. Whatever is computed without a pack stays what it was."""
        attention.register()
        self.config._attn_implementation, self.inside = attention.NAME, True
        for layer in self.layers:
            layer.forward = linear.fused(layer)

    def take_out(self) -> None:
        """Make the model what it was."""
        self.config._attn_implementation, self.inside = self.before, False
        for layer in self.layers:
            del layer.forward

    def loss(self, model: Any, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
        """Compute the loss of a batch as `trainer.summed_loss` does.

        Args:
            model: The model, perhaps wrapped for several processes.
            batch: As `dataset.collate` makes it.

        Raises:
            CannotPack: The architecture does not fit.
        """
        rows = pack(batch, share=not (self.dropout and self.model.training))
        with self._at(rows.kept) as seen:
            # A mask of four dimensions passes through transformers as it is; packed attention needs none.
            none = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=rows.input_ids.device)
            output = model(
                input_ids=rows.input_ids,
                position_ids=rows.position_ids,
                attention_mask=none,
                use_cache=False,
                pack=rows,
            )
        if self.chunked:
            total = head.summed_cross_entropy(seen[0], self.head.weight, self.head.bias, rows.targets)
        else:
            total = torch.nn.functional.cross_entropy(output.logits[0].float(), rows.targets, reduction="sum")
        return total, len(rows.targets)

    @contextmanager
    def _at(self, kept: torch.Tensor) -> Iterator[list[torch.Tensor]]:
        """Let the head see the trained places only; if chunked, let it only note them."""
        seen: list[torch.Tensor] = []

        def choose(_head: Any, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
            seen.append(args[0][0, kept])
            return (seen[0].unsqueeze(0),)

        handle = self.head.register_forward_pre_hook(choose)
        if self.chunked:
            self.head.forward = lambda hidden: hidden[..., :1]
        try:
            yield seen
        finally:
            handle.remove()
            if self.chunked:
                del self.head.forward

    def __enter__(self) -> FastPath:
        self.put_in()
        return self

    def __exit__(self, *_: object) -> None:
        self.take_out()
