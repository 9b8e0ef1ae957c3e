"""The automaton: free text, in which every ``<&`` is followed by a listed name and ``&>``.

It works on bytes, never on token ids: ``<&`` is one token here, two there, and ``<<`` + ``&`` opens a tag too.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from actune.script.catalogue import CLOSE, catalogue
from actune.script.vocabulary import Vocabulary

Mask = npt.NDArray[np.bool_]

# States: in words, in words just after `<`, and the nodes of the names' trie. A closing `>` leads back to FREE.
FREE, LESS, ROOT = 0, 1, 2
_LT, _AMP = b"<&"
# A mask takes a byte a token (Gemma: 262 kB); a long-lived grammar must not keep one for each node of 2 000 names.
_KEPT_MASKS = 256


class Grammar:
    """Tell which tokens may come next. States are plain ints, so the rows of a batch share one grammar.

    Args:
        vocabulary: The tokenizer's vocabulary.
        names: The catalogue. Without names no tag can be opened at all.

    Raises:
        ValueError: A name is not allowed or stands twice.
    """

    def __init__(self, vocabulary: Vocabulary, names: Iterable[str]) -> None:
        self.vocabulary, self.names, self.start = vocabulary, catalogue(names), FREE
        self._next: list[dict[int, int]] = [{}, {}, {}]
        for name in self.names:
            self._add((name + CLOSE).encode())
        # With every byte of the names a token of its own, a tag closes in at most as many tokens as bytes are left,
        # which spares most searches for the shortest way.
        used = {byte for node in self._next for byte in node}
        self._spellable = used <= vocabulary.single_bytes
        self._bytes_left = self._measure()
        self._ways: dict[int, list[tuple[int, int]]] = {}
        self._costs: dict[int, float] = {FREE: 0, LESS: 0}
        self._worst: dict[int, float] = {}
        self._masks: dict[tuple[int, float], Mask] = {}
        self._targets: dict[int, dict[int, int]] = {}
        self._words = vocabulary.words

    def step(self, state: int, token_id: int) -> int:
        """Go on by one token; a stop id leads back to the start.

        Raises:
            ValueError: The token is forbidden in this state.
        """
        # What most tokens of an answer do is known beforehand; the bytes are read only where it is not.
        if state == FREE:
            if 0 <= token_id < len(self._words) and (target := self._words[token_id]) < ROOT:
                return target
        elif (targets := self._targets.get(state)) is not None and (known := targets.get(token_id)) is not None:
            return known
        return self._read(state, token_id)

    def _read(self, state: int, token_id: int) -> int:
        if token_id in self.vocabulary.stop_ids and not self.inside(state):
            return FREE
        data = self.vocabulary.token_bytes[token_id] if 0 <= token_id < self.vocabulary.size else None
        target = None if data is None else self._run(state, data)
        if target is None or not self._fits(target, math.inf):
            raise ValueError(f"token {token_id} ({data!r}) is forbidden in state {state}")
        return target

    def mask(self, state: int, budget: int | None = None) -> Mask:
        """Tell which tokens are allowed.

        Args:
            state: Where the answer stands.
            budget: Tokens that may still be written, this one included; None for no limit. No token is allowed after
                which an open tag could not be closed any more. If that is so already, only those on the shortest way.

        Returns:
            Bools, `[size]`, shared between calls: do not write to them. (Not locked, for torch warns of locked arrays.)
        """
        room = math.inf if budget is None else budget - 1
        if room >= self._need(state):
            room = math.inf
        elif self.inside(state):
            room = max(room, self._cost(state) - 1)
        found = self._masks.get((state, room))
        if found is None:
            if len(self._masks) >= _KEPT_MASKS:
                self._masks.clear()
                self._targets.clear()
            found = self._masks[state, room] = self._make_mask(state, room)
        return found

    def inside(self, state: int) -> bool:
        """Tell whether a tag is open."""
        return state >= ROOT

    def closing(self, state: int) -> list[int]:
        """Give the fewest token ids that close the open tag; none outside a tag.

        Raises:
            ValueError: No tokens of this vocabulary spell the rest of any name.
        """
        path = self._search(state)
        if path is None:
            raise ValueError(f"no tokens close the tag in state {state}")
        return [self.vocabulary.ids[key][0] for key, _ in path]

    def _add(self, data: bytes) -> None:
        node = ROOT
        for byte in data[:-1]:
            child = self._next[node].get(byte)
            if child is None:
                child = self._next[node][byte] = len(self._next)
                self._next.append({})
            node = child
        # No name holds `&>`, so no name + `&>` is the beginning of another: this edge is never taken twice.
        self._next[node][data[-1]] = FREE

    def _measure(self) -> list[float]:
        """Count the bytes to the nearest end, for each state. Children stand after their parents."""
        left: list[float] = [0, 0] + [math.inf] * (len(self._next) - ROOT)
        for node in range(len(self._next) - 1, ROOT - 1, -1):
            left[node] = 1 + min((left[child] for child in self._next[node].values()), default=math.inf)
        return left

    def _run(self, state: int, data: bytes) -> int | None:
        for byte in data:
            if state >= ROOT:
                target = self._next[state].get(byte)
                if target is None:
                    return None
                state = target
            elif byte == _LT:
                state = LESS
            else:
                state = ROOT if byte == _AMP and state == LESS else FREE
        return state

    def _moves(self, state: int) -> list[tuple[int, int]]:
        """List (key of the vocabulary, target state): inside a tag all, outside those that end inside one."""
        if state not in self._ways:
            if state >= ROOT:
                self._ways[state] = list(self._walk(state))
            else:
                risky = self.vocabulary.opening if state == FREE else self.vocabulary.ampersand
                ends = ((key, self._run(state, self.vocabulary.keys[key])) for key in risky)
                self._ways[state] = [(key, end) for key, end in ends if end is not None and end >= ROOT]
        return self._ways[state]

    def _walk(self, node: int) -> Iterator[tuple[int, int]]:
        """Go down the names' trie and the sorted vocabulary side by side."""
        keys = self.vocabulary.keys
        stack = [(node, b"", 0, len(keys))]
        while stack:
            at, prefix, low, high = stack.pop()
            for byte, child in self._next[at].items():
                longer = prefix + bytes((byte,))
                first = bisect_left(keys, longer, low, high)
                # UTF-8 has no byte 255, so byte + 1 is always one.
                last = bisect_left(keys, prefix + bytes((byte + 1,)), first, high)
                if first == last:
                    continue
                if child == FREE:
                    # The tag closes within the token, and the rest of it is words, maybe with a tag again.
                    for key in range(first, last):
                        if (end := self._run(FREE, keys[key][len(longer) :])) is not None:
                            yield key, end
                    continue
                if keys[first] == longer:
                    yield first, child
                stack.append((child, longer, first, last))

    def _make_mask(self, state: int, room: float) -> Mask:
        vocabulary = self.vocabulary
        if state >= ROOT:
            mask = np.zeros(vocabulary.size, dtype=np.bool_)
        else:
            mask = vocabulary.ordinary.copy()
            mask[list(vocabulary.stop_ids)] = True
            for key in vocabulary.opening if state == FREE else vocabulary.ampersand:
                end = self._run(state, vocabulary.keys[key])
                mask[list(vocabulary.ids[key])] = end is not None and end < ROOT
        moves = self._moves(state)
        for key, target in moves:
            if self._fits(target, room):
                mask[list(vocabulary.ids[key])] = True
        if state not in self._targets:
            # A mask is made before its state is left: the same walk tells where each of its tokens leads.
            fits = [(key, target) for key, target in moves if self._fits(target, math.inf)]
            self._targets[state] = {token: target for key, target in fits for token in vocabulary.ids[key]}
        return mask

    def _need(self, state: int) -> float:
        """Bound the tokens that may be needed after the next one: with that many, the budget does not matter."""
        if state not in self._worst:
            costs = (self._bytes_left[end] if self._spellable else self._cost(end) for _, end in self._moves(state))
            self._worst[state] = max((cost for cost in costs if cost < math.inf), default=0)
        return self._worst[state]

    def _fits(self, target: int, room: float) -> bool:
        if self._spellable and self._bytes_left[target] <= room:
            return self._bytes_left[target] < math.inf
        cost = self._cost(target)
        return cost <= room and cost < math.inf

    def _cost(self, state: int) -> float:
        """Count the fewest tokens that close the open tag; infinite if no tokens spell it."""
        if state not in self._costs:
            path = self._search(state)
            self._costs[state] = math.inf if path is None else len(path)
            for done, (_, target) in enumerate(path or (), start=1):
                self._costs[target] = len(path or ()) - done
        return self._costs[state]

    def _search(self, state: int) -> list[tuple[int, int]] | None:
        """Find the shortest way out of the tag, breadth first, as (key, state reached)."""
        came: dict[int, tuple[int, int]] = {}
        level, seen = [state], {state}
        if state < ROOT:
            return []
        while level:
            reached: list[int] = []
            for node in level:
                for key, target in self._moves(node):
                    if target in seen:
                        continue
                    seen.add(target)
                    came[target] = (key, node)
                    if target < ROOT:
                        return self._trace(came, state, target)
                    reached.append(target)
            level = reached
        return None

    @staticmethod
    def _trace(came: dict[int, tuple[int, int]], start: int, end: int) -> list[tuple[int, int]]:
        path: list[tuple[int, int]] = []
        while end != start:
            key, before = came[end]
            path.append((key, end))
            end = before
        return path[::-1]
