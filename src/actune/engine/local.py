"""Tokens from a transformers model on this machine: one batch loop serves a stream and a batch alike."""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor
from transformers import DynamicCache

from actune.engine.batch import Batch
from actune.engine.compare import read_blank
from actune.engine.prefix import PrefixStore
from actune.engine.protocol import Supports, generate
from actune.engine.slots import joinable, kept, seeded, windows
from actune.engine.tree import Speller, Tree
from actune.script.acting import Acting, Trace
from actune.script.grammar import Grammar
from actune.script.vocabulary import Vocabulary

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase
    from transformers.cache_utils import Cache

    from actune.channel import Channel

# New tokens for which a prompt is kept beside the one that it begins like: a list is kept once, not with each question.
WORTH_KEEPING = 32


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
        acting: How it is decided to act, and how; None or neutral: as the model would, token by token.
        blank: The same prompt without a question (and history), which `acting` compares with; needed if it does.
        channel: The question after each name, which `acting` may weigh; needed if it does.
        trace: Filled with what the decisions hung on, if it is asked for.
        watch: Is shown each constrained step's logits and which tokens are allowed, both [vocabulary]; reads only.
        messages: The prompt's turns, for servers that render it themselves.
    """

    prompt: list[int]
    names: tuple[str, ...] | None
    max_tokens: int = 256
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    acting: Acting | None = None
    blank: list[int] | None = None
    channel: Channel | None = None
    trace: Trace | None = None
    watch: Callable[[Tensor, Tensor], None] | None = None
    messages: Sequence[Mapping[str, str]] = ()


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
        self.speller = Speller(tokenizer, self.vocabulary)
        self._windows = windows(model.config)
        # A chat asks with the same catalogue again and again; its masks are worth keeping, and what was read of it.
        self.grammar = functools.lru_cache(maxsize=64)(functools.partial(Grammar, self.vocabulary))
        self.blank = functools.lru_cache(maxsize=64)(functools.partial(read_blank, self))

    @property
    def supports(self) -> Supports:
        """Everything; but a model whose layers cannot be joined cannot look ahead either."""
        return Supports(acting=self.joinable)

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
        return cast(list[list[int]], generate(self.batch(), requests, batch_size))

    def read(self, prompt: list[int]) -> tuple[Tensor, Cache, int]:
        """Let the model read a prompt, as far as it is not known.

        Returns:
            Logits of its last position [vocabulary], its keys and values, and how many tokens were computed.
        """
        layers, known = self.prefixes.find(prompt) if self.joinable else ([], 0)
        ids = torch.tensor([prompt[known:]], device=self.model.device)
        positions = torch.arange(known, len(prompt), device=ids.device)[None]
        cache = seeded(layers, known) if self.joinable else DynamicCache(config=self.model.config)
        # One row alone has no padding: transformers can take its quickest way.
        logits = self.forward(ids, ids.new_ones(1, len(prompt)), positions, cache)[0]
        if self.joinable and (known == 0 or len(prompt) - known >= WORTH_KEEPING):
            self.prefixes.keep(prompt, kept(cache))
        return logits, cache, len(prompt) - known

    @torch.inference_mode()
    def branch(self, tree: Tree, cache: Cache) -> Tensor:
        """Let the model read a tree of continuations of one row.

        Args:
            tree: At least one token.
            cache: What the row has read; the tree's keys and values are added.

        Returns:
            Logits after each node, float32 on the CPU [nodes, vocabulary].
        """
        device, length = self.model.device, cache.get_seq_length()
        places = torch.tensor(tree.depths()) + length
        seen = torch.cat([torch.ones(len(places), length, dtype=torch.bool), tree.sees()], 1)
        before = torch.cat([torch.arange(length), places])

        def masked(window: int | None) -> Tensor:
            near = seen if window is None else seen & (places[:, None] - before < window)
            # Additive, which transformers' eager attention needs and its sdpa takes.
            least = torch.finfo(self.model.dtype).min
            return torch.zeros(near.shape, dtype=self.model.dtype).masked_fill(~near, least)[None, None].to(device)

        near_all = all(window is None or int(places.max()) < window for window in self._windows.values())
        # Models with several kinds of layers take a mask for each kind, by its name; others one.
        one = None if near_all else self._windows.get("")
        many = near_all or "" in self._windows
        mask = masked(one) if many else {kind: masked(window) for kind, window in self._windows.items()}
        output = self.model(
            input_ids=torch.tensor([tree.tokens], device=device),
            attention_mask=mask,
            position_ids=places[None].to(device),
            past_key_values=cache,
            use_cache=True,
        )
        return cast(Tensor, output.logits[0].float().cpu())

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
