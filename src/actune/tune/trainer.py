"""The Trainer of transformers with a few hooks: which logits are computed, what the loss is a mean of."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from transformers import PrinterCallback, Trainer, TrainerCallback, TrainingArguments

from actune.tune import guards, hold, several
from actune.tune.dataset import RowDataset, collate
from actune.tune.encode import IGNORE
from actune.tune.exam import Exam
from actune.tune.fast.head import from_logits
from actune.tune.fast.path import FastPath
from actune.tune.hold import Kept
from actune.tune.options import Settings, names_of
from actune.tune.resume import STAGING
from actune.tune.several import Filled


@contextmanager
def _head_at(head: torch.nn.Module, kept: tuple[torch.Tensor, ...]) -> Iterator[list[torch.Tensor]]:
    """Let the output head see only the positions in `kept`: rows [trained] and places [trained].

    Logits of a whole prompt are most of the memory and much of the time of a small base. A hook on the head serves
    every architecture, whatever it does before (norms) or after (scales, caps).

    Yields:
        A list of what the head saw [trained, hidden size]; empty until it was called.
    """
    seen: list[torch.Tensor] = []

    def choose(_head: torch.nn.Module, args: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
        seen.append(args[0][kept])
        return (seen[0].unsqueeze(0), *args[1:])

    handle = head.register_forward_pre_hook(choose)
    try:
        yield seen
    finally:
        handle.remove()


def summed_loss(model: Any, head: Any, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
    """Compute the loss of a batch, summed over its trained tokens.

    Args:
        model: Takes ``input_ids`` and ``attention_mask`` and returns logits.
        head: Its output head.
        batch: As `dataset.collate` makes it.

    Returns:
        Summed cross-entropy in nats (fp32) and the number of trained tokens, those of `hold.added` left out.
    """
    kept, targets = trained_at(batch["labels"])
    return loss_at(model, head, batch, kept, targets), len(targets) - hold.remembered(batch)


def trained_at(labels: torch.Tensor) -> tuple[tuple[torch.Tensor, ...], torch.Tensor]:
    """Find the positions whose next token is trained: (rows [trained], places [trained]), and those tokens."""
    # Position i predicts the token at i + 1.
    targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORE)
    kept = (targets != IGNORE).nonzero(as_tuple=True)
    return kept, targets[kept]


def loss_at(
    model: Any,
    head: Any,
    batch: Mapping[str, torch.Tensor],
    kept: tuple[torch.Tensor, ...],
    targets: torch.Tensor,
) -> torch.Tensor:
    """Compute the summed loss at positions that are known; asks no tensor for its values."""
    with _head_at(head, kept) as seen:
        logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False).logits
    chosen = logits[0] if seen else logits[kept]
    own = len(targets) - hold.remembered(batch)
    loss = from_logits(chosen[:own], targets[:own]).sum()
    if own < len(targets):
        again, asked = batch["replayed"], own + len(batch["replayed"])
        again_loss = from_logits(chosen[own:asked], again).sum()
        loss = loss + hold.drawn(again_loss, hold.forgotten(chosen[asked:], batch))
    return loss


class RowTrainer(Trainer):  # type: ignore[misc]
    """Train on rows.

    The loss of a step is the mean over the trained tokens of all its batches, the last short ones included. Order,
    augmentation and dropout are functions of seed and step alone.
    """

    def __init__(
        self, *, train: RowDataset, valid: RowDataset | None, fast: FastPath | None = None, **kwargs: Any
    ) -> None:
        multiple = kwargs["args"].per_device_train_batch_size * several.processes()
        filled, checked = (
            Filled(some, multiple) if some and several.processes() > 1 else some for some in (train, valid)
        )
        super().__init__(train_dataset=filled, eval_dataset=checked, data_collator=collate, **kwargs)
        self.rows = train.rows
        # Both make the Trainer count the tokens of a whole step and leave the scale of the loss to us.
        self.model_accepts_loss_kwargs = True
        self.loss_is_scaled_for_ga = True
        self.head = self.model.get_output_embeddings()
        self.fast = fast
        self.tokens = 0
        self.kept: Kept | None = None
        self.remembered = -1
        self.exam: Exam | None = None
        self.pop_callback(PrinterCallback)

    def summed_loss(self, model: Any, batch: Mapping[str, torch.Tensor]) -> tuple[torch.Tensor, int]:
        """Compute summed loss and number of trained tokens of a batch on the path of the run."""
        if self.fast and self.fast.inside:
            return self.fast.loss(model, batch)
        return summed_loss(model, self.head, batch)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, torch.Tensor],
        return_outputs: bool = False,
        num_items_in_batch: torch.Tensor | int | None = None,
    ) -> torch.Tensor:
        """Return the share of this batch in the mean loss of the step."""
        total, count = self.summed_loss(model, self._with_kept(inputs))
        rows = [self.rows[index] for index in inputs["rows"].tolist()]
        guards.check_loss(total.detach(), rows, self.state.global_step + 1)
        self.tokens += int(inputs["attention_mask"].sum())
        loss = total / (count if num_items_in_batch is None else num_items_in_batch)
        if num_items_in_batch is not None and self.args.average_tokens_across_devices:
            loss = loss * self.accelerator.num_processes  # The gradients of processes are averaged, not summed.
        return loss

    def _with_kept(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Add, to the first batch of a step, what the training is held to."""
        step = self.state.global_step
        if self.kept is None or step == self.remembered:
            return batch
        self.remembered = step
        share = slice(self.args.process_index, None, self.args.world_size)
        return hold.added(batch, self.kept, f"{self.args.seed}/{step}/0", share)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Count nothing: nobody reads it, and transformers goes through all parameters for it at each batch."""
        return 0

    def evaluate(
        self, eval_dataset: Any = None, ignore_keys: Any = None, metric_key_prefix: str = "eval"
    ) -> dict[str, float]:
        """Return and log the mean loss over all trained tokens of the validation rows, and how they are answered."""
        metrics = {f"{metric_key_prefix}_loss": self.validation_loss()}
        if self.exam is not None:
            answered = several.from_main(self.exam.ask())
            metrics |= {f"{metric_key_prefix}_{name}": value for name, value in answered.items()}
        self.log(metrics)
        self.callback_handler.on_evaluate(self.args, self.state, self.control, metrics)
        return metrics

    def validation_loss(self) -> float:
        """Return the mean loss over all trained tokens of the validation rows; the model is in eval mode then."""
        self.model.eval()
        sums = torch.zeros(2, device=self.args.device, dtype=torch.float32)
        with torch.no_grad():
            for batch in self.get_eval_dataloader():
                total, count = self.summed_loss(self.model, batch)
                sums += torch.stack([total, torch.tensor(float(count), device=total.device)])
        sums = self.accelerator.reduce(sums)
        return float(sums[0] / sums[1])


def make_trainer(
    model: Any,
    train: RowDataset,
    valid: RowDataset | None,
    settings: Settings,
    run: Path,
    every: int,
    callbacks: Sequence[TrainerCallback],
    fast: FastPath | None = None,
) -> RowTrainer:
    """Set the Trainer up.

    Args:
        model: The base with its adapter.
        train: Rows to train on.
        valid: Rows to validate on, or None.
        settings: The run's.
        run: The run's folder.
        every: Steps from one checkpoint, and one validation, to the next.
        callbacks: To add.
        fast: Its fast path, put in; None for the plain one.
    """
    arguments = TrainingArguments(
        # A checkpoint is written here and renamed into the run when it is whole.
        output_dir=str(run / STAGING),
        num_train_epochs=settings.epochs,
        learning_rate=settings.lr,
        warmup_steps=settings.warmup,
        lr_scheduler_type="linear",
        weight_decay=0.0,
        per_device_train_batch_size=settings.batch_size,
        per_device_eval_batch_size=settings.batch_size,
        gradient_accumulation_steps=settings.grad_accum,
        activation_checkpointing=settings.checkpointing,
        activation_checkpointing_kwargs={"use_reentrant": False} if settings.checkpointing else None,
        seed=settings.seed,
        logging_steps=1,
        logging_nan_inf_filter=False,
        eval_strategy="no" if valid is None else "steps",
        eval_steps=every,
        save_strategy="steps",
        save_steps=every,
        report_to=names_of(settings.loggers) or "none",
        disable_tqdm=True,
        remove_unused_columns=False,
        # The dataset itself knows the order of each epoch.
        train_sampling_strategy="sequential",
        use_cpu=model.device.type == "cpu",
        dataloader_pin_memory=model.device.type == "cuda",
        bf16=model.device.type == "cuda" and model.dtype == torch.bfloat16,
        fp16=model.device.type == "cuda" and model.dtype == torch.float16,
    )
    return RowTrainer(model=model, args=arguments, train=train, valid=valid, fast=fast, callbacks=list(callbacks))
