"""Something whose speed is measured: an actor on an engine, or transformers' own loop on the same weights."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass, replace
from typing import Any

import torch
from transformers.generation.streamers import BaseStreamer

from actune.actor import Actor
from actune.engine.local import Request
from actune.engine.prefix import PrefixStore
from actune.engine.upstream import Upstream

PREFIX_MB = 256


def clock() -> float:
    """Give seconds: of this process on the CPU where it has one thread, which others disturb less; else of the wall."""
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


@dataclass
class Contender:
    """Something that is measured.

    Args:
        name: What it is called in the table.
        actor: It.
        plain: Decode by transformers' `generate`, free, with no memory of earlier prompts.
    """

    name: str
    actor: Actor
    plain: bool = False

    def caching(self, on: bool) -> None:
        """Let prompts be remembered, from now on, or not."""
        engine = self.actor.engine
        if isinstance(engine, Upstream):
            engine.extra["cache_prompt"] = on
        else:
            self.actor.local.prefixes = PrefixStore(PREFIX_MB if on else 0)

    def first(self, request: Request) -> float:
        """Measure the time to the first token, in ms."""
        begun = clock()
        with closing(self._ticks(replace(request, max_tokens=1))) as ticks:
            came, _ = next(ticks)
        return (came - begun) * 1000

    def speed(self, request: Request) -> float:
        """Measure tokens a second, from the first to the last."""
        ticks = list(self._ticks(request))
        return (sum(count for _, count in ticks) - ticks[0][1]) / (ticks[-1][0] - ticks[0][0])

    def _ticks(self, request: Request) -> Generator[tuple[float, float]]:
        """Yield when tokens came, and how many."""
        if self.plain:
            yield from ((came, 1.0) for came in generated(self.actor.local.model, request))
            return
        text = b""
        came: list[float] = []
        for token in self.actor.engine.stream(request):
            if isinstance(token, bytes):
                text += token
                came.append(clock())
                yield came[-1], 0.0
            else:
                yield clock(), 1.0
        if came:
            # Pieces of text may hold several tokens: they are counted by the tokenizer at the end.
            count = len(self.actor.tokenizer(text.decode(), add_special_tokens=False)["input_ids"])
            yield came[-1], float(count)


class _Times(BaseStreamer):  # type: ignore[misc]
    """transformers' hook for what is told of each token."""

    def __init__(self) -> None:
        self.came: list[float] = []

    def put(self, value: Any) -> None:
        self.came.append(clock())

    def end(self) -> None:
        pass


@torch.inference_mode()
def generated(model: Any, request: Request) -> list[float]:
    """Let transformers' `generate` answer, greedily, to the full length.

    Args:
        model: A causal language model.
        request: Its prompt and `max_tokens` count.

    Returns:
        When each new token came, by `clock`.
    """
    ids, times, length = torch.tensor([request.prompt], device=model.device), _Times(), request.max_tokens
    model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=length,
        min_new_tokens=length,
        do_sample=False,
        pad_token_id=0,
        streamer=times,
    )
    return times.came[1:]  # the first tells the prompt
