"""What a model thinks of a given text: likelihood of a reference, distance of two models."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from actune.evaluate.systems import System
from actune.script.score import Part

# Logits held at once: 200 MB in float32.
_MOST_LOGITS = 50_000_000
_MOST_ROWS = 8


@dataclass(frozen=True)
class Text:
    """A prompt and what follows it, as token ids; `answer` is not empty."""

    prompt: list[int]
    answer: list[int]


def reference_parts(model: Any, texts: Sequence[Text], advance: Callable[[int], None]) -> list[Part]:
    """Measure how likely references are.

    Args:
        model: A causal language model.
        texts: Prompts and references, stop token included.
        advance: Told how many more are done.

    Returns:
        For each text the sum of -log p over the reference's tokens, in nats, and their number.
    """
    parts: dict[int, Part] = {}
    for batch in _batches(texts, model):
        for index, logits in zip(batch, _answer_logits(model, [texts[index] for index in batch]), strict=True):
            answer = texts[index].answer
            ids = torch.tensor(answer, device=logits.device)
            picked = torch.log_softmax(logits, -1).gather(1, ids[:, None])
            parts[index] = -float(picked.sum()), len(answer)
        advance(len(batch))
    return [parts[index] for index in range(len(texts))]


def divergence_parts(base: System, tuned: System, texts: Sequence[Text], advance: Callable[[int], None]) -> list[Part]:
    """Measure how far a tuned model is from its base on texts.

    Args:
        base: The base; it may be the tuned model with its adapter switched off.
        tuned: The tuned model.
        texts: Prompts and the base's answers.
        advance: Told how many more are done.

    Returns:
        For each text the sum over its answer's tokens of KL(base || tuned), in nats, and their number.
    """
    parts: dict[int, Part] = {}
    for batch in _batches(texts, base.actor.local.model):
        some = [texts[index] for index in batch]
        with base.on():
            before = _answer_logits(base.actor.local.model, some)
        with tuned.on():
            after = _answer_logits(tuned.actor.local.model, some)
        for index, ours, theirs in zip(batch, before, after, strict=True):
            p, q = torch.log_softmax(ours, -1), torch.log_softmax(theirs, -1)
            parts[index] = float((p.exp() * (p - q)).sum()), len(texts[index].answer)
        advance(len(batch))
    return [parts[index] for index in range(len(texts))]


def _batches(texts: Sequence[Text], model: Any) -> Iterator[list[int]]:
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


@torch.inference_mode()
def _answer_logits(model: Any, texts: Sequence[Text]) -> list[Tensor]:
    """Return the logits that predict each answer's tokens, float32 [answer length, vocabulary]."""
    whole = [[*text.prompt, *text.answer] for text in texts]
    longest, keep = max(map(len, whole)), max(len(text.answer) for text in texts) + 1
    # Padding is on the left, so that all answers end at the right edge; it is masked, and its id does not matter.
    ids = torch.tensor([[0] * (longest - len(each)) + each for each in whole], device=model.device)
    mask = torch.tensor([[0] * (longest - len(each)) + [1] * len(each) for each in whole], device=model.device)
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    output = model(input_ids=ids, attention_mask=mask, position_ids=positions, use_cache=False, logits_to_keep=keep)
    # The last position predicts what follows the answer.
    return [output.logits[row, -len(text.answer) - 1 : -1].float() for row, text in enumerate(texts)]
