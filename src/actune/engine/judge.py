"""Whether to act, and what to do: the decisions of one answer under `Acting`."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol

import torch
from torch import Tensor

from actune.channel import UNNAMED
from actune.engine.compare import read_channel, spelled_by
from actune.engine.tree import Seen, Spelling, Tree, path, read_names
from actune.script.acting import Acting, Choice, Trace
from actune.script.grammar import LESS, ROOT

if TYPE_CHECKING:
    from actune.channel import Channel
    from actune.engine.local import LocalEngine, Request

Pick = Callable[[Tensor], int]
"""Chooses an index by logits, greedily or with the row's dice."""


class Ahead(Protocol):
    """What a row can see of what might follow."""

    def read(self, tree: Tree) -> Tensor:
        """Read a tree of continuations; logits [nodes, vocabulary]."""

    def keep(self, nodes: Sequence[int]) -> None:
        """Let these nodes of the tree that was read last be read for good."""


# With longer lists the names are chosen token by token, for reading them all would take seconds.
SCORED = 128
# Names of a long list after which the question is read.
ASKED_FOR = 8


def judge(engine: LocalEngine, request: Request) -> Judge | None:
    """Make what decides for a request; None where there is nothing to decide, or the model cannot look ahead."""
    able = engine.joinable and engine.vocabulary.id_of(b"&") is not None
    wanted = request.acting is not None and not request.acting.neutral
    return Judge(engine, request) if able and wanted and request.names else None


