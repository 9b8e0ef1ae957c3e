"""The demo on the tiny base: it trains, compares, and a second run uses what is there."""

import shutil
from pathlib import Path

import pytest

from actune.data.load import load_rows
from actune.demo import QUESTIONS, demo, example
from actune.errors import UserError
from actune.tune.run import read_manifest


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_questions_are_not_in_the_data_and_hold_unseen_actions(lang: str) -> None:
    rows = load_rows([example(f"actions_{lang}.csv")])
    seen = {name for row in rows for name in row.actions}
    assert not {question for question, _ in QUESTIONS[lang]} & {row.question for row in rows}
    assert all(set(names) - seen for _, names in QUESTIONS[lang])


def test_a_second_run_uses_what_is_there(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACTUNE_LANG", "en")
    run = tmp_path / "a run"
    assert demo(base=str(tiny_base), out=run) == 0
    assert read_manifest(run).options["practice"] == "off", "it shows what the dialogues do alone"
    first = capsys.readouterr().out
    adapter = run / "adapter_model.safetensors"
    written = adapter.stat().st_mtime_ns
    assert demo(base=str(tiny_base), out=run) == 0
    second = capsys.readouterr().out
    assert adapter.stat().st_mtime_ns == written
    assert all(question.split()[0] in first for question, _ in QUESTIONS["en"])
    assert first.rstrip().endswith(f"actune serve {run} --compare")
    assert first[first.index("Questions") :] == second[second.index("Questions") :]
    weights = other_base(tiny_base, tmp_path / "other")
    with pytest.raises(UserError, match="another base"):
        demo(base=str(weights), out=run)


def test_an_interrupted_training_ends_the_demo(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("actune.tune.command.train", lambda *_, **__: 130)
    assert demo(base=str(tiny_base), out=tmp_path / "run") == 130
    assert QUESTIONS["en"][0][0] not in capsys.readouterr().out


def other_base(base: Path, folder: Path) -> Path:
    """Copy a base and change one weight."""
    from safetensors.torch import load_file, save_file

    shutil.copytree(base, folder)
    file = folder / "model.safetensors"
    weights = load_file(file)
    next(iter(weights.values())).view(-1)[0] += 1
    save_file(weights, file, {"format": "pt"})
    return folder
