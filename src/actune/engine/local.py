"""Tokens from a transformers model on this machine: one batch loop serves a stream and a batch alike."""

from __future__ import annotations

import functools
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from transformers import DynamicCache

from actune.script.grammar import Grammar
from actune.script.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


@dataclass(frozen=True)
class Request:
    """One answer to write.

    Args:
        prompt: Token ids, from `prompt.render_ids`.
        names: The catalogue; None lifts the constraint, ``()`` allows no tag at all.
        max_tokens: Budget, stop token included.
        temperature: 0 is greedy.
        top_p: Share of the probability that sampling may choose from.
        seed: The same request gives the same text, whatever it is batched with.
    """

    prompt: list[int]
    names: tuple[str, ...] | None
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0


class LocalEngine:
    """Runs requests on a model.

    Args:
        model: A causal language model in eval mode, a `PeftModel` included.
        tokenizer: Its tokenizer.
        stop_ids: Every token that ends an answer.
    """

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stop_ids: Collection[int]) -> None:
        config = model.config.get_text_config()
        self.model, self.tokenizer, self.stop_ids = model, tokenizer, tuple(stop_ids)
        # Older architectures spell the limit differently (GPT-2: n_positions); some have none.
        limit = config.attribute_map.get("max_position_embeddings", "max_position_embeddings")
        self.context: int | None = config.to_dict().get(limit)
        self.vocabulary = Vocabulary.from_tokenizer(tokenizer, config.vocab_size, self.stop_ids)
        # A chat asks with the same catalogue again and again; its masks are worth keeping.
        self._grammar = functools.lru_cache(maxsize=64)(functools.partial(Grammar, self.vocabulary))

    def stream(self, request: Request) -> Iterator[int]:
        """Yield token ids as they come; a stop id, when the model writes one, is the last.

        Raises:
            ArithmeticError: The model's logits are not numbers.
        """
        for _, token in self._run([request]):
            yield token

    def generate(self, requests: Sequence[Request], batch_size: int = 16) -> list[list[int]]:
        """Answer many requests.

        Args:
            requests: They may differ in everything.
            batch_size: Rows that share a forward pass.

        Returns:
            For each request its token ids, a stop id included.

        Raises:
            ArithmeticError: The model's logits are not numbers.
        """
        answers: list[list[int]] = [[] for _ in requests]
        for first in range(0, len(requests), batch_size):
            for index, token in self._run(requests[first : first + batch_size]):
                answers[first + index].append(token)
        return answers

    def _run(self, requests: Sequence[Request]) -> Iterator[tuple[int, int]]:
        """The one batch loop: yield (index of the request, token id) as they come."""
        started = [_Row(index, request, self) for index, request in enumerate(requests)]
        rows = [row for row in started if row.left > 0]
        if not rows:
            return
        ids, mask = _pad_left([row.request.prompt for row in rows], self.model.device)
        # Padding gets position 0 and is masked: each row sees the positions it would see alone.
        positions = (mask.cumsum(1) - 1).clamp(min=0)
        cache = DynamicCache(config=self.model.config)
        while True:
            logits = self._forward(ids, mask, positions, cache)
            tokens = [row.choose(logits[place]) for place, row in enumerate(rows)]
            for row, token in zip(rows, tokens, strict=True):
                yield row.index, token
            going = [place for place, row in enumerate(rows) if row.left > 0]
            if not going:
                return
            keep = torch.tensor(going, device=mask.device)
            if len(going) < len(rows):
                cache.batch_select_indices(keep)
                rows = [rows[place] for place in going]
            ids = torch.tensor(tokens, device=mask.device)[keep, None]
            mask = torch.cat([mask[keep], mask.new_ones(len(rows), 1)], dim=1)
            positions = positions[keep, -1:] + 1

    # Not around the loop: a generator would leave the mode switched on in its reader's code.
    @torch.inference_mode()
    def _forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: DynamicCache) -> Tensor:
        """Return the last position's logits, float32 on the CPU [rows, vocabulary]."""
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return cast(Tensor, output.logits[:, -1].float().cpu())


class _Row:
    """What one request needs between two steps of the loop."""

    def __init__(self, index: int, request: Request, engine: LocalEngine) -> None:
        self.index, self.request, self._stop_ids = index, request, engine.stop_ids
        room = request.max_tokens if engine.context is None else engine.context - len(request.prompt)
        self.left = min(request.max_tokens, room)
        self._grammar = None if request.names is None else engine._grammar(request.names)
        self._state = 0 if self._grammar is None else self._grammar.start
        # A generator of its own: what else is in the batch cannot change what it draws.
        self._generator = torch.Generator().manual_seed(request.seed)

    def choose(self, logits: Tensor) -> int:
        """Take the next token from logits [vocabulary] and note what it changes."""
        if torch.isnan(logits).any():
            raise ArithmeticError("the model's logits are not numbers")
        if self._grammar is not None:
            # Shared with the grammar, not copied: it is only read here.
            allowed = torch.from_numpy(self._grammar.mask(self._state, self.left))
            logits = logits.masked_fill(~allowed, -torch.inf)
        token = int(logits.argmax()) if self.request.temperature <= 0 else self._sample(logits)
        self.left -= 1
        if token in self._stop_ids:
            self.left = 0
        elif self._grammar is not None:
            self._state = self._grammar.step(self._state, token)
        return token

    def _sample(self, logits: Tensor) -> int:
        # Double: the sum over a large vocabulary must not depend on how the sort broke ties.
        probabilities, order = torch.softmax(logits.double() / self.request.temperature, -1).sort(
            descending=True, stable=True
        )
        sums = probabilities.cumsum(-1)
        kept = int(((sums - probabilities < self.request.top_p) & (probabilities > 0)).sum())
        kept = max(kept, 1)
        point = torch.rand(1, generator=self._generator, dtype=torch.float64) * sums[kept - 1]
        place = min(int(torch.searchsorted(sums[:kept], point, right=True)), kept - 1)
        return int(order[place])


def _pad_left(prompts: list[list[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Return ids and attention mask, both [rows, longest prompt]; the padding's id does not matter."""
    longest = max(map(len, prompts))
    ids = [[0] * (longest - len(prompt)) + prompt for prompt in prompts]
    mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
    return torch.tensor(ids, device=device), torch.tensor(mask, device=device)
