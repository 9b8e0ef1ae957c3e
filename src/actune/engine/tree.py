"""Names as a tree of tokens: all of them are read in one pass, what they begin with alike only once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from actune.script.catalogue import CLOSE, OPEN
from actune.script.grammar import ROOT, Grammar

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from actune.script.vocabulary import Vocabulary

# Names read in one pass: logits of a vocabulary of 262 144 take 1 MB a token. More names are read in several.
_TOGETHER = 32


@dataclass(frozen=True)
class Spelling:
    """How a name is written after ``<&``.

    Args:
        tokens: All but the last token of ``name&>``, as the tokenizer cuts it.
        closers: Tokens that may be the last one: it, and those that go on with words after it (``&>.``).
    """

    tokens: tuple[int, ...]
    closers: tuple[int, ...]


class Speller:
    """Spells names; what was spelled is kept.

    Args:
        tokenizer: Cuts the names.
        vocabulary: Knows the tokens' bytes.
    """

    def __init__(self, tokenizer: PreTrainedTokenizerBase, vocabulary: Vocabulary) -> None:
        self._tokenizer, self._vocabulary = tokenizer, vocabulary
        self.spell = lru_cache(maxsize=8192)(self._spell)
        self.opening = self._cut(OPEN)
        """The tokens of ``<&``."""

    def _cut(self, text: str) -> tuple[int, ...]:
        return tuple(self._tokenizer(text, add_special_tokens=False)["input_ids"])

    def _spell(self, name: str) -> Spelling | None:
        """Spell a name; None if no tokens do."""
        rest = (name + CLOSE).encode()
        tokens = self._after_opening(self._cut(OPEN + name + CLOSE), rest)
        if tokens is None:
            try:
                tokens = tuple(Grammar(self._vocabulary, (name,)).closing(ROOT))
            except ValueError:
                return None
        written = sum(len(self._vocabulary.token_bytes[token] or b"") for token in tokens[:-1])
        return Spelling(tokens[:-1], self._vocabulary.closers(rest[written:]))

    def _after_opening(self, tokens: tuple[int, ...], rest: bytes) -> tuple[int, ...] | None:
        """Return the tokens that spell exactly `rest`, at the end of these; None if a token runs across its start."""
        data = b""
        for place in reversed(range(len(tokens))):
            data = (self._vocabulary.token_bytes[tokens[place]] or b"") + data
            if data == rest:
                return tokens[place:]
        return None


@dataclass
class Tree:
    """Tokens, each after its parent; what a path from the root spells is a possible continuation."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    """Index of each token's parent; -1: it follows what was read before."""

    def add(self, path: Sequence[int], at: int = -1) -> int:
        """Add a path below a node, as far as it is new; return its last node."""
        for token in path:
            children = self._children.setdefault(at, {})
            if token not in children:
                children[token] = len(self.tokens)
                self.tokens.append(token)
                self.parents.append(at)
            at = children[token]
        return at

    def __post_init__(self) -> None:
        self._children: dict[int, dict[int, int]] = {}

    def above(self, node: int) -> list[int]:
        """List the nodes from the root to a node, itself included."""
        nodes = []
        while node >= 0:
            nodes.append(node)
            node = self.parents[node]
        return nodes[::-1]

    def depths(self) -> list[int]:
        """Count the nodes above each node."""
        depths: list[int] = []
        for parent in self.parents:
            depths.append(0 if parent < 0 else depths[parent] + 1)
        return depths

    def sees(self) -> Tensor:
        """Which nodes each node follows, itself included: bools [nodes, nodes]."""
        seen = torch.eye(len(self.tokens), dtype=torch.bool)
        for node, parent in enumerate(self.parents):
            if parent >= 0:
                seen[node] |= seen[parent]
        return seen

    def logs(self, logits: Tensor) -> list[float]:
        """Sum log-probabilities down to each node, nats; those of what follows the root count nothing.

        Args:
            logits: What follows each node, [nodes, vocabulary].
        """
        parents = torch.tensor(self.parents)
        edges = logits[parents, torch.tensor(self.tokens)] - logits.logsumexp(-1)[parents]
        sums = [0.0] * len(parents)
        for node, edge in enumerate(edges.tolist()):
            if (parent := self.parents[node]) >= 0:
                sums[node] = sums[parent] + edge
        return sums


def path(tokens: Sequence[int]) -> Tree:
    """Make a tree of one path."""
    tree = Tree()
    tree.add(tokens)
    return tree


@dataclass(frozen=True)
class Names:
    """A catalogue below an opening: the tree, and where each name ends in it.

    Args:
        tree: The opening first, then the names.
        root: The node after which the names begin.
        ends: For each name the node before its last token, and the tokens that may be the last.
    """

    tree: Tree
    root: int
    ends: tuple[tuple[int, tuple[int, ...]], ...]


def grow(opening: Sequence[int], spellings: Sequence[Spelling]) -> Names:
    """Put names under an opening of at least one token."""
    tree = Tree()
    root = tree.add(opening)
    return Names(tree, root, tuple((tree.add(one.tokens, root), one.closers) for one in spellings))


def score(names: Names, logits: Tensor) -> list[float]:
    """Sum the log-probabilities of each name's tokens.

    Args:
        names: The tree.
        logits: What follows each node, [nodes, vocabulary].

    Returns:
        log p(name + closing | opening) for each name, in nats.
    """
    totals, sums = logits.logsumexp(-1), names.tree.logs(logits)
    groups: dict[tuple[int, ...], list[int]] = {}
    for index, (_, closers) in enumerate(names.ends):
        groups.setdefault(closers, []).append(index)
    result = [0.0] * len(names.ends)
    for closers, members in groups.items():
        nodes = torch.tensor([names.ends[index][0] for index in members])
        last = logits[nodes][:, list(closers)].logsumexp(-1) - totals[nodes]
        for index, value in zip(members, last.tolist(), strict=True):
            result[index] = sums[names.ends[index][0]] - sums[names.root] + value
    return result


class Seen(NamedTuple):
    """What was read of some names after an opening.

    Args:
        values: log p of each.
        after: Logits after the opening's first token, [vocabulary].
        names: Those that were read last, and their logits [nodes, vocabulary].
        first: Index of the first of those.
    """

    values: list[float]
    after: Tensor
    names: Names
    logits: Tensor
    first: int


def read_names(opening: Sequence[int], spellings: Sequence[Spelling], look: Callable[[Tree], Tensor]) -> Seen:
    """Read names after an opening.

    Args:
        opening: Tokens, at least one.
        spellings: At least one name.
        look: Reads a tree of continuations; logits [nodes, vocabulary].
    """
    values: list[float] = []
    for first in range(0, len(spellings), _TOGETHER):
        names = grow(opening, spellings[first : first + _TOGETHER])
        logits = look(names.tree)
        values += score(names, logits)
    return Seen(values, logits[0], names, logits, first)
