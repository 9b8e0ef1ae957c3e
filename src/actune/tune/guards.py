"""Cheap assertions at the moments of truth. The field's worst faults end in a run that looks normal."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from actune import prompt
from actune.data.rows import Row
from actune.errors import UserError, either
from actune.prompt import PromptFormat
from actune.tune.encode import IGNORE, Example

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

MOST_SHOWN = 10
# The experts of a layer as modules of their own; stacked ones are a single weight.
_EXPERT = re.compile(r"\.experts\.\d+\.")
# Read back from the same numbers: only the order of sums may differ.
TOLERANCE = {torch.float32: 1e-4, torch.float16: 1e-2, torch.bfloat16: 5e-2}


def place(row: Row) -> str:
    """Say where a row stands."""
    sheet = f"[{row.sheet}]" if row.sheet else ""
    return f"{row.file}{sheet}:{row.line}"


def check_lengths(rows: Sequence[Row], examples: Sequence[Example], most: int, drop: bool) -> list[int]:
    """Find the rows that are too long.

    Returns:
        Indices of the rows to keep.

    Raises:
        UserError: Rows are too long and may not be dropped, or none would be left.
    """
    lengths = [len(example.input_ids) for example in examples]
    long = [index for index, length in enumerate(lengths) if length > most]
    if long and (not drop or len(long) == len(rows)):
        raise UserError(
            either(f"{len(long)} of {len(rows)} rows are too long", f"{len(rows)} 行中有 {len(long)} 行过长"),
            _list(f"{place(rows[index])}: {lengths[index]} tokens" for index in long),
            either(f"at most {most} tokens", f"至多 {most} 个词元"),
            either(
                "shorten them, raise --max-length, or give --drop-long", "缩短, 调高 --max-length, 或加 --drop-long"
            ),
        )
    return [index for index in range(len(rows)) if index not in set(long)]


def check_encoding(
    rows: Sequence[Row],
    examples: Sequence[Example],
    tokenizer: PreTrainedTokenizerBase,
    fmt: PromptFormat,
    ends: Collection[int],
) -> None:
    """Check what training reads, row by row.

    Args:
        rows: The rows as they were encoded.
        examples: Their encoded forms.
        tokenizer: The base's.
        fmt: The run's prompt format.
        ends: Token ids on which generation stops (``generation_config.eos_token_id``).

    Raises:
        UserError: Any row has no trained token, does not begin with the prompt of use, begins with two BOS tokens
            or does not end with a trained stop token.
    """
    problems = []
    for row, example in zip(rows, examples, strict=True):
        problems += [f"{place(row)}: {text}" for text in _row_problems(row, example, tokenizer, fmt, ends)]
    if problems:
        raise UserError(
            either(f"{len(problems)} rows are encoded wrongly", f"{len(problems)} 行编码有误"),
            _list(problems),
            either(
                "rows that begin with the prompt of use and end with a trained stop token",
                "以使用时的提示开头, 以被训练的结束词元结尾",
            ),
            either(
                "try another --chat-template; the stop token must be in eos_token_id of the base's "
                "generation_config.json",
                "换一个 --chat-template; 结束词元须在基座 generation_config.json 的 eos_token_id 中",
            ),
        )


def _row_problems(
    row: Row, example: Example, tokenizer: PreTrainedTokenizerBase, fmt: PromptFormat, ends: Collection[int]
) -> list[str]:
    ids, labels, problems = example.input_ids, example.labels, []
    if example.trained == 0:
        problems.append(either("no trained token", "没有被训练的词元"))
    before = prompt.render_ids(tokenizer, fmt, row.question, row.actions, row.history, row.system)
    if ids[: len(before)] != before or any(label != IGNORE for label in labels[: len(before)]):
        problems.append(either("the prompt is not the prompt of use", "提示与使用时的提示不同"))
    if len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id:
        problems.append(either("two BOS tokens at the start", "开头有两个 BOS"))
    if labels[-1] == IGNORE or labels[-1] not in ends:
        last = tokenizer.convert_ids_to_tokens(ids[-1])
        problems.append(
            either(f"the last trained token is no stop token: {last!r}", f"最后被训练的词元不是结束词元: {last!r}")
        )
    return problems


def check_batch(batch: Mapping[str, torch.Tensor], examples: Sequence[Example]) -> None:
    """Check that a batch trains exactly what its rows train, stop tokens included, and that padding is masked.

    Raises:
        UserError: It does not.
    """
    wanted = sum(example.trained for example in examples)
    got = int((batch["labels"] != IGNORE).sum())
    masked = int(batch["attention_mask"].sum()) == sum(len(example.input_ids) for example in examples)
    if got != wanted or not masked:
        raise UserError(
            either("padding", "填充"),
            either(f"{got} trained tokens in a batch", f"一批中有 {got} 个被训练的词元"),
            either(f"{wanted}, and padding masked by length", f"{wanted}, 并按长度屏蔽填充"),
            either("this is a fault of actune: report it", "这是 actune 的错误: 请报告"),
        )


def check_loss(loss: torch.Tensor, rows: Iterable[Row], step: int) -> None:
    """Check that the loss is finite.

    Raises:
        UserError: It is not; the rows of the batch are named.
    """
    if not torch.isfinite(loss):
        raise UserError(
            either(f"step {step}: the loss is {loss.item()}", f"第 {step} 步: 损失为 {loss.item()}"),
            _list(place(row) for row in rows),
            either("a finite loss", "有限的损失"),
            either("lower --lr, or compute in --dtype fp32", "调低 --lr, 或使用 --dtype fp32"),
        )


def check_gradients(parameters: Iterable[tuple[str, torch.nn.Parameter]]) -> None:
    """Check the gradients of the first step, summed over all its batches.

    Every ``lora_B`` must have a finite one that is not zero: the adapter starts with B = 0, so B is what the first
    step moves. Of the experts of a layer one is enough: no token may have reached the others. No weight of the base
    may have one.

    Raises:
        UserError: A part of the adapter does not learn, or the base does.
    """
    problems = []
    moved: dict[str, bool] = {}
    for name, parameter in parameters:
        grad = parameter.grad
        if "lora_" not in name:
            if grad is not None:
                problems.append(either(f"{name}: a base weight has a gradient", f"{name}: 基座权重有梯度"))
            continue
        if grad is not None and not torch.isfinite(grad).all():
            problems.append(either(f"{name}: the gradient is not finite", f"{name}: 梯度不是有限值"))
        elif "lora_B" in name:
            kin = _EXPERT.sub(".experts.*.", name)
            moved[kin] = moved.get(kin, False) or (grad is not None and bool(grad.any()))
    problems += [
        either(f"{name}: no gradient", f"{name}: 没有梯度") for name, is_moved in moved.items() if not is_moved
    ]
    if problems:
        raise UserError(
            either("step 1: the adapter does not learn as it must", "第 1 步: 适配器没有正常学习"),
            _list(problems),
            either("a finite gradient in every lora_B and in no base weight", "每个 lora_B 有有限梯度, 基座权重没有"),
            either("try other --targets or --dtype fp32", "更换 --targets 或使用 --dtype fp32"),
        )


def check_saved(model: Any, folder: Path, batch: Mapping[str, torch.Tensor]) -> None:
    """Read the saved adapter back beside the live one and compare the logits of a batch.

    Args:
        model: The tuned `PeftModel`; it comes back as it was, in evaluation mode.
        folder: Where the adapter was saved.
        batch: ``input_ids`` and ``attention_mask`` [batch, length].

    Raises:
        UserError: The logits differ by more than rounding.
    """
    live, back = model.active_adapter, "read-back"
    model.eval()
    inputs = {key: batch[key].to(model.device) for key in ("input_ids", "attention_mask")}
    with torch.no_grad():
        wanted = model(**inputs).logits.float()
        model.load_adapter(str(folder), back, torch_device=str(model.device))
        try:
            model.set_adapter(back)
            got = model(**inputs).logits.float()
        finally:
            model.set_adapter(live)
            model.delete_adapter(back)
    apart = float((got - wanted).abs().max())
    tolerance = TOLERANCE[model.dtype] * max(1.0, float(wanted.abs().max()))
    if not apart <= tolerance:
        raise UserError(
            str(folder),
            either(f"the adapter read back is {apart:.2g} apart in logits", f"读回的适配器 logits 相差 {apart:.2g}"),
            f"<= {tolerance:.2g}",
            either("check the disk, then train on with --resume", "检查磁盘, 然后用 --resume 继续"),
        )


def check_best(got: float, wanted: float, folder: Path, dtype: torch.dtype) -> None:
    """Check that the adapter read from the best checkpoint is the one that was measured there.

    Args:
        got: Its loss on the validation rows now.
        wanted: The loss in the log.
        folder: The checkpoint.
        dtype: Of the base's weights.

    Raises:
        UserError: The losses differ by more than rounding.
    """
    if not abs(got - wanted) <= TOLERANCE[dtype] * max(1.0, abs(wanted)):
        raise UserError(
            str(folder),
            either(f"validation loss {got:.5f}", f"验证损失 {got:.5f}"),
            either(f"{wanted:.5f}, as measured in training", f"{wanted:.5f}, 与训练时相同"),
            either("check the disk, then train anew with another --out", "检查磁盘, 换一个 --out 重新训练"),
        )


def _list(lines: Iterable[str]) -> str:
    shown = list(lines)
    more = len(shown) - MOST_SHOWN
    if more > 0:
        shown = [*shown[:MOST_SHOWN], either(f"... and {more} more", f"... 另有 {more} 项")]
    return "".join(f"\n    {line}" for line in shown)
