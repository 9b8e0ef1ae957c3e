"""Dialects: how actions are spelled in the text that an avatar runtime reads.

=============  =============================================  ==========================================
dialect        an action                                      read by
=============  =============================================  ==========================================
``native``     ``<&做饭-炒冬瓜&>``                            actune
``aiavatarkit``  ``[animation:做饭_炒冬瓜]``, ``[face:joy]``  AIAvatarKit: ``aiavatar/adapter/base.py``
``olv``        ``[joy]`` after the end of a sentence          Open-LLM-VTuber: ``live2d_model.py``
``airi``       ``<|CALL ["做饭-炒冬瓜"]|>``, ``<|ACT {…}|>``  AIRI: ``llm-streaming-control/parsers``
``none``       nothing                                        a client that takes actions from elsewhere
=============  =============================================  ==========================================

An action of the category ``face``, ``emotion`` or ``表情`` is a face where the dialect has faces. A name that a dialect
cannot hold is written by an alias (`Spelling.aliases`). Words that look like a tag of the dialect are made harmless:
the runtime would perform them, and nobody listed them.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Literal, get_args

from actune.script.catalogue import CLOSE, OPEN, name_problem
from actune.script.events import Act, Event, Fault, Say, write

Dialect = Literal["native", "aiavatarkit", "olv", "airi", "none"]
DIALECTS: tuple[Dialect, ...] = get_args(Dialect)

_FACES = frozenset({"face", "emotion", "表情"})
# AIRI's own list; another emotion would be dropped by its renderer.
_AIRI_EMOTIONS = frozenset(["happy", "sad", "angry", "think", "surprised", "awkward", "question", "curious", "neutral"])
_HARMLESS = {
    "aiavatarkit": str.maketrans("[<", "［＜"),
    "olv": str.maketrans("[", "［"),
    # Its parser takes `<{'|'}` for `<|` as well, so that the bar must go, wherever it stands.
    "airi": str.maketrans("|", "｜"),
}
_BAR = "\\u007c"
_ENDS = "。！？.!?…\n"
_TAGS = {
    "aiavatarkit": re.compile(r"\[(?P<kind>animation|face):(?P<body>[^\]]+)\]", re.IGNORECASE),
    "olv": re.compile(r"\[(?P<body>[^\[\]]+)\]"),
    "airi": re.compile(r"<\|(?P<kind>CALL|ACT|DELAY)[ :]\s*(?P<body>.*?)\|>", re.DOTALL),
}


class Spelling:
    """One catalogue in one dialect.

    Args:
        dialect: The dialect.
        names: The catalogue. Other names, from a history with another one, are still read where that is possible.
    """

    def __init__(self, dialect: Dialect, names: Iterable[str]) -> None:
        self.dialect = dialect
        self.aliases: dict[str, str] = {}
        """What stands in the tags for the names that the dialect cannot hold."""
        self._tags: dict[str, str] = {}
        self._names: dict[str, str] = {}
        for name in names:
            tag = self._tag(name)
            self._tags[name], self._names[self._key(tag)] = tag, name

    def tag(self, name: str) -> str:
        """Return how an action is spelled, ``""`` in the dialect ``none``."""
        return self._tags[name]

    def write(self, event: Event, before: str = "") -> str:
        """Spell an event.

        Args:
            event: The event. A `Fault` is only written in the native dialect: another runtime would say it aloud.
            before: What the answer's text ends with up to here.

        Returns:
            The text to append.
        """
        match event:
            case Say(text=text):
                table = _HARMLESS.get(self.dialect)
                return text.translate(table) if table else text
            case Act(name=name) if self.dialect == "olv" and before.rstrip(" ")[-1:] not in _ENDS:
                # Open-LLM-VTuber hands a sentence's tags over beside it: only a sentence's end keeps the order.
                return f"\n{self._tags[name]}"
            case Act(name=name):
                return self._tags[name]
            case Fault():
                return write([event]) if self.dialect == "native" else ""
            case _:
                return ""

    def read(self, text: str) -> str:
        """Read an answer back, from a client's history, as a native script; a tag that is none stays as it is."""
        pattern = _TAGS.get(self.dialect)
        return pattern.sub(self._native, text) if pattern else text

    def _key(self, tag: str) -> str:
        # Open-LLM-VTuber compares in lower case.
        return tag.casefold() if self.dialect == "olv" else tag

    def _native(self, match: re.Match[str]) -> str:
        name = self._names.get(self._key(match[0]))
        if name is None and self.dialect == "aiavatarkit":
            name = match["body"].strip()
        elif name is None and self.dialect == "airi":
            if match["kind"] == "DELAY":
                return ""
            name = _airi_name(match["body"])
        # In Open-LLM-VTuber's dialect, brackets that are no listed name are just brackets.
        return match[0] if name is None or name_problem(name) else f"{OPEN}{name}{CLOSE}"

    def _tag(self, name: str) -> str:
        category, dash, what = name.partition("-")
        face = what if dash and category.casefold() in _FACES else ""
        match self.dialect:
            case "native":
                return f"{OPEN}{name}{CLOSE}"
            case "aiavatarkit":
                kind, inner = ("face", face) if face else ("animation", name)
                # The pattern that looks for the value is `\w+` there.
                return self._unique(name, inner, re.sub(r"\W", "_", inner), f"[{kind}:{{}}]")
            case "olv":
                return self._unique(name, face or name, (face or name).translate({91: "(", 93: ")"}), "[{}]")
            case "airi" if face.casefold() in _AIRI_EMOTIONS:
                emotion = {"emotion": {"name": face.casefold(), "intensity": 1}}
                return f"<|ACT {json.dumps(emotion, separators=(',', ':'))}|>"
            case "airi":
                # As an escape, a bar in a name cannot end the tag.
                return f"<|CALL {json.dumps([name], ensure_ascii=False).replace('|', _BAR)}|>"
            case _:
                return ""

    def _unique(self, name: str, inner: str, alias: str, tag: str) -> str:
        """Put the alias into the tag, with a number where another name has it already."""
        candidate, number = alias, 2
        while self._key(tag.format(candidate)) in self._names:
            candidate, number = f"{alias}_{number}", number + 1
        if candidate != inner:
            self.aliases[name] = candidate
        return tag.format(candidate)


def _airi_name(body: str) -> str | None:
    try:
        data = json.loads(body)
    except ValueError:
        return None
    match data:
        case [str(name), *_]:
            return name.strip()
        case {"emotion": {"name": str(name)}} | {"emotion": str(name)}:
            return f"emotion-{name}"
    return None
