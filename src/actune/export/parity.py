"""Whether two ways to run the same weights say the same: prompts, stop ids, logits, greedy text."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import torch
from rich.console import Console
from rich.table import Table
from torch import Tensor
from torch.nn.functional import kl_div, log_softmax

from actune import prompt
from actune.actor import Actor
from actune.data.rows import Row
from actune.engine.local import Request
from actune.errors import either

GREEDY_TOKENS = 48


@dataclass(frozen=True)
class Limits:
    """What is equal enough.

    Args:
        greedy: The greedy texts must be equal.
        apart: Largest difference of two logits.
        top1: Least share of tokens that both like best.
        kl: Largest mean divergence, nats.
    """

    greedy: bool = False
    apart: float = math.inf
    top1: float = 0.0
    kl: float = math.inf


# The same weights in fp32: only the order of sums differs.
EXACT = Limits(greedy=True, apart=1e-3)
# The same by another program, which tells likelihoods of some tokens and no logits.
ELSEWHERE = Limits(greedy=True, top1=0.97, kl=1e-3)
# Each weight rounded to 16 bits (8 of mantissa in bf16), or to 8 in blocks of 32.
ROUNDED = Limits(top1=0.97, kl=0.01)
BLOCKS = Limits(top1=0.95, kl=0.02)


@dataclass(frozen=True)
class Look:
    """What one way to run a model gives for some rows.

    Args:
        prompts: Token ids of each prompt, as our commands render it.
        templated: The same by the tokenizer's own chat template, which other programs use.
        stops: Token ids that end an answer.
        logits: For each row those of the answer's tokens, float32 on the CPU [answer, vocabulary].
        best: The likeliest token at each of those places [answer].
        greedy: Each row's greedy continuation, token ids without the stop.
    """

    prompts: list[list[int]]
    templated: list[list[int]]
    stops: frozenset[int]
    logits: list[Tensor]
    best: list[Tensor]
    greedy: list[list[int]]


@dataclass(frozen=True)
class Parity:
    """How far one look is from the one it should equal.

    Args:
        rows: How many were compared.
        prompts: Share of equal prompts, ours and the tokenizer's.
        stops: Whether the same ids end an answer.
        greedy: Share of equal greedy texts.
        apart: Largest difference of two logits.
        top1: Share of answer tokens for which both like the same token best.
        kl: Mean divergence from the wanted distribution, nats.
    """

    rows: int
    prompts: float
    stops: bool
    greedy: float
    apart: float
    top1: float
    kl: float

    def to_dict(self) -> dict[str, float]:
        """Give the form that `actune.json` holds."""
        return asdict(self)

    def faults(self, limits: Limits) -> list[str]:
        """Say what is not equal enough; prompts and stop ids always must be equal."""
        wrong = {
            either("prompt ids differ", "提示词元不同"): self.prompts < 1,
            either("the ids that end an answer differ", "结束词元不同"): not self.stops,
            either("greedy text differs", "贪心文本不同"): limits.greedy and self.greedy < 1,
            # Written so that a NaN is a fault.
            f"max |Δ logit| {self.apart:.2g} > {limits.apart:g}": not self.apart <= limits.apart,
            f"top-1 {self.top1:.3f} < {limits.top1}": not self.top1 >= limits.top1,
            f"KL {self.kl:.2g} > {limits.kl:g}": not self.kl <= limits.kl,
        }
        return [text for text, is_wrong in wrong.items() if is_wrong]


def look(actor: Actor, rows: Sequence[Row]) -> Look:
    """Run rows through an actor, without the constraint."""
    tokenizer, engine = actor.tokenizer, actor.local
    prompts, templated, logits = [], [], []
    for row in rows:
        fmt = actor.format_for(row.question, row.history)
        given = (row.question, row.actions, row.history, row.system)
        ids = prompt.render_ids(tokenizer, fmt, *given)
        prompts.append(ids)
        templated.append(prompt.render_ids(tokenizer, replace(fmt, chat_template=None), *given))
        answer = prompt.answer_ids(tokenizer, fmt, row.script)
        whole = torch.tensor([[*ids, *answer]], device=engine.model.device)
        with torch.inference_mode():
            # The logits before a token decide it.
            scores = engine.model(input_ids=whole, logits_to_keep=len(answer) + 1).logits[0, :-1]
        logits.append(scores.float().cpu())
    answers = engine.generate([Request(ids, None, GREEDY_TOKENS) for ids in prompts])
    greedy = [[token for token in answer if token not in engine.stop_ids] for answer in answers]
    best = [scores.argmax(-1) for scores in logits]
    return Look(prompts, templated, frozenset(engine.stop_ids), logits, best, greedy)


def compare(wanted: Look, got: Look) -> Parity:
    """Compare two looks at the same rows."""
    pairs = list(zip(wanted.logits, got.logits, strict=True))
    # Files of some engines leave out the padding of the vocabulary.
    width = min(min(one.shape[-1], other.shape[-1]) for one, other in pairs)
    ours = [wanted.prompts[i] == got.prompts[i] for i in range(len(pairs))]
    own = [wanted.prompts[i] == got.templated[i] for i in range(len(pairs))]
    greedy = [one == other for one, other in zip(wanted.greedy, got.greedy, strict=True)]
    one = torch.cat([pair[0][:, :width] for pair in pairs])
    other = torch.cat([pair[1][:, :width] for pair in pairs])
    nats = kl_div(log_softmax(other, -1), log_softmax(one, -1), reduction="none", log_target=True).sum(-1)
    return Parity(
        rows=len(pairs),
        prompts=sum(ours + own) / len(ours + own),
        stops=wanted.stops == got.stops,
        greedy=sum(greedy) / len(greedy),
        apart=float((one - other).abs().max()),
        top1=float((torch.cat(wanted.best) == torch.cat(got.best)).float().mean()),
        kl=float(nats.mean()),
    )


def show(measures: Mapping[str, Parity]) -> None:
    """Print how far the result is from each of what it is compared with."""
    table = Table(title=either("compared with", "比对"), title_justify="left")
    heads = (
        "",
        either("rows", "行"),
        either("prompts", "提示"),
        either("greedy text", "贪心文本"),
        "max |Δ|",
        "top-1",
        "KL",
    )
    for head in heads:
        table.add_column(head, justify="left" if not head else "right")
    for name, parity in measures.items():
        numbers = (f"{parity.apart:.1e}", f"{parity.top1:.3f}", f"{parity.kl:.1e}")
        table.add_row(name, str(parity.rows), f"{parity.prompts:.0%}", f"{parity.greedy:.0%}", *numbers)
    Console().print(table)
