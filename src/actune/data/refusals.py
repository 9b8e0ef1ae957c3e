"""Words for a wish that no action on the list fulfils: the rows' own where they have some, else ours."""

from __future__ import annotations

import re
from collections.abc import Sequence

from actune.data.rows import Row
from actune.prompt_format import Language, language_of

# Fewer would be learnt by heart.
FEWEST = 4
LONGEST: dict[Language, int] = {"en": 90, "zh": 30}
SIGNS = re.compile(
    r"sorry|afraid|can't|cannot|can not|unable|not able|don't have|no way for me|beyond me|out of my reach"
    r"|抱歉|对不起|不好意思|做不了|没法|办不到|不会|不能|帮不了|帮不上|没有这"
)
OURS: dict[Language, tuple[str, ...]] = {
    "en": (
        "Sorry, that is not something I can do here.",
        "I wish I could, but that is beyond me right now.",
        "I'm afraid I can't help with that one.",
        "That one I can't do, sorry.",
        "Hmm, there is nothing I can do about that at the moment.",
        "I would if I could, but I have no way to do that.",
        "Not possible for me right now, I'm sorry.",
        "I can't manage that here. Is there something else?",
        "Sorry, you'd have to ask someone else for that.",
        "Ah, that is out of my hands today.",
    ),
    "zh": (
        "抱歉，这个我现在做不了。",
        "不好意思，这件事我帮不上忙。",
        "这个我还真不会，换一个试试？",
        "哎呀，我这里办不到这个。",
        "我也想帮你，可是现在没法做。",
        "对不起，这个超出我的能力了。",
        "这会儿做不到呢，要不要看看别的？",
        "这个得麻烦您找别人啦。",
        "嗯……这个我没有办法。",
        "抱歉呀，我手头没有能做这个的。",
    ),
}


def refusals(rows: Sequence[Row]) -> dict[Language, tuple[str, ...]]:
    """Collect refusals.

    Args:
        rows: All rows; an answer without actions is taken where it refuses, is short, and has no word of its question
            or its list, so that it can be said to another question too.

    Returns:
        At least `FEWEST` for each language.
    """
    own: dict[Language, dict[str, None]] = {"en": {}, "zh": {}}
    for row in rows:
        language = language_of([row.question])
        said = row.script.strip()
        short = 0 < len(said) <= LONGEST[language] and "<&" not in said
        if short and SIGNS.search(said.lower()) and not _pieces(said) & _pieces(" ".join((row.question, *row.actions))):
            own[language][said] = None
    return {
        language: tuple(said) if len(said) >= FEWEST else (*said, *OURS[language]) for language, said in own.items()
    }


def _pieces(text: str) -> set[str]:
    """Return what two texts about the same thing share: words of four letters and more, pairs of Chinese characters."""
    words = set(re.findall(r"[a-z]{4,}", text.lower()))
    chinese = re.findall(r"[\u4e00-\u9fff]+", text)
    return words | {run[place : place + 2] for run in chinese for place in range(len(run) - 1)}
