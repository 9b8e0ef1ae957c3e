"""Tokens from a transformers model on this machine: one batch loop serves a stream and a batch alike."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor

from actune.engine.batch import Batch
from actune.engine.prefix import PrefixStore
from actune.engine.slots import joinable
from actune.script.grammar import Grammar
from actune.script.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from transformers.cache_utils import Cache


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
        watch: Is shown each constrained step's logits and which tokens are allowed, both [vocabulary]; reads only.
    """

    prompt: list[int]
    names: tuple[str, ...] | None
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    watch: Callable[[Tensor, Tensor], None] | None = None


class LocalEngine:
    """Runs requests on a model.

    Args:
        model: A causal language model in eval mode, a `PeftModel` included.
        tokenizer: Its tokenizer.
        stop_ids: Every token that ends an answer.
        prefix_mb: What keys and values of earlier prompts may take, in 10^6 bytes, so that prompts that begin alike
            (the same list again) answer sooner; 0 keeps none.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        stop_ids: Collection[int],
        prefix_mb: float = 256,
    ) -> None:
        config = model.config.get_text_config()
        self.model, self.tokenizer, self.stop_ids = model, tokenizer, tuple(stop_ids)
        # Older architectures spell the limit differently (GPT-2: n_positions); some have none.
        limit = config.attribute_map.get("max_position_embeddings", "max_position_embeddings")
        self.context: int | None = config.to_dict().get(limit)
        self.vocabulary = Vocabulary.from_tokenizer(tokenizer, config.vocab_size, self.stop_ids)
        self.joinable = joinable(model.config)
        """Whether rows share a forward pass; else (recurrent layers) a batch computes them one by one."""
        self.prefixes = PrefixStore(prefix_mb)
        # A chat asks with the same catalogue again and again; its masks are worth keeping.
        self.grammar = functools.lru_cache(maxsize=64)(functools.partial(Grammar, self.vocabulary))

    def batch(self) -> Batch:
        """Start a batch: requests may join and leave between its steps."""
        return Batch(self)

    def stream(self, request: Request) -> Iterator[int]:
        """Yield token ids as they come; a stop id, when the model writes one, is the last.

        Raises:
            ArithmeticError: The model's logits are not numbers.
        """
        batch = self.batch()
        batch.add(request)
        while len(batch):
            for _, token in batch.step():
                yield token

    def generate(self, requests: Sequence[Request], batch_size: int = 16) -> list[list[int]]:
        """Answer many requests.

        Args:
            requests: They may differ in everything. What their prompts have in common at the start is computed once,
                as far as the prefix store has room.
            batch_size: Rows under way at a time; where one is done, the next begins.

        Returns:
            For each request its token ids, a stop id included.

        Raises:
            ArithmeticError: The model's logits are not numbers.
        """
        answers: list[list[int]] = [[] for _ in requests]
        batch, waiting = self.batch(), iter(requests)
        while True:
            # Tickets count from 0 in the order of joining, so a ticket is the request's index.
            while len(batch) < batch_size and (request := next(waiting, None)) is not None:
                batch.add(request)
            if not len(batch):
                return answers
            for ticket, token in batch.step():
                answers[ticket].append(token)

    # Not around a loop: a generator would leave the mode switched on in its reader's code.
    @torch.inference_mode()
    def forward(self, ids: Tensor, mask: Tensor, positions: Tensor, cache: Cache) -> Tensor:
        """Let the model read tokens after those in the cache.

        Args:
            ids: [rows, tokens].
            mask: 1 where a row has a position, [rows, cached + tokens].
            positions: Of the tokens, [rows, tokens].
            cache: Keys and values; the tokens' own are added.

        Returns:
            Logits of the last position, float32 on the CPU [rows, vocabulary].
        """
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            position_ids=positions,
            past_key_values=cache,
            use_cache=True,
            logits_to_keep=1,
        )
        return cast(Tensor, output.logits[:, -1].float().cpu())
