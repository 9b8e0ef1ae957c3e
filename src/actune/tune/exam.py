"""The validation rows answered by the model as it stands: what the best checkpoint is chosen by."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from actune import prompt
from actune.base.load import stop_ids
from actune.data.augment import used_actions
from actune.data.rows import Row
from actune.engine.local import LocalEngine, Request
from actune.engine.prefix import PrefixStore
from actune.errors import either
from actune.reader import Reader
from actune.script.acting import Acting
from actune.script.events import Act, Event, write
from actune.script.parser import parse
from actune.script.score import Outcome, measure
from actune.tune.dataset import RowDataset

# Bounds in rows and tokens, never in seconds: what is chosen must not depend on the machine.
MOST_ROWS, MOST_TOKENS = 32, 96
SHOWN = 3
# 10^6 bytes for the keys and values of prompts.
PREFIX_MB = 64
# A small model that has acted begins again, and its repeats would drown what it chose. Calibration, which comes at the
# end, nearly always forbids them; here nothing else is set.
ASKED = Acting(repeats=False)


@dataclass(frozen=True)
class Answer:
    """A row and what the model said to it."""

    row: Row
    events: tuple[Event, ...]

    @property
    def outcome(self) -> Outcome:
        """The form that scores are counted from."""
        reference = tuple(parse(self.row.script))
        wanted = tuple(event.name for event in reference if isinstance(event, Act))
        return Outcome(wanted, True, self.row.actions, self.events, reference)


def engine_for(model: Any, rows: RowDataset) -> LocalEngine:
    """Make an engine for a live model; what it keeps of prompts holds until the weights change."""
    ends = {*stop_ids(model, rows.tokenizer), prompt.stop_token(rows.tokenizer, rows.fmt)}
    return LocalEngine(model, rows.tokenizer, sorted(ends), prefix_mb=PREFIX_MB)


class Exam:
    """Asks a model the validation rows, greedily and under the constraint.

    Args:
        model: The live model with its adapter; it must be in evaluation mode when it is asked.
        valid: The rows. Of more than `MOST_ROWS`, so many are asked, spread evenly.
    """

    def __init__(self, model: Any, valid: RowDataset) -> None:
        self.engine = engine_for(model, valid)
        asked = min(MOST_ROWS, len(valid.rows))
        self.rows = [valid.rows[place * len(valid.rows) // asked] for place in range(asked)]
        examples = [valid.example(place * len(valid.rows) // asked) for place in range(asked)]
        self.requests = [
            Request(
                example.input_ids[: -example.trained],
                row.actions,
                # A good answer is about as long as the author's; one that rambles on is cut, and known by then.
                min(MOST_TOKENS, 16 + 2 * example.trained),
                acting=ASKED,
            )
            for row, example in zip(self.rows, examples, strict=True)
        ]
        self.answers: list[Answer] = []

    def ask(self) -> dict[str, float]:
        """Answer all rows; the answers are kept in `answers`. Draws no random numbers.

        Returns:
            Each score of `script.score.measure` that is defined for these rows.
        """
        self.answers = []
        # The weights are others than at the last exam; within one, prompts that begin alike are read once.
        self.engine.prefixes = PrefixStore(PREFIX_MB)
        for row, tokens in zip(self.rows, self.engine.generate(self.requests), strict=True):
            reader = Reader(self.engine.vocabulary.token_bytes, self.engine.stop_ids, row.actions, blank=False)
            events = [event for token in tokens for event in reader.feed(token)]
            self.answers.append(Answer(row, (*events, *reader.close())))
        self.engine.prefixes = PrefixStore(0)
        scores = measure([answer.outcome for answer in self.answers])
        return {name: value for name, value in scores.items() if value is not None}

    def samples(self, step: int) -> list[dict[str, Any]]:
        """Give a few of the answers, one of each kind of row (0, 1, 2 ... actions wanted) as far as they reach."""
        kinds: dict[int, list[Answer]] = {}
        for answer in self.answers:
            kinds.setdefault(len(used_actions(answer.row)), []).append(answer)
        turns = [kinds[kind][round_] for round_ in range(SHOWN) for kind in sorted(kinds) if round_ < len(kinds[kind])]
        return [
            {
                "step": step,
                "question": answer.row.question,
                "actions": list(answer.row.actions),
                "wanted": answer.row.script,
                "answer": write(answer.events),
            }
            for answer in turns[:SHOWN]
        ]


def one_line(sample: dict[str, Any], width: int = 160) -> str:
    """Write a sample as one line for the terminal."""
    question, answer = (" ".join(sample[key].split()) for key in ("question", "answer"))
    line = f"  {question} -> {answer or either('(nothing)', '(无)')}"
    return line if len(line) <= width else f"{line[: width - 3]}..."
