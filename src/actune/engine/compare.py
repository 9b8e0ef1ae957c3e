"""What the choice of an action is compared with: the prompt without a question, and the question after each name."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from torch import Tensor

from actune.engine.slots import kept, seeded
from actune.engine.tree import Spelling, Tree, read_names

if TYPE_CHECKING:
    from actune.channel import Channel
    from actune.engine.local import LocalEngine

# Names after which a question is read in one pass: a place of a vocabulary of 262 144 takes 1 MB of logits.
TOGETHER = 5


def read_blank(engine: LocalEngine, prompt: Sequence[int], names: tuple[str, ...]) -> dict[str, float]:
    """Return log p of each name after a tag's opening and a prompt without a question, nats.

    It depends on the list alone.
    """
    _, cache, _ = engine.read(list(prompt))
    spelled = spelled_by(engine, names)

    known, length = kept(cache), cache.get_seq_length()

    def look(tree: Tree) -> Tensor:
        return engine.branch(tree, seeded(known, length))

    values = read_names(engine.speller.opening, list(spelled.values()), look).values if spelled else []
    return dict(zip(spelled, values, strict=True))


def read_channel(engine: LocalEngine, channel: Channel, names: Sequence[str]) -> dict[str, float]:
    """Return log p(question | name) for some names, nats."""
    told = dict[str, float]()
    for first in range(0, len(names), TOGETHER):
        tree, ends = Tree(), dict[str, tuple[int, int]]()
        for name in names[first : first + TOGETHER]:
            before = tree.add(channel.before[name])
            ends[name] = before, tree.add(channel.asked, before)
        logs = tree.logs(engine.branch(tree, seeded()))
        told |= {name: logs[end] - logs[before] for name, (before, end) in ends.items()}
    return told


def spelled_by(engine: LocalEngine, names: Sequence[str]) -> dict[str, Spelling]:
    """Spell names by an engine's tokens; those that no tokens spell are left out."""
    spelled = {name: engine.speller.spell(name) for name in names}
    return {name: one for name, one in spelled.items() if one is not None}
