"""The fast path: what it puts into a model, and how it computes a loss."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from typing import Any

import torch

from actune.base.rates import onednn_fp32
from actune.tune import hold
from actune.tune.fast import attention, blocks, head, linear, mlp, norm
from actune.tune.fast.pack import Pack, pack

# A twentieth of a step went into kernels for lengths that no step before had.
LENGTHS = 64


class FastPath:
    """A model's fast path.

    Args:
        model: The base with its adapter (peft).
        chunked: Leave the model's own head aside and compute loss and gradient by chunks of places.
        blocks: Replace whole blocks of the usual kind, not only their linear layers and norms.
        onednn: Send fp32 matrix products to oneDNN, where that was shown to keep fp32.
    """

    def __init__(self, model: Any, *, chunked: bool = True, blocks: bool = True, onednn: bool = False) -> None:
        self.model, self.chunked, self.blocks = model, chunked, blocks
        self.head = model.get_output_embeddings()
        self.config = model.config.get_text_config()
        self.before = self.config._attn_implementation
        self.onednn, self.inside, self.undo = onednn, False, ExitStack()
        # Where something drops, each row draws its own: then rows cannot share their beginning.
        self.drops = any(type(module) is torch.nn.Dropout and module.p for module in model.modules())
        self.replaced: list[Any] = []

    def put_in(self) -> None:
        """Put the fast parts into the model. Whatever is computed without a pack stays what it was.

        Raises:
            CannotPack: The architecture does not fit; the model is what it was.
        """
        try:
            self._put_in()
        except Exception:
            self.take_out()
            raise

    def _put_in(self) -> None:
        attention.register()
        self.config._attn_implementation, self.inside = attention.NAME, True
        if self.onednn:
            self.undo.enter_context(onednn_fp32())
        asked = self._heard()
        if self.blocks:
            for module, heard in asked.items():
                for part, forward in blocks.attention(module, heard):
                    self._replace(part, forward)
            for module in self.model.modules():
                self._replace(module, mlp.gated_mlp(module))
        # What stands in a replaced block is the block's.
        own = {id(part) for module in self.replaced for part in module.modules()}
        for module in self.model.modules():
            if id(module) not in own:
                self._replace(module, linear.fused(module) if linear.can_fuse(module) else norm.fused(module))

    def _replace(self, module: Any, forward: Any) -> None:
        if forward is not None:
            module.forward = forward
            self.replaced.append(module)

    def _heard(self) -> dict[Any, attention.Heard]:
        """Let four tokens pass as in training, to hear what each attention layer asks for."""
        heard: dict[Any, attention.Heard] = {}
        ids = torch.arange(4).unsqueeze(0)
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": ids}
        training = self.model.training
        with torch.no_grad():
            # The other fast parts, which take the wide sum, are not there yet.
            self._run(self.model.train(), pack(batch, share=False).to(self.model.device), wide=False, heard=heard)
        self.model.train(training)
        return heard

    def take_out(self) -> None:
        """Make the model what it was."""
        self.config._attn_implementation, self.inside = self.before, False
        self.undo.close()
        for module in self.replaced:
            del module.forward
        self.replaced.clear()

    def loss(self, model: Any, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
        """Compute the loss of a batch as `trainer.summed_loss` does.

        Args:
            model: The model, perhaps wrapped for several processes.
            batch: As `dataset.collate` makes it.

        Raises:
            CannotPack: The architecture does not fit.
        """
        rows = pack(batch, not (self.drops and self.model.training), self._multiple)
        return self.loss_of(model, rows, batch), len(rows.targets) - hold.remembered(batch)

    @property
    def _multiple(self) -> int:
        """What lengths are a multiple of. oneDNN, which multiplies bf16 on CPUs, builds a kernel for each new one."""
        return LENGTHS if self.model.dtype == torch.bfloat16 and self.model.device.type == "cpu" else 1

    def loss_of(self, model: Any, rows: Pack, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Compute the summed loss of rows that are packed; asks no tensor for its values."""
        with self._at(rows.kept) as seen:
            output = self._run(model, rows)
        return self._at_once(seen[0], rows, batch) if self.chunked else _by_logits(output.logits[0], rows, batch)

    def _at_once(self, hidden: torch.Tensor, rows: Pack, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Compute the loss at the trained places, in one walk over the vocabulary for all that is asked of it."""
        some, (own, asked) = (self.head.weight, self.head.bias), _parts(rows, batch)
        losses = head.cross_entropies(hidden, *some, rows.targets)
        if own == len(rows.targets):
            return losses.sum()
        # Of the remembered places, how much likelier than the target each word is, and the target itself.
        words = torch.cat([rows.targets[asked:, None], batch["memory_ids"]], 1)
        logits = head.logits_at(hidden[asked:], *some, words)
        ours = logits[:, 1:] - logits[:, :1] - losses[asked:, None]
        return losses[:own].sum() + hold.drawn(losses[own:asked].sum(), hold.apart(ours, batch))

    def _run(self, model: Any, rows: Pack, wide: bool = True, **more: Any) -> Any:
        # A mask of four dimensions passes through transformers as it is; packed attention needs none.
        none = torch.zeros(1, 1, 1, 1, dtype=torch.bool, device=rows.input_ids.device)
        ids, positions = rows.input_ids, rows.position_ids
        # The sum that runs through all layers stays in fp32: rounded to bf16 at each of them it costs 1e-2 of the loss.
        embedding = self.model.get_input_embeddings()
        hook = embedding.register_forward_hook(lambda _module, _args, out: out.float() if wide else out)
        try:
            return model(input_ids=ids, position_ids=positions, attention_mask=none, use_cache=False, pack=rows, **more)
        finally:
            hook.remove()

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


def _parts(rows: Pack, batch: Mapping[str, torch.Tensor]) -> tuple[int, int]:
    """Where, of the trained places, those of `hold.added` begin, and of these the remembered ones."""
    own = len(rows.targets) - hold.remembered(batch)
    return own, own + len(batch["replayed"]) if own < len(rows.targets) else own


def _by_logits(logits: torch.Tensor, rows: Pack, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Compute the loss from the model's own logits at the trained places [trained, vocabulary]."""
    own, asked = _parts(rows, batch)
    losses = head.from_logits(logits[:asked], rows.targets[:asked])
    if own == len(rows.targets):
        return losses.sum()
    return losses[:own].sum() + hold.drawn(losses[own:].sum(), hold.forgotten(logits[asked:], batch))
