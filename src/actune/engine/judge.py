"""Whether to act, and what to do: the decisions of one answer under `Acting`."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from actune.engine.slots import kept, seeded
from actune.engine.tree import Spelling, Tree, grow, path, score
from actune.script.acting import Acting, Choice, Trace
from actune.script.grammar import LESS, ROOT

if TYPE_CHECKING:
    from actune.engine.local import LocalEngine, Request

Look = Callable[[Tree], Tensor]
"""Reads a tree of continuations after what the row has read; logits [nodes, vocabulary]."""
Pick = Callable[[Tensor], int]
"""Chooses an index by logits, greedily or with the row's dice."""

# Names read in one pass: logits of a vocabulary of 262 144 take 1 MB a token. More names are read in several.
_TOGETHER = 32
# With longer lists the names are chosen token by token, for reading them all would take seconds.
SCORED = 128


class Blank(NamedTuple):
    """What the model would do without a question; it depends on the list alone.

    Args:
        odds: Log-odds of beginning the answer with a tag.
        scores: log p of each name after a tag's opening, nats.
    """

    odds: float
    scores: dict[str, float]


def read_blank(engine: LocalEngine, prompt: Sequence[int], names: tuple[str, ...]) -> Blank:
    """Read a prompt without a question, and the names after it."""
    logits, cache, _ = engine.read(list(prompt))
    openers = torch.from_numpy(engine.vocabulary.openers)
    inside = logits[openers].logsumexp(-1)
    outside = logits.index_fill(0, openers, -torch.inf).logsumexp(-1)
    spelled = _spell(engine, names)

    known, length = kept(cache), cache.get_seq_length()

    def look(tree: Tree) -> Tensor:
        return engine.branch(tree, seeded(known, length))

    values, _ = _scores(engine.speller.opening, list(spelled.values()), look)
    return Blank(float(inside - outside), dict(zip(spelled, values, strict=True)))


def judge(engine: LocalEngine, request: Request) -> Judge | None:
    """Make what decides for a request; None where there is nothing to decide, or the model cannot look ahead."""
    able = engine.joinable and engine.vocabulary.id_of(b"&") is not None
    wanted = request.acting is not None and not request.acting.neutral
    return Judge(engine, request) if able and wanted and request.names else None


