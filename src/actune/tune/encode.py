"""A row becomes token ids and labels. Prompt and answer are tokenised apart, as they are in use."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from actune import prompt
from actune.data.rows import Row
from actune.prompt import PromptFormat

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

IGNORE = -100


@dataclass(frozen=True)
class Example:
    """An encoded row.

    Args:
        input_ids: Token ids of prompt and answer [length].
        labels: The same, with -100 on the prompt [length].
    """

    input_ids: list[int]
    labels: list[int]

    @property
    def trained(self) -> int:
        """Number of trained tokens."""
        return sum(label != IGNORE for label in self.labels)


def encode(row: Row, tokenizer: PreTrainedTokenizerBase, fmt: PromptFormat) -> Example:
    """Encode a row. Nothing is cut off, however long it is.

    Raises:
        UserError: The chat template refuses the row's turns.
    """
    before = prompt.render_ids(tokenizer, fmt, row.question, row.actions, row.history, row.system)
    answer = prompt.answer_ids(tokenizer, fmt, row.script)
    return Example([*before, *answer], [IGNORE] * len(before) + answer)
