"""Several processes that train together: which of them writes, what they must agree on, how they share the rows."""

from __future__ import annotations

import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any, TypeVar

from actune.errors import UserError, either

if TYPE_CHECKING:
    import torch

    from actune.tune.dataset import RowDataset
    from actune.tune.options import Settings

T = TypeVar("T")
# What accelerate's launcher sets, and what it is called.
SHARDED = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}


def processes() -> int:
    """Return how many processes train together; torchrun and accelerate launch tell."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def is_main() -> bool:
    """Tell whether this process is the one that speaks and writes."""
    return os.environ.get("RANK", "0") == "0"


def sharded() -> str | None:
    """Name what shares out the parts of a model among the processes; None where each holds the whole."""
    return next((kind for name, kind in SHARDED.items() if os.environ.get(name, "").lower() in ("true", "1")), None)


def refuse_sharded(device: torch.device) -> None:
    """Refuse to share out the parts of a model on a CPU.

    accelerate enters FSDP only where there is an accelerator, and waits for ever else.

    Args:
        device: Where the training would be.

    Raises:
        UserError: It was launched so.
    """
    kind = sharded()
    if kind is None or device.type != "cpu":
        return
    raise UserError(
        f"accelerate launch ({kind})",
        either("no GPU to train on", "没有可训练的 GPU"),
        either(f"GPUs: {kind} shares out a model among them", f"GPU: {kind} 把模型分到多个 GPU 上"),
        either(
            "on CPUs each process holds the whole model: torchrun --nproc_per_node N -m actune train ... --device cpu; "
            "if it is too large, actune plan shows what fits",
            "CPU 上每个进程持有整个模型: torchrun --nproc_per_node N -m actune train ... --device cpu; "
            "若模型太大, 用 actune plan 看哪些方式放得下",
        ),
    )


def join(device: torch.device) -> None:
    """Let the processes find each other; the Trainer takes the group over.

    Args:
        device: Where this one trains.
    """
    from accelerate import PartialState

    if processes() > 1:
        PartialState(cpu=device.type == "cpu")


def shared_out(settings: Settings, began: int) -> Settings:
    """Let as many rows be a step as when the run began, whatever the number of processes is now.

    Args:
        settings: The run's; what each process did at its start.
        began: Processes at its start.

    Returns:
        The settings with what each process does now: the largest batch that is no larger than it was.

    Raises:
        UserError: The rows of a step cannot be shared evenly.
    """
    now, rows = processes(), settings.batch_size * settings.grad_accum * began
    if now == began:
        return settings
    if rows % now:
        fitting = ", ".join(str(number) for number in range(1, rows + 1) if rows % number == 0)
        raise UserError(
            either("processes", "进程"),
            either(
                f"{now} processes; the run began with {began}, and {rows} rows a step",
                f"{now} 个进程; 训练开始时为 {began} 个, 每步 {rows} 行",
            ),
            either("a number that shares them evenly", "能整除每步行数的进程数"),
            either(f"go on with one of {fitting} processes", f"改用以下进程数之一: {fitting}"),
        )
    share = rows // now
    batch = next(size for size in range(min(settings.batch_size, share), 0, -1) if share % size == 0)
    return replace(settings, batch_size=batch, grad_accum=share // batch)


def from_main(value: T) -> T:
    """Return the main process's value in every process; what hangs on a clock or on rounding must not part them."""
    import torch.distributed as dist

    if processes() == 1:
        return value
    values: list[Any] = [value if is_main() else None]
    dist.broadcast_object_list(values, 0)
    result: T = values[0]
    return result


def any_of(value: bool) -> bool:
    """Tell whether it is true in one process at least."""
    import torch.distributed as dist

    if processes() == 1:
        return value
    values: list[Any] = [None] * processes()
    dist.all_gather_object(values, value)
    return any(values)


class Filled:
    """Rows, filled up with some that are not trained, so that every process has as many batches.

    accelerate would fill up with the first rows again, which would then count twice.

    Args:
        rows: The rows.
        multiple: Rows of a batch of all processes together.
    """

    def __init__(self, rows: RowDataset, multiple: int) -> None:
        self.rows, self.multiple = rows, multiple

    def set_epoch(self, epoch: int) -> None:
        """Turn to an epoch; accelerate's data loader calls this."""
        self.rows.set_epoch(epoch)

    def __len__(self) -> int:
        return -(-len(self.rows) // self.multiple) * self.multiple

    def __getitem__(self, place: int) -> dict[str, Any]:
        from actune.tune.encode import IGNORE

        if place < len(self.rows):
            return self.rows[place]
        first = self.rows[0]
        return {**first, "labels": [IGNORE] * len(first["labels"])}
