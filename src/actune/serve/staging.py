"""``stage.yaml``: what the puppet on the stage does for an action, and the questions to try."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import yaml

from actune.errors import UserError, either
from actune.serve.looks import MEDIA, Names, look_of, scene_of

STAGE = Path(__file__).parent / "stage"
SHIPPED = Path(__file__).parent / "stage.yaml"
KEYS = ("actions", "rules", "default", "scenes")


@dataclass
class Staging:
    """How actions are shown. `mapping` and `scenes` are JSON for the page; `files` are the user's own pictures."""

    mapping: dict[str, Any] = field(default_factory=lambda: {"actions": {}, "rules": [], "default": {}})
    scenes: list[dict[str, Any]] = field(default_factory=list)
    files: list[Path] = field(default_factory=list)

    def address(self, file: Path) -> str:
        """Return where the page finds one of the user's files."""
        if file not in self.files:
            self.files.append(file)
        return f"looks/{self.files.index(file)}{file.suffix.lower()}"


@cache
def drawn() -> Names:
    """Read what the stage's own drawings are called."""

    def ids(file: str, mark: str) -> frozenset[str]:
        found = {element.get(f"data-{mark}") for element in ElementTree.parse(STAGE / file).iter()}
        return frozenset(name for name in found if name)

    def keys(file: str) -> frozenset[str]:
        return frozenset(json.loads((STAGE / file).read_text(encoding="utf-8")))

    return Names(
        face=keys("faces.json"),
        motion=keys("motions.json"),
        prop=ids("props.svg", "prop"),
        effect=ids("props.svg", "bit"),
        wear=ids("puppet.svg", "wear"),
        hat=ids("puppet.svg", "hat") | {"none"},
    )


def read_staging(file: Path | None = None) -> Staging:
    """Read a user's file and put it before the one that is shipped.

    Args:
        file: The user's ``stage.yaml``; None: the shipped one alone.

    Returns:
        Both: the user's actions and rules go first, its default and scenes replace the shipped ones.

    Raises:
        UserError: The file cannot be read, or does not say what a stage can show; all its faults are named.
    """
    staging = Staging()
    for source in [file, SHIPPED] if file else [SHIPPED]:
        _add(staging, _load(source), source)
    return staging


def _load(file: Path) -> Mapping[Any, Any]:
    wanted = either("a YAML file with the keys ", "YAML 文件, 键为 ") + ", ".join(KEYS)
    fix = either("mend the file", "修正该文件")
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"--stage {file}", str(error), wanted, fix) from error
    if not isinstance(data, dict) or not data.keys() <= set(KEYS):
        got = ", ".join(str(key) for key in data if key not in KEYS) if isinstance(data, dict) else repr(data)
        raise UserError(f"--stage {file}", got, wanted, fix)
    return data


def _add(staging: Staging, data: Mapping[Any, Any], file: Path) -> None:
    """Add one file's content behind what is there."""
    faults: list[str] = []

    def picture(path: str) -> str | None:
        there = file.parent / path
        return staging.address(there.resolve()) if there.suffix.lower() in MEDIA and there.is_file() else None

    def looks(key: str, kind: type) -> Any:
        value = data.get(key)
        if value is not None and not isinstance(value, kind):
            faults.append(f"{key}: {value!r}")
        return value if isinstance(value, kind) else kind()

    def look(place: str, value: Any) -> dict[str, Any]:
        return look_of(place, value, drawn(), picture, faults)

    for name, value in looks("actions", dict).items():
        if not isinstance(name, str):
            faults.append(f"actions.{name}: " + either("put the name in quotes", "名称请加引号"))
        staging.mapping["actions"].setdefault(name, look(f"actions.{name}", value))
    for number, value in enumerate(looks("rules", list)):
        staging.mapping["rules"].append(look(f"rules[{number}]", value))
        if isinstance(value, dict) and "match" not in value:
            faults.append(f"rules[{number}].match: " + either("missing", "缺失"))
    staging.mapping["default"] = staging.mapping["default"] or look("default", looks("default", dict))
    staging.scenes = staging.scenes or [
        scene_of(f"scenes[{number}]", value, faults) for number, value in enumerate(looks("scenes", list))
    ]
    if faults:
        wanted = either("what the stage can show", "舞台能展示的内容")
        fix = either("correct these places", "修正这些地方")
        raise UserError(f"--stage {file}", "\n    ".join(faults), wanted, fix)
