"""The command prints what the formats write, and refuses what is no list."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from actune.errors import UserError
from actune.grammar import grammar
from actune.script.formats import gbnf, lark


def test_every_format_is_printed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    names = ("做饭-炒冬瓜", 'say "hi"')
    (tmp_path / "names.txt").write_text("\n".join(names), encoding="utf-8")
    shown = {}
    for kind in ("xgrammar", "lark", "gbnf", "regex"):
        assert grammar(actions=f"@{tmp_path / 'names.txt'}", format=kind) == 0  # type: ignore[arg-type]
        shown[kind] = capsys.readouterr().out.removesuffix("\n")
    values = [one["value"] for one in json.loads(shown["xgrammar"])["format"]["tags"][0]["content"]["elements"]]
    assert tuple(values) == names
    assert (shown["lark"], shown["gbnf"]) == (lark(names), gbnf(names))
    assert re.fullmatch(shown["regex"], 'a < b <&做饭-炒冬瓜&> <<&say "hi"&>')
    assert not re.fullmatch(shown["regex"], "a <&做饭&>")


def test_a_name_that_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="--actions"):
        grammar(actions="a、b&>c")
