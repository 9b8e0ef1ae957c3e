"""What a training needs, and what this machine has."""

from __future__ import annotations

import ctypes
import platform
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import psutil
import torch

from actune.errors import UserError, either
from actune.tune.options import Settings
from actune.tune.rehearse import Step, rehearse

# Adam's two moments and the gradient are in fp32, as the adapter is.
FP32 = 4
# Context and libraries of a CUDA device.
DEVICE_BYTES = 600_000_000
# Imports and Python's own objects that come after the plan.
LATER_BYTES = 60_000_000
# Share of the free memory that a training may plan with before it computes layers twice.
SPARE = 0.6
# The share of a need that may be missing before a run is refused: the reckoning is right to 15 %.
SLACK = 0.85
# Of malloc.h.
M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3


@dataclass(frozen=True)
class Need:
    """Bytes that a training takes at its worst moment.

    Args:
        step: What the model and the largest batch take.
        runtime: Taken by the process before anything is loaded, or by the device's own libraries.
        begin: Taken before the first step, where that may be more: a base that is rounded is there twice.
    """

    step: Step
    runtime: int
    begin: int = 0

    @property
    def adapter(self) -> int:
        """The adapter and its gradient."""
        return 2 * FP32 * self.step.trained

    @property
    def optimiser(self) -> int:
        """Adam's moments."""
        return 2 * FP32 * self.step.trained

    @property
    def training(self) -> int:
        """All in all, at the worst moment of a step."""
        step = self.step
        return step.weights + self.adapter + self.optimiser + step.activations + step.logits + self.runtime

    @property
    def bytes(self) -> int:
        """All in all, before the first step or in one."""
        return max(self.training, self.begin + self.runtime)


def need(
    config: Any,
    batch: Mapping[str, torch.Tensor],
    settings: Settings,
    device: torch.device,
    dtype: torch.dtype,
    trust: bool = False,
) -> Need:
    """Reckon what a training needs, by a step without values.

    Args:
        config: The base's.
        batch: Its largest.
        settings: The run's; `checkpointing` tells whether layers are computed twice.
        device: Where it will train.
        dtype: Of the weights, or of what quantised weights compute in.
        trust: Run the base's own code.
    """
    step = rehearse(config, batch, settings, dtype, trust)
    own = psutil.Process().memory_info().rss + LATER_BYTES
    return Need(step, own if device.type == "cpu" else DEVICE_BYTES)


def free(device: torch.device) -> int:
    """Bytes that a training on this device can have; on the CPU those that the process has already count too."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return int(psutil.virtual_memory().available + psutil.Process().memory_info().rss)


def hold_freed() -> None:
    """Let the process keep the memory that it frees.

    glibc hands freed blocks of more than some megabytes back to the system and takes a page fault for each 4 KB when it
    gets them again: a step of SmolLM2 in bf16 takes 60 000 of them, an eighth of its time.
    """
    _malloc({M_TRIM_THRESHOLD: (1 << 31) - 1, M_MMAP_THRESHOLD: 1 << 30})


def give_back_freed() -> None:
    """Let the process hand what it frees back to the system: for quantised bases, in place of `hold_freed`.

    Their layers are unpacked one after the other, between blocks that stay for the backward pass. Kept by glibc, what
    was freed leaves gaps into which nothing fits: four rows of SmolLM2 took 4.3 GB at the peak of a step in NF4, and
    take 2.8 so, in a fifth more time.
    """
    _malloc({M_MMAP_THRESHOLD: 1 << 19})


def _malloc(options: Mapping[int, int]) -> None:
    if platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        for option, value in options.items():
            libc.mallopt(option, value)


def widened(model: Any) -> bool:
    """Bring a base that was trained in 16 bits to fp32, if there is room for it; tell whether it is in fp32 then.

    While its parts are widened one by one, both forms are there: layers that the fast path joined lie in one piece. A
    base that was trained in 16 bits because 32 have no room must not lose the run at its end.

    Args:
        model: On the CPU, or a device that computes in fp32 and has the machine's memory.
    """
    narrow = sum(value.numel() for value in model.parameters() if value.dtype != torch.float32)
    if narrow * FP32 > SLACK * psutil.virtual_memory().available:
        return False
    model.float()
    return True


def fits(found: Need, device: torch.device) -> bool:
    """Tell whether a training has a chance on this device."""
    return found.bytes * SLACK <= free(device)


def refuse_hopeless(found: Need, spared: Need, device: torch.device) -> None:
    """Stop a run that cannot end well, before anything is loaded.

    Args:
        found: What it needs.
        spared: What it needs if layers are computed twice, as it will by itself if it must.
        device: Where it would train.

    Raises:
        UserError: Even that is more than there is.
    """
    if fits(found, device) or fits(spared, device):
        return
    there = free(device)
    least, most = sorted((spared.bytes / 1e9, found.bytes / 1e9))
    raise UserError(
        either("memory", "内存"),
        either(
            f"{there / 1e9:.1f} GB free on {device}; this training takes {least:.1f} GB (layers computed once: "
            f"{most:.1f})",
            f"{device} 空闲 {there / 1e9:.1f} GB; 此训练需 {least:.1f} GB (不重算时 {most:.1f})",
        ),
        either("a training that fits", "放得下的训练"),
        either(
            "actune plan, with the same arguments, shows what fits here; often --batch-size 1, --dtype bf16, or "
            "--quantize 4bit",
            "用同样的参数运行 actune plan 看本机放得下什么; 常用 --batch-size 1, --dtype bf16 或 --quantize 4bit",
        ),
    )


def recomputes(once: Need, settings: Settings, fast: bool, device: torch.device) -> bool:
    """Tell whether a training computes layers twice: that costs a third more time, so memory must ask for it.

    Args:
        once: What it needs if it does not.
        settings: The run's. A recipe with `checkpointing` is obeyed where it was made: on other devices, and plain.
        fast: It goes the fast path.
        device: Where it trains.
    """
    recipe = settings.checkpointing and not (fast and device.type == "cpu")
    return recipe or once.training > SPARE * free(device)
