"""Every family of models does what docs/architectures.md says of it, by its documented chat format."""

from __future__ import annotations

from pathlib import Path

import pytest

from actune import prompt
from actune.errors import UserError
from actune.prompt import PromptFormat
from actune.tune.encode import encode
from conftest import make_rows
from families import FAMILIES, Family
from family_trial import Trial, make_base, make_tokenizer
from matrix import committed, converted, tried

BY_NAME = {family.name: family for family in FAMILIES}


@pytest.fixture(params=BY_NAME)
def family(request: pytest.FixtureRequest) -> Family:
    return BY_NAME[request.param]


def test_the_prompt_is_the_documented_one(family: Family, tiny_tokenizer_folder: Path) -> None:
    tokenizer = make_tokenizer(family, tiny_tokenizer_folder)
    turns = [{"role": role, "content": text} for role, text in family.format.turns]
    options = {"tokenize": False, "add_generation_prompt": True, **prompt.THINKING_OFF}
    assert prompt.closed(tokenizer.apply_chat_template(turns, **options)) == family.format.shown
    row = make_rows(2)[1]
    fmt = PromptFormat.for_rows([row], tokenizer)
    ids = prompt.render_ids(tokenizer, fmt, row.question, row.actions)
    assert tokenizer.decode(ids) == prompt.render(tokenizer, fmt, row.question, row.actions)
    example = encode(row, tokenizer, fmt)
    assert example.input_ids[: len(ids)] == ids
    assert tokenizer.decode(example.input_ids[-1:]) in (family.format.eos, *family.format.stops)


def test_it_does_what_the_table_says(family: Family, tiny_tokenizer_folder: Path, tmp_path: Path) -> None:
    base = make_base(family, tiny_tokenizer_folder, tmp_path / "base")
    found = tried(family, base, tmp_path)
    assert found == {name: text for name, text in committed()[family.name].items() if name in found}


@pytest.mark.slow
def test_the_converter_takes_what_the_table_says(family: Family, tmp_path: Path) -> None:
    assert converted(family, tmp_path) == committed()[family.name]["GGUF"]


def test_code_of_a_base_runs_only_when_it_is_trusted(tiny_tokenizer_folder: Path, tmp_path: Path) -> None:
    family = BY_NAME["remote code"]
    trial = Trial(family, make_base(family, tiny_tokenizer_folder, tmp_path / "base"), tmp_path)
    trial.trust = False
    with pytest.raises(UserError, match="--trust-remote-code"):
        trial.train(tmp_path / "refused")
