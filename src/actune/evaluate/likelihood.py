"""What a model thinks of a given text: likelihood of a reference, distance of two models."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from actune.engine.logits import Text, answer_logits, batches
from actune.evaluate.systems import System
from actune.script.score import Part


@torch.inference_mode()
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
    for batch in batches(texts, model):
        for index, logits in zip(batch, answer_logits(model, [texts[index] for index in batch]), strict=True):
            answer = texts[index].answer
            ids = torch.tensor(answer, device=logits.device)
            picked = torch.log_softmax(logits, -1).gather(1, ids[:, None])
            parts[index] = -float(picked.sum()), len(answer)
        advance(len(batch))
    return [parts[index] for index in range(len(texts))]


@torch.inference_mode()
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
    for batch in batches(texts, base.actor.local.model):
        some = [texts[index] for index in batch]
        with base.on():
            before = answer_logits(base.actor.local.model, some)
        with tuned.on():
            after = answer_logits(tuned.actor.local.model, some)
        for index, ours, theirs in zip(batch, before, after, strict=True):
            p, q = torch.log_softmax(ours, -1), torch.log_softmax(theirs, -1)
            parts[index] = float((p.exp() * (p - q)).sum()), len(texts[index].answer)
        advance(len(batch))
    return [parts[index] for index in range(len(texts))]
