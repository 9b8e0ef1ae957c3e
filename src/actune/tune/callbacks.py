"""What happens beside the training loop: seeds, guards, log, checkpoints, progress, Ctrl-C."""

from __future__ import annotations

import random
import signal
import time
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from accelerate import PartialState
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from actune.errors import either
from actune.tune import guards, metrics, resume, several
from actune.tune.exam import Exam, one_line
from actune.tune.trainer import RowTrainer

SCALE_STEPS = 16


def _finite(model: Any) -> bool:
    grads = (parameter.grad for parameter in model.parameters() if parameter.grad is not None)
    return all(bool(torch.isfinite(grad).all()) for grad in grads)


class StepSeed(TrainerCallback):  # type: ignore[misc]
    """Seed dropout anew at each step: a resumed run draws what the undisturbed one draws, whatever ran between."""

    def on_step_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Seed by run, step and process."""
        text = f"{args.seed}/{state.global_step}/{args.process_index}"
        torch.manual_seed(random.Random(text).getrandbits(63))


class FirstStep(TrainerCallback):  # type: ignore[misc]
    """Check the gradients of the first step, also of a resumed run, before the optimizer uses them."""

    def __init__(self) -> None:
        self.done = False

    def on_pre_optimizer_step(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, *, model: Any, **_: Any
    ) -> None:
        """Stop the run if the adapter does not learn."""
        if self.done:
            return
        # In fp16 the first steps look for the scale of the loss: they overflow, and are skipped.
        if args.fp16 and state.global_step < SCALE_STEPS and not _finite(model):
            return
        guards.check_gradients(model.named_parameters())
        self.done = True


class RunFolder(TrainerCallback):  # type: ignore[misc]
    """Keep the logs and the checkpoints of the run folder.

    Args:
        run: The folder.
        exam: Where sample answers come from, if there are validation rows.
    """

    def __init__(self, run: Path, exam: Exam | None) -> None:
        self.run, self.exam = run, exam

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Add a line of training loss or of validation to the log."""
        if state.is_world_process_zero and logs and ("loss" in logs or "eval_loss" in logs):
            metrics.append(self.run, [{"step": state.global_step, **logs}])

    def on_evaluate(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Keep three answers; end the run when it has not become better for long."""
        if self.exam and state.is_world_process_zero:
            metrics.append(self.run, self.exam.samples(state.global_step), metrics.SAMPLES)
        if metrics.ended(state.log_history, state.max_steps):
            control.should_training_stop = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Give the finished checkpoint its name."""
        PartialState().wait_for_everyone()
        if state.is_world_process_zero:
            resume.publish(self.run, state.global_step, metrics.best(state.log_history).get("step"))


class Interrupt(TrainerCallback):  # type: ignore[misc]
    """Ctrl-C ends the run after the present step, with a checkpoint; a second one ends it at once."""

    def __init__(self) -> None:
        self.asked = False

    def __enter__(self) -> Interrupt:
        self._before = signal.signal(signal.SIGINT, self._ask)
        return self

    def __exit__(self, *_: object) -> None:
        signal.signal(signal.SIGINT, self._before)

    def _ask(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = True

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Ask the Trainer to save and stop."""
        if several.any_of(self.asked):
            self.asked = control.should_save = control.should_training_stop = True


class Bar(TrainerCallback):  # type: ignore[misc]
    """Show loss, tokens per second and the time left; lines instead of a bar where there is no terminal."""

    def __init__(self, console: Console, exam: Exam | None) -> None:
        self.console, self.exam = console, exam
        self.trainer: RowTrainer | None = None
        self.loss = self.valid = float("nan")
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[told]}"),
        )
        self.bar = Progress(*columns, TimeRemainingColumn(), console=console, disable=not console.is_terminal)

    def on_train_begin(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        """Begin at the step that is resumed."""
        self.begun, self.first = time.monotonic(), state.global_step
        self.task = self.bar.add_task(
            either("training", "训练"), total=state.max_steps, completed=state.global_step, told=""
        )
        if state.is_world_process_zero:
            self.bar.start()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        """Show the newest numbers."""
        logs = logs or {}
        self.loss, self.valid = logs.get("loss", self.loss), logs.get("eval_loss", self.valid)
        if not state.is_world_process_zero or not ("loss" in logs or "eval_loss" in logs):
            return
        seconds = time.monotonic() - self.begun
        speed = (self.trainer.tokens if self.trainer else 0) / max(seconds, 1e-9)
        told = either(f"loss {self.loss:.3f}", f"损失 {self.loss:.3f}")
        if self.valid == self.valid:
            told += either(f" (valid {self.valid:.3f})", f" (验证 {self.valid:.3f})")
        told += either(f" {speed:.0f} tokens/s", f" {speed:.0f} 词元/秒")
        self.bar.update(self.task, completed=state.global_step, told=told)
        tenth = max(1, state.max_steps // 10)
        if not self.console.is_terminal and "loss" in logs and state.global_step % tenth == 0:
            left = seconds / max(1, state.global_step - self.first) * (state.max_steps - state.global_step)
            eta = either(f"{left:.0f} s left", f"剩余 {left:.0f} 秒")
            self.console.print(f"{state.global_step}/{state.max_steps} {told}, {eta}", markup=False, highlight=False)

    def on_evaluate(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        metrics: dict[str, float],
        **_: Any,
    ) -> None:
        """Show how the validation rows were answered, and three of the answers."""
        if not self.exam:
            return
        f1, none = (metrics.get(f"eval_{name}") for name in ("f1", "none_right"))
        told = (
            [f"loss {metrics['eval_loss']:.3f}"] if f1 is None else [f"f1 {f1:.2f}", f"loss {metrics['eval_loss']:.3f}"]
        )
        if none is not None:
            told.append(either(f"silent where it should be {none:.2f}", f"该不动时不动 {none:.2f}"))
        lines = [
            either(f"step {state.global_step}, validation: ", f"第 {state.global_step} 步, 验证: ") + ", ".join(told),
            *map(one_line, self.exam.samples(state.global_step)),
        ]
        self.console.print("\n".join(lines), markup=False, highlight=False, soft_wrap=True)

    def close(self) -> None:
        """Give the terminal back."""
        self.bar.stop()
