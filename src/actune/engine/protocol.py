"""What an engine is, whatever makes its tokens, and what is lost on one that can do less."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from actune.errors import either

if TYPE_CHECKING:
    from actune.engine.local import Request
    from actune.script.vocabulary import Vocabulary

Token = int | bytes
"""A token id of the engine's vocabulary; or a piece of text in UTF-8, from an engine that gives no ids."""


class EngineError(Exception):
    """The engine failed in the middle of an answer."""


@dataclass(frozen=True)
class End:
    """An answer has ended without a stop token: its budget is spent, or the engine failed."""

    error: Exception | None = None


@dataclass(frozen=True)
class Supports:
    """What an engine can do beyond writing.

    Args:
        constraint: It cannot write an unlisted action.
        closing: A tag that is open when the budget ends is closed.
        acting: It decides by `Request.acting`, and fills `Request.trace` and `Request.watch`.
    """

    constraint: bool = True
    closing: bool = True
    acting: bool = True

    def losses(self, tuned: bool) -> list[str]:
        """Say what is lost on this engine, in the user's words.

        Args:
            tuned: Whether the run's acting is not neutral, so that ignoring it changes something.
        """
        texts = {
            either("unlisted actions are possible: dropped and counted", "可能出现列表外的动作: 丢弃并计数"): (
                not self.constraint
            ),
            either("a tag cut off by the budget is dropped and counted", "被词元上限截断的标记: 丢弃并计数"): (
                not self.closing
            ),
            either(
                "the run's act threshold and calibrated choice are not applied", "不应用训练得到的动作阈值与校准选择"
            ): (tuned and not self.acting),
        }
        return [text for text, is_lost in texts.items() if is_lost]


class Batch(Protocol):
    """Answers that an engine writes together. Used by one thread only."""

    def add(self, request: Request) -> int:
        """Take a request in and return its ticket; its first token comes with one of the next steps."""

    def step(self) -> Sequence[tuple[int, Token | End]]:
        """Return (ticket, token) for each token that was made. An answer that has ended leaves by itself."""

    def drop(self, ticket: int) -> None:
        """Forget an answer, whether it is still here or not."""

    def __len__(self) -> int:
        """Answers that are not at their end."""


class Engine(Protocol):
    """Where tokens come from."""

    @property
    def tokenizer(self) -> Any:
        """The tokenizer that prompts are made with."""

    @property
    def vocabulary(self) -> Vocabulary:
        """The bytes of its tokens."""

    @property
    def stop_ids(self) -> Sequence[int]:
        """Every token that ends an answer."""

    @property
    def context(self) -> int | None:
        """Tokens that prompt and answer may have together; None if that is not known."""

    @property
    def supports(self) -> Supports:
        """What it can do."""

    def batch(self) -> Batch:
        """Start a batch: requests may join and leave between its steps."""

    def stream(self, request: Request) -> Iterator[Token]:
        """Yield tokens as they come; a stop id, when the model ends by itself, is the last.

        Raises:
            ArithmeticError: The model's logits are not numbers.
            EngineError: The engine failed in the middle of the answer.
            UserError: It could not begin.
        """

    def generate(self, requests: Sequence[Request], batch_size: int = 16) -> Sequence[Sequence[Token]]:
        """Answer many requests, in their order; raises as `stream` does."""


def generate(batch: Batch, requests: Sequence[Request], batch_size: int) -> list[list[Token]]:
    """Answer many requests through a fresh batch; where one is done, the next begins.

    Raises:
        Exception: What an answer ended with.
    """
    answers: list[list[Token]] = [[] for _ in requests]
    waiting = iter(requests)
    while True:
        # Tickets count from 0 in the order of joining, so a ticket is the request's index.
        while len(batch) < batch_size and (request := next(waiting, None)) is not None:
            batch.add(request)
        if not len(batch):
            return answers
        for ticket, token in batch.step():
            if not isinstance(token, End):
                answers[ticket].append(token)
            elif token.error is not None:
                raise token.error