class Judge:
    """Makes the decisions of one answer.

    Tags are written by it: when the model opens one, all names are scored, and the best is written out. (Of more than
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
        self._acting, self._vocabulary = acting, engine.vocabulary
        self._spelled = _spell(engine, names) if len(names) <= SCORED else {}
        self._blank: Blank | None = None
        if request.blank is not None and (acting.compares or request.trace is not None):
            self._blank = engine.blank(tuple(request.blank), tuple(self._spelled))
        self._openers = torch.from_numpy(engine.vocabulary.openers)
        self._crooked = torch.from_numpy(engine.vocabulary.crooked)
        self._ampersand = torch.tensor(engine.vocabulary.ids_of(engine.vocabulary.ampersand))
        second = engine.vocabulary.id_of(b"&")
        assert second is not None, "see `judge`"
        self._second = second
        self._forced: list[tuple[int, ...]] = []
        self._done: list[str] = []
        self._over = self._inside = False
        self._trace = Trace() if request.trace is None else request.trace
        self._trace.odds = 0.0 if self._blank is None else self._blank.odds

    def take(self, logits: Tensor, state: int, left: int, pick: Pick, look: Look) -> int:
        """Choose the next token.

        Args:
            logits: With what the grammar forbids masked, [vocabulary].
            state: Of the grammar.
            left: Tokens that may be written, this one included.
            pick: Chooses by logits.
            look: Reads what might follow.
        """
        if self._forced:
            only = self._forced.pop(0)
            return only[0] if len(only) == 1 else only[pick(logits[list(only)])]
        if state >= ROOT:
            self._inside = True
            return pick(logits)
        if self._inside:
            self._inside = False
            self._done.append("")
        # Tags are opened by `<&` and nothing more, so that the name is spelled as in training.
        logits = logits.index_fill(0, self._crooked, -torch.inf)
        if state == LESS:
            # The `<` before was found to be words.
            logits = logits.index_fill(0, self._ampersand, -torch.inf)
        again = bool(self._done)
        logits, margin = self._weigh(logits, again)
        token = pick(logits)
        if not self._opens(token):
            if not self._over:
                self._trace.passed[again] = max(self._trace.passed[again], margin)
            return token
        if not self._over:
            self._trace.opened[again] = min(self._trace.opened[again], margin)
        if self._wishes(token, left, pick, look):
            return token
        self._over = True
        return pick(logits.index_fill(0, self._openers, -torch.inf))

    @property
    def enough(self) -> bool:
        """Whether nothing more is asked of the answer."""
        return self._over and self._trace.brief

    def sure(self) -> list[int]:
        """Give the tokens of a planned tag up to its last, which depends on what the model has read by then."""
        sure = [only[0] for only in self._forced[:-1]]
        self._forced = self._forced[len(sure) :]
        return sure

    def _weigh(self, logits: Tensor, again: bool) -> tuple[Tensor, float]:
        """Shift the tokens that open a tag; return the margin before that too (see `Trace`)."""
        opening = logits[self._openers].max() if len(self._openers) else torch.tensor(-torch.inf)
        if self._over or opening == -torch.inf:
            return logits, -math.inf
        doubt = self._acting.contrast * self._blank.odds if self._blank is not None else 0.0
        rest = logits.index_fill(0, self._openers, -torch.inf).max()
        bias = self._acting.again if again else self._acting.bias
        shifted = logits.index_add(0, self._openers, torch.full((len(self._openers),), bias - doubt))
        return shifted, float(opening - rest)

    def _opens(self, token: int) -> bool:
        return self._vocabulary.words[token] != 0 and token not in self._vocabulary.stop_ids

    def _wishes(self, token: int, left: int, pick: Pick, look: Look) -> bool:
        """Look what a token that may open a tag leads to; plan the tag. False if the acting is over."""
        whole = (self._vocabulary.token_bytes[token] or b"").endswith(b"<&")
        rest = () if whole else (self._second,)
        opening = (token, *rest)
        room = left - len(opening) - 1
        fitting = {name: one for name, one in self._spelled.items() if len(one.tokens) <= room}
        full = self._acting.most is not None and len(self._done) >= self._acting.most
        if self._over or not fitting:
            # Without names to score (a long list) the grammar leads through the tag; but a `<` may be words.
            if not self._spelled and not self._over and not full:
                return True
            return not whole and not self._is_tag(look(path((token,)))[0])
        values, after = _scores(opening, list(fitting.values()), look)
        if not whole and not self._is_tag(after):
            return True
        names = tuple(fitting)
        blank = tuple(0.0 if self._blank is None else self._blank.scores[name] for name in names)
        totals = [value - self._acting.gamma * other for value, other in zip(values, blank, strict=True)]
        name = names[pick(torch.tensor(totals))]
        choice = Choice(names, tuple(values), blank, name)
        if self._acting.ends(choice, name, self._done):
            self._trace.choices.append(replace(choice, taken=None))
            return False
        self._trace.choices.append(choice)
        self._done.append(name)
        self._forced = [*((id,) for id in (*rest, *fitting[name].tokens)), fitting[name].closers]
        return True

    def _is_tag(self, logits: Tensor) -> bool:
        """Tell from what follows a `<` whether it begins a tag."""
        share = logits[self._ampersand].logsumexp(-1) - logits.logsumexp(-1)
        return float(share) > math.log(0.5)


def _spell(engine: LocalEngine, names: Sequence[str]) -> dict[str, Spelling]:
    spelled = {name: engine.speller.spell(name) for name in names}
    return {name: one for name, one in spelled.items() if one is not None}


def _scores(opening: Sequence[int], spellings: Sequence[Spelling], look: Look) -> tuple[list[float], Tensor]:
    """Score names after an opening; return too what follows the opening's first token, logits [vocabulary]."""
    values: list[float] = []
    after = torch.empty(0)
    for first in range(0, len(spellings), _TOGETHER):
        names = grow(opening, spellings[first : first + _TOGETHER])
        logits = look(names.tree)
        values += score(names, logits)
        after = logits[0]
    return values, after
