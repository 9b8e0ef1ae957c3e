"""A look: what the puppet wears on its face, holds and does while an action lasts."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import asdict, dataclass
from typing import Any

from actune.errors import either
from actune.script.catalogue import catalogue

# What a page can show of a user's own, and as what.
MEDIA = {
    ".webm": "video",
    ".mp4": "video",
    **dict.fromkeys((".gif", ".png", ".apng", ".webp", ".jpg", ".jpeg", ".svg"), "picture"),
}
LIGHTS = ("on", "off", "dim", "bright")
KEYS = ("face", "motion", "prop", "effect", "clip", "set", "seconds", "caption", "blocking")
MAX_SECONDS = 60.0


@dataclass(frozen=True)
class Names:
    """What the stage's own drawings are called."""

    face: Collection[str]
    motion: Collection[str]
    prop: Collection[str]
    effect: Collection[str]
    wear: Collection[str]
    hat: Collection[str]


def look_of(
    place: str, value: Any, names: Names, picture: Callable[[str], str | None], faults: list[str]
) -> dict[str, Any]:
    """Check a look and give it the form that the page takes.

    Args:
        place: Where it stands in the file.
        value: What stands there.
        names: What is drawn.
        picture: Gives the address of a user's file, or None if it cannot be shown.
        faults: Gets a line for each fault: place, what is there, what would be right.
    """
    if not isinstance(value, dict):
        faults.append(f"{place}: {value!r}; " + either("a mapping such as {motion: nod}", "映射, 例如 {motion: nod}"))
        return {}
    look: dict[str, Any] = {}
    for key, one in value.items():
        here = f"{place}.{key}"
        match key:
            case "face" | "motion" | "effect":
                look[key] = _listed(here, one, asdict(names)[key], faults)
            case "prop":
                look[key] = _prop(here, one, names.prop, picture, faults)
            case "clip":
                look[key] = _clip(here, one, picture, faults)
            case "set":
                look[key] = _set(here, one, names, faults)
            case "match" if place.startswith("rules"):
                look[key] = _patterns(here, one, faults)
            case _:
                look[key] = _plain(here, key, one, faults)
    return look


def scene_of(place: str, value: Any, faults: list[str]) -> dict[str, Any]:
    """Check a question to try: ``ask``, ``actions`` and perhaps ``lang``."""
    fits = isinstance(value, dict) and value.keys() <= {"ask", "actions", "lang"}
    if not fits or not isinstance(value.get("ask"), str) or value.get("lang", "en") not in ("en", "zh"):
        faults.append(f"{place}: {value!r}; {{ask: …, actions: [...], lang: en|zh}}")
        return {}
    try:
        return {**value, "actions": list(catalogue(value.get("actions") or []))}
    except (ValueError, TypeError, AttributeError) as error:
        faults.append(f"{place}.actions: {error}")
        return {}


def _listed(here: str, value: Any, known: Collection[str], faults: list[str]) -> Any:
    if value not in known:
        faults.append(f"{here}: {value!r}; " + ", ".join(sorted(known)))
    return value


def _patterns(here: str, value: Any, faults: list[str]) -> list[str]:
    patterns = [value] if isinstance(value, str) else value
    if not isinstance(patterns, list) or not patterns or not all(isinstance(one, str) and one for one in patterns):
        faults.append(f"{here}: {value!r}; " + either("a pattern or a list of them", "模式或模式列表"))
        return []
    return patterns


def _prop(
    here: str, value: Any, known: Collection[str], picture: Callable[[str], str | None], faults: list[str]
) -> dict[str, str]:
    if not isinstance(value, str) or not value:
        faults.append(f"{here}: {value!r}")
    elif value in known or (len(value) <= 12 and not value.isascii() and "." not in value):
        return {"name": value}  # One of ours, or an emoji.
    elif source := picture(value):
        return {"name": "", "src": source}
    else:
        own = either("a picture file, an emoji, or one of: ", "图片文件, 表情符号, 或: ")
        faults.append(f"{here}: {value!r}; {own}" + ", ".join(sorted(known)))
    return {}


def _clip(here: str, value: Any, picture: Callable[[str], str | None], faults: list[str]) -> dict[str, str]:
    source = picture(value) if isinstance(value, str) else None
    if source is None:
        faults.append(f"{here}: {value!r}; " + either("a file that is there: ", "存在的文件: ") + " ".join(MEDIA))
        return {}
    return {"src": source, "kind": MEDIA[source[source.rindex(".") :]]}


def _set(here: str, value: Any, names: Names, faults: list[str]) -> dict[str, Any]:
    if not isinstance(value, dict):
        faults.append(f"{here}: {value!r}; {{cloth, wear, hat, light}}")
        return {}
    new: dict[str, Any] = {**value}
    if isinstance(new.get("light"), bool):
        new["light"] = "on" if new["light"] else "off"  # YAML 1.1 reads on and off as booleans.
    lists = {"wear": names.wear, "hat": names.hat, "light": LIGHTS}
    for key, one in new.items():
        if key in lists:
            _listed(f"{here}.{key}", one, lists[key], faults)
        elif key != "cloth" or not re.fullmatch(r"#[0-9a-fA-F]{3,8}", str(one)):
            faults.append(f'{here}.{key}: {one!r}; cloth: "#rrggbb", wear, hat, light')
    return new


def _plain(here: str, key: str, value: Any, faults: list[str]) -> Any:
    right = {
        "seconds": isinstance(value, int | float) and not isinstance(value, bool) and 0 < value <= MAX_SECONDS,
        "blocking": isinstance(value, bool),
        "caption": isinstance(value, str)
        or (
            isinstance(value, dict) and value.keys() <= {"en", "zh"} and all(isinstance(x, str) for x in value.values())
        ),
    }
    wanted = {"seconds": f"0 .. {MAX_SECONDS:g}", "blocking": "true, false", "caption": "text, or {en: …, zh: …}"}
    if not right.get(key, False):
        faults.append(f"{here}: {value!r}; " + wanted.get(key, ", ".join(KEYS)))
    return value
