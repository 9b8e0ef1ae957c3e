"""What a training is held to beside its rows, at every step.

The base's own answers: the tuned model is asked some of them again, and its distance from the base, KL(base || tuned),
is part of what is minimised (Li and Hoiem, "Learning without Forgetting", arXiv:1606.09282, with the base's greedy
answers in place of data). Rows of the practice that it started from: sixty rows of a user otherwise undo much of it.
And questions after the actions that they want, which `actune.channel` asks for when an action is chosen.
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch.nn.functional import pad

from actune.channel import asked_ids, before_ids
from actune.data.augment import used_actions
from actune.data.rows import Row
from actune.prompt_format import language_of
from actune.tune.dataset import RowDataset
from actune.tune.encode import IGNORE
from actune.tune.remember import KEPT, Memory

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# Answers asked again at a step, and what their distance in nats weighs beside the loss of the rows.
EACH, WEIGHT = 4, 2.0
# Rows of the practice trained at a step, and questions after their actions.
REPLAYED, TOLD = 4, 8
LEAST = 1e-6


class Told:
    """Each question after each action that it wants, encoded when asked for.

    Args:
        rows: Where they are from; a question that hangs on earlier turns is left out.
        tokenizer: The base's.
    """

    def __init__(self, rows: Sequence[Row], tokenizer: PreTrainedTokenizerBase) -> None:
        self._pairs = [(row, name) for row in rows if not row.history for name in used_actions(row)]
        self._tokenizer = tokenizer

    def __len__(self) -> int:
        return len(self._pairs)

    def __getitem__(self, place: int) -> dict[str, list[int]]:
        row, name = self._pairs[place]
        before = before_ids(self._tokenizer, name, language_of([row.question]))
        asked = asked_ids(self._tokenizer, row.question)
        return {"input_ids": [*before, *asked], "labels": [IGNORE] * len(before) + asked}


@dataclass(frozen=True)
class Kept:
    """What a training is held to.

    Args:
        answers: Of the base.
        rows: Of the practice that the training starts from; empty without one.
        told: Questions of all these and the training's own rows, after their actions.
    """

    answers: Sequence[Memory]
    rows: RowDataset
    told: Told


def added(batch: dict[str, torch.Tensor], kept: Kept, draw: str, share: slice = slice(None)) -> dict[str, torch.Tensor]:
    """Put rows of the practice, questions after their actions and answers of the base under a batch: one pass for all.

    Args:
        batch: As `dataset.collate` makes it.
        kept: What the training is held to.
        draw: Text that decides which `REPLAYED` rows, `TOLD` questions and `EACH` answers are taken.
        share: Which of these this process takes, of several that make a step together.

    Returns:
        The batch with more rows in ``input_ids``, ``attention_mask`` and ``labels``; their trained tokens are the
        batch's last. ``replayed`` [replayed tokens]: those of rows and questions, which come first. ``memory_ids`` and
        ``memory_logs`` [remembered tokens, `KEPT`]: what `forgotten` compares the base's answers with.
    """
    random_ = random.Random(draw)
    places = random_.sample(range(len(kept.rows)), min(REPLAYED, len(kept.rows)))
    told = random_.sample(range(len(kept.told)), min(TOLD, len(kept.told)))
    again = [kept.rows[place] for place in places[share]] + [kept.told[place] for place in told[share]]
    some = random_.sample(list(kept.answers), min(EACH, len(kept.answers)))[share]
    if not (again or some):
        return batch
    ids = [one["input_ids"] for one in again] + [[*one.text.prompt, *one.text.answer] for one in some]
    labels = [one["labels"] for one in again] + [[IGNORE] * len(one.text.prompt) + one.text.answer for one in some]
    longest, device = max(batch["input_ids"].shape[1], *map(len, ids)), batch["input_ids"].device

    def joined(name: str, more: Sequence[list[int]], filler: int) -> torch.Tensor:
        under = torch.tensor([row + [filler] * (longest - len(row)) for row in more], device=device)
        return torch.cat([pad(batch[name], (0, longest - batch[name].shape[1]), value=filler), under])

    none = torch.zeros(0, KEPT if not some else some[0].ids.shape[1])
    replayed = [label for one in again for label in one["labels"] if label != IGNORE]
    return batch | {
        "input_ids": joined("input_ids", ids, 0),
        "attention_mask": joined("attention_mask", [[1] * len(row) for row in ids], 0),
        "labels": joined("labels", labels, IGNORE),
        "replayed": torch.tensor(replayed, dtype=torch.long, device=device),
        "memory_ids": torch.cat([none.long(), *(one.ids for one in some)]).to(device),
        "memory_logs": torch.cat([none, *(one.logs for one in some)]).to(device),
    }


def remembered(batch: Mapping[str, torch.Tensor]) -> int:
    """Return how many of a batch's trained places, its last ones, come from `added`."""
    return len(batch["replayed"]) + len(batch["memory_ids"]) if "memory_ids" in batch else 0


def forgotten(logits: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Compute how far a tuned model is from its base; `apart` of its logits.

    Args:
        logits: Of the remembered places [remembered tokens, vocabulary].
        batch: From `added`.
    """
    logits = logits.float()
    return apart(logits.gather(-1, batch["memory_ids"]) - logits.logsumexp(-1, keepdim=True), batch)


def apart(ours: torch.Tensor, batch: Mapping[str, torch.Tensor]) -> torch.Tensor:
    """Compute how far a tuned model is from its base.

    Args:
        ours: The tuned model's log-probabilities of the base's likeliest tokens [remembered tokens, `KEPT`], fp32.
        batch: From `added`.

    Returns:
        KL(base || tuned) summed over the places, nats, fp32; tokens beyond the likeliest `KEPT` count as one.
    """
    logs = batch["memory_logs"]
    rest, our_rest = ((1 - each.exp().sum(-1)).clamp(min=LEAST) for each in (logs, ours))
    return ((logs.exp() * (logs - ours)).sum(-1) + rest * (rest / our_rest).log()).sum()


def drawn(again: torch.Tensor, forgot: torch.Tensor) -> torch.Tensor:
    """Return a zero whose gradient holds the model to what it shall keep: the loss that is logged stays the rows' own.

    Args:
        again: Summed cross-entropy at the ``replayed`` places, nats.
        forgot: `forgotten` of the remembered places.
    """
    loss = again + WEIGHT * forgot
    return loss - loss.detach()