class Judge:
    """Makes the decisions of one answer.

    Tags are written by it: when the model opens one, all names are read and scored, and the best one's tokens are
    taken. (That is quicker than to write the tag token by token, if the list is not very long. Of more than
    `SCORED` names one is written token by token, and the acting does not end with the wish to repeat it.)

    Args:
        engine: Whose vocabulary holds.
        request: With `acting`, a catalogue, and `blank` if that is compared with.

    Raises:
        ValueError: `acting` compares with the prompt without a question, and there is none.
    """

    def __init__(self, engine: LocalEngine, request: Request) -> None:
        acting, names = request.acting or Acting(), request.names or ()
        if request.blank is None and acting.compares:
            raise ValueError("this acting compares with a prompt without a question: set Request.blank")
        self._engine, self._request = engine, request
        self._acting, self._vocabulary = acting, engine.vocabulary
        self._spelled = spelled_by(engine, names) if len(names) <= SCORED else {}
        self._openers = torch.from_numpy(engine.vocabulary.openers)
        self._crooked = torch.from_numpy(engine.vocabulary.crooked)
        self._ampersand = torch.tensor(engine.vocabulary.ids_of(engine.vocabulary.ampersand))
        second = engine.vocabulary.id_of(b"&")
        assert second is not None, "see `judge`"
        self._second = second
        self._done: list[str] = []
        self._begun = self._over = self._inside = False
        self._trace = Trace() if request.trace is None else request.trace

    @functools.cached_property
    def _blank(self) -> dict[str, float] | None:
        """What is compared with: read when it is first needed, for an answer may begin with words."""
        request = self._request
        if request.blank is None or not (self._acting.compares or request.trace is not None):
            return None
        return self._engine.blank(tuple(request.blank), tuple(self._spelled))

    def take(self, logits: Tensor, state: int, left: int, pick: Pick, ahead: Ahead) -> list[int]:
        """Choose the next token, or a whole tag.

        Args:
            logits: With what the grammar forbids masked, [vocabulary].
            state: Of the grammar.
            left: Tokens that may be written, this one included.
            pick: Chooses by logits.
            ahead: Reads what might follow; all but the last of the tokens returned are kept there.
        """
        if state >= ROOT:
            self._inside = True
            return [pick(logits)]
        if self._inside:
            self._inside = False
            self._done.append("")
        # Tags are opened by `<&` and nothing more, so that the name is spelled as in training.
        logits = logits.index_fill(0, self._crooked, -torch.inf)
        if not self._begun:
            self._begin(logits, ahead)
        if state == LESS and (self._spelled or self._over or len(self._done) == self._acting.most):
            # The `<` before was found to be words.
            logits = logits.index_fill(0, self._ampersand, -torch.inf)
        again = bool(self._done)
        logits, margin = self._weigh(logits, again)
        token = pick(logits)
        if not self._opens(token):
            if not self._over:
                self._trace.passed[again] = max(self._trace.passed[again], margin)
            return [token]
        if not self._over:
            self._trace.opened[again] = min(self._trace.opened[again], margin)
        tokens = self._open(token, left, pick, ahead)
        if tokens is not None:
            return tokens
        self._over = True
        return [pick(logits.index_fill(0, self._openers, -torch.inf))]

    @property
    def enough(self) -> bool:
        """Whether nothing more is asked of the answer."""
        return self._over and self._trace.brief

    def _weigh(self, logits: Tensor, again: bool) -> tuple[Tensor, float]:
        """Shift the tokens that open a tag; return the margin before that too (see `Trace`)."""
        margin = -math.inf if self._over else self._margin(logits)
        if margin == -math.inf:
            return logits, margin
        bias = self._acting.again if again else self._acting.bias
        return logits.index_add(0, self._openers, torch.full((len(self._openers),), bias)), margin

    def _margin(self, logits: Tensor) -> float:
        if not len(self._openers):
            return -math.inf
        return float(logits[self._openers].max() - logits.index_fill(0, self._openers, -torch.inf).max())

    def _begin(self, logits: Tensor, ahead: Ahead) -> None:
        """Decide whether the answer may have actions at all; of too long a list that cannot be told."""
        self._begun, traced = True, self._request.trace is not None
        if not self._spelled or not (traced or self._acting.gate is not None):
            return
        self._trace.start = self._margin(logits)
        if traced or self._acting.heard:
            self._trace.heard = self._hear(ahead)
        self._trace.shut = self._over = self._acting.shuts(self._trace)

    def _hear(self, ahead: Ahead) -> float:
        """Return what the question says of the actions (see `Trace.heard`)."""
        channel, names = self._request.channel, tuple(self._spelled)
        if channel is None or not channel.asked:
            return 0.0
        if len(names) > ASKED_FOR:
            seen = read_names(self._engine.speller.opening, list(self._spelled.values()), ahead.read)
            names = self._likely(names, seen.values)
        self._listen(channel, (*names, UNNAMED))
        return max(channel.told[name] for name in names) - channel.told[UNNAMED]

    def _opens(self, token: int) -> bool:
        return self._vocabulary.words[token] != 0 and token not in self._vocabulary.stop_ids

    def _open(self, token: int, left: int, pick: Pick, ahead: Ahead) -> list[int] | None:
        """Look what a token that may open a tag leads to: the tag, or words; None if the acting is over."""
        whole = (self._vocabulary.token_bytes[token] or b"").endswith(b"<&")
        opening = (token,) if whole else (token, self._second)
        room = left - len(opening) - 1
        fitting = {name: one for name, one in self._spelled.items() if len(one.tokens) <= room}
        if not self._spelled and not self._over and len(self._done) != self._acting.most:
            # A long list: the grammar leads through the tag.
            return [token]
        if self._over or not fitting:
            words = not whole and not self._is_tag(ahead.read(path((token,)))[0])
            return [token] if words else None
        seen = read_names(opening, list(fitting.values()), ahead.read)
        if not whole and not self._is_tag(seen.after):
            return [token]
        place = self._choose(tuple(fitting), seen.values, pick)
        return None if place is None else self._tag(opening, list(fitting.values())[place], place, seen, pick, ahead)

    def _choose(self, names: tuple[str, ...], values: list[float], pick: Pick) -> int | None:
        """Choose one of some names by their scores; None if the acting is over."""
        blank = tuple(0.0 if self._blank is None else self._blank[name] for name in names)
        choice = Choice(names, tuple(values), blank, self._told(names, values), None)
        place = pick(torch.tensor(choice.totals(self._acting.gamma, self._acting.channel)))
        choice = replace(choice, taken=names[place])
        if self._acting.ends(names[place], self._done):
            self._trace.choices.append(replace(choice, taken=None))
            return None
        self._trace.choices.append(choice)
        self._done.append(names[place])
        return place

    def _told(self, names: tuple[str, ...], values: Sequence[float]) -> tuple[float, ...]:
        """Return log p(question | name), nats, zeros if nothing asks for it.

        Of a long list only the likeliest are looked at: to read the question after each name takes time. The others
        count like the worst of those.
        """
        channel = self._request.channel
        if channel is None or not channel.asked or not (self._acting.channel or self._request.trace is not None):
            return (0.0,) * len(names)
        likely = self._likely(names, values)
        self._listen(channel, likely)
        least = min(channel.told[name] for name in likely)
        return tuple(channel.told[name] if name in likely else least for name in names)

    def _likely(self, names: tuple[str, ...], values: Sequence[float]) -> tuple[str, ...]:
        """Take the likeliest names: the same ones whatever the weights are, so that what is traced holds for all."""
        blank = self._blank or dict.fromkeys(names, 0.0)
        hopes = {name: value - 0.5 * blank[name] for name, value in zip(names, values, strict=True)}
        return tuple(sorted(names, key=lambda name: -hopes[name])[:ASKED_FOR])

    def _listen(self, channel: Channel, names: Sequence[str]) -> None:
        """Read the question after those of these names after which it was not read yet."""
        channel.told.update(read_channel(self._engine, channel, [name for name in names if name not in channel.told]))

    def _tag(
        self, opening: Sequence[int], name: Spelling, place: int, seen: Seen, pick: Pick, ahead: Ahead
    ) -> list[int]:
        """Give the tokens of a tag, of which all but the last have been read."""
        tokens = [*opening, *name.tokens]
        if place >= seen.first:
            end = seen.names.ends[place - seen.first][0]
            nodes, logits = seen.names.tree.above(end), seen.logits[end]
        else:
            # What was read of it is gone: other names were read after it.
            nodes, logits = list(range(len(tokens))), ahead.read(path(tokens))[-1]
        ahead.keep(nodes)
        return [*tokens, name.closers[pick(logits[list(name.closers)])]]

    def _is_tag(self, logits: Tensor) -> bool:
        """Tell from what follows a `<` whether it begins a tag."""
        share = logits[self._ampersand].logsumexp(-1) - logits.logsumexp(-1)
        return float(share) > math.log(0.5)
