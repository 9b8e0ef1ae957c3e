"""Logits of given texts, for those that compare models rather than let them write."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

# Logits held at once: 200 MB in float32.
_MOST_LOGITS = 50_000_000
_MOST_ROWS = 8


@dataclass(frozen=True)
class Text:
    """A prompt and what follows it, as token ids; `answer` is not empty."""

    prompt: list[int]
    answer: list[int]


def batches(texts: Sequence[Text], model: Any) -> Iterator[list[int]]:
    """Put texts of like lengths together, within the bounds."""
    size = model.config.get_text_config().vocab_size
    order = sorted(range(len(texts)), key=lambda index: len(texts[index].prompt) + len(texts[index].answer))
    batch: list[int] = []
    longest = 0
    for index in order:
        longest = max(longest, len(texts[index].answer) + 1)
        if batch and (len(batch) == _MOST_ROWS or (len(batch) + 1) * longest * size > _MOST_LOGITS):
            yield batch
            batch, longest = [], len(texts[index].answer) + 1
        batch.append(index)
    if batch:
        yield batch


def answer_logits(model: Any, texts: Sequence[Text]) -> list[Tensor]:
    """Return the logits that predict each answer's tokens.

    Args:
        model: A causal language model.
        texts: Prompts and answers, computed as one batch.

    Returns:
        For each text a float32 tensor [answer length, vocabulary]; with gradients, unless they are switched off.
    """
    whole = [[*text.prompt, *text.answer] for text in texts]
    longest, keep = max(map(len, whole)), max(len(text.answer) for text in texts) + 1
    # Padding is on the left, so that all answers end at the right edge; it is masked, and its id does not matter.
    ids = torch.tensor([[0] * (longest - len(each)) + each for each in whole], device=model.device)
    mask = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in whole], device=model.device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    output = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=keep)
    # The last position predicts what follows the answer.
    return [output.logits[row, -len(text.answer) - 1 : -1].float() for row, text in enumerate(texts)]
