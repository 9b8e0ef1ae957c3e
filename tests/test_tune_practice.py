"""Practice: once a base, kept in the cache; what a training that starts from it leaves is a plain adapter."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from actune import prompt
from actune.base.source import resolve
from actune.data.load import load_rows
from actune.data.rows import Row
from actune.errors import UserError
from actune.prompt import SYSTEM, PromptFormat
from actune.script.acting import Acting
from actune.tune import corpus, finish, hold
from actune.tune import practice as room
from actune.tune.command import train
from actune.tune.corpus import corpus_for
from actune.tune.options import TrainOptions, settle
from actune.tune.practice import practice
from actune.tune.run import read_manifest, write_rows
from conftest import make_rows

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def place(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache in which the tiny base has practised on a little corpus, and a table of rows."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("practice")
    (folder / "corpus").mkdir()
    # Every other list is asked once, the rest again and again.
    rows = [replace(row, actions=(*row.actions, f"only-{n}")) if n % 2 else row for n, row in enumerate(make_rows(44))]
    write_rows(folder / "corpus" / "en.jsonl", [row for row in rows if "饿" not in row.question])
    write_rows(folder / "corpus" / "zh.jsonl", [row for row in rows if "饿" in row.question])
    write_rows(folder / "rows.jsonl", make_rows(16)[8:])
    with pytest.MonkeyPatch.context() as patch:
        settle_in(patch, folder)
        assert practice(base=str(tiny_base)) == 0
    return folder


def settle_in(patch: pytest.MonkeyPatch, folder: Path) -> None:
    patch.setenv("ACTUNE_CACHE", str(folder / "cache"))
    patch.setattr(corpus, "CORPUS", folder / "corpus")
    patch.setattr(corpus, "MOST_TOKENS_A_CHARACTER", 9)  # the tiny tokenizer knows no word of any language


@pytest.fixture
def at(place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    settle_in(monkeypatch, place)
    return place


def practised(at: Path) -> Path:
    (folder,) = (at / "cache" / "practice").iterdir()
    return folder


def tune(at: Path, base: Path, out: str, options: TrainOptions, resume: bool = False) -> Path:
    assert train([at / "rows.jsonl"], base=str(base), out=at / out, options=options, resume=resume) == 0
    return at / out


def test_it_is_an_ordinary_run_in_both_languages(at: Path, tiny_base: Path) -> None:
    manifest = read_manifest(practised(at))
    assert (manifest.data["rows"], manifest.recipe, manifest.prompt["language"]) == (44, "practice", "both")
    assert manifest.acting == Acting().to_dict(), "it is there to be trained further"
    tokenizer, fmt = AutoTokenizer.from_pretrained(tiny_base), PromptFormat.from_dict(manifest.prompt)
    for language, question in (("zh", "饿了"), ("en", "I am hungry")):
        assert SYSTEM[language].split("{")[0] in prompt.render(tokenizer, fmt, question, ("a",))  # type: ignore[index]


def test_once_is_enough(at: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = (practised(at) / WEIGHTS).stat().st_mtime_ns
    assert practice(base=str(tiny_base)) == 0
    assert "already" in capsys.readouterr().out
    assert (practised(at) / WEIGHTS).stat().st_mtime_ns == before


def test_a_training_starts_from_it_and_stays_a_plain_adapter_on_the_original_base(at: Path, tiny_base: Path) -> None:
    # A rate this low moves nothing: what the run ends with is what it started from.
    run = tune(at, tiny_base, "still", TrainOptions(epochs=1, lr=1e-12))
    started, ended = load_file(practised(at) / WEIGHTS), load_file(run / WEIGHTS)
    assert started.keys() == ended.keys()
    assert all(torch.allclose(started[name], ended[name], atol=1e-6) for name in started)
    assert any(started[name].abs().max() > 1e-4 for name in started if "lora_B" in name)
    manifest = read_manifest(run)
    assert manifest.practice["folder"] == str(practised(at))
    assert manifest.base["sha256"] == resolve(str(tiny_base)).sha256
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base), str(run))


def test_rows_that_the_practice_kept_help_to_measure_trainings_that_start_from_it(at: Path, tiny_base: Path) -> None:
    kept = load_rows([practised(at) / "valid.jsonl"])
    start = {"folder": str(practised(at))}
    found = {language: corpus.unseen(start, language) for language in ("en", "zh")}
    assert all("饿" in row.question for row in found["zh"])
    assert not any("饿" in row.question for row in found["en"])
    assert len(kept) == 8
    asked = [row for row in kept if any(name.startswith("only-") for name in row.actions)]
    assert 0 < len(asked) < 8
    assert sorted(row.question for row in asked) == sorted(row.question for row in (*found["en"], *found["zh"]))
    assert corpus.unseen({"folder": str(at / "gone")}, "en") == []


def test_without_a_practice_rows_of_ours_are_rehearsed_and_others_are_measured_with(at: Path) -> None:
    rehearsed, measured = corpus.rehearsed({}, "en"), corpus.unseen({}, "en")
    rows = load_rows([at / "corpus" / "en.jsonl"])
    assert sorted(row.question for row in (*rehearsed, *measured)) == sorted(row.question for row in rows)
    assert rehearsed
    assert measured
    assert not {frozenset(row.actions) for row in rehearsed} & {frozenset(row.actions) for row in measured}
    assert corpus.rehearsed({}, "fr") == corpus.unseen({}, "fr") == []


def test_what_has_practised_is_trained_more_gently_unless_told(at: Path, tiny_base: Path) -> None:
    run = tune(at, tiny_base, "gentle", TrainOptions(valid=0.0))
    options = read_manifest(run).options
    assert (options["epochs"], options["lr"]) == (room.AFTERWARDS.epochs, room.AFTERWARDS.lr)
    told = tune(at, tiny_base, "told", TrainOptions(valid=0.0, epochs=1, lr=3e-4))
    assert (read_manifest(told).options["epochs"], read_manifest(told).options["lr"]) == (1, 3e-4)


def test_a_training_rehearses_rows_that_the_practice_trained_on(at: Path, tiny_base: Path) -> None:
    start = {"folder": str(practised(at))}
    rows = corpus.rehearsed(start, "en")
    assert rows
    assert not {row.question for row in rows} & {row.question for row in corpus.unseen(start, "en")}


def test_without_it_the_adapter_is_fresh(at: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run = tune(at, tiny_base, "fresh", TrainOptions(epochs=1, lr=1e-12, practice="off"))
    assert all(p.abs().max() < 1e-6 for name, p in load_file(run / WEIGHTS).items() if "lora_B" in name)
    assert read_manifest(run).practice == {}
    assert "from the bare base\n" in capsys.readouterr().err


def test_without_it_a_small_table_learns_when_to_act_on_rows_of_ours_and_origin_does_not(
    at: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ACTUNE_CACHE", str(at / "a third cache"))
    monkeypatch.setattr(corpus, "EACH_APART", 1)
    ours = len(corpus.unseen({}, "en"))
    tune(at, tiny_base, "gated", TrainOptions(epochs=1, valid=0.0))
    assert f"(on {min(ours, finish.MOST_ROWS)} rows that were not trained on" in capsys.readouterr().err
    for name, options in (("bare", TrainOptions(recipe="origin")), ("off", TrainOptions(practice="off", valid=0.0))):
        tune(at, tiny_base, name, replace(options, epochs=1))
        assert "0 validation rows are too few" in capsys.readouterr().err


def test_an_adapter_of_another_shape_goes_without_and_says_so(
    at: Path, tiny_base: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tune(at, tiny_base, "rank-4", TrainOptions(epochs=1, rank=4))
    assert read_manifest(run).practice == {}
    assert "practice needs rank 16" in capsys.readouterr().err
    with pytest.raises(UserError, match="rank 16"):
        tune(at, tiny_base, "rank-4-on", TrainOptions(epochs=1, rank=4, practice="on"))


def test_what_has_not_practised_rehearses_rows_of_ours_unless_told(
    at: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ACTUNE_CACHE", str(at / "another cache"))
    beside = tune(at, tiny_base, "beside", TrainOptions(epochs=1, valid=0.0))
    assert "from the bare base, rows of ours rehearsed beside yours (actune practice" in capsys.readouterr().err
    alone = tune(at, tiny_base, "alone", TrainOptions(epochs=1, valid=0.0, practice="off"))
    assert "from the bare base\n" in capsys.readouterr().err
    assert read_manifest(beside).probe["memory"] != read_manifest(alone).probe["memory"]


def test_what_has_not_practised_is_told_how(at: Path, tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ACTUNE_CACHE", str(at / "empty cache"))
    with pytest.raises(UserError, match="actune practice --base"):
        tune(at, tiny_base, "none", TrainOptions(epochs=1, practice="on"))


def test_a_resumed_run_needs_the_practice_only_if_it_had_no_checkpoint_yet(at: Path, tiny_base: Path) -> None:
    options = TrainOptions(epochs=2, save_steps=1)
    run = tune(at, tiny_base, "whole", options)
    weights = (run / WEIGHTS).read_bytes()
    kept = practised(at) / WEIGHTS
    shutil.move(kept, at / "aside")
    try:
        (run / WEIGHTS).unlink()
        tune(at, tiny_base, "whole", options, resume=True)
        assert (run / WEIGHTS).read_bytes() == weights
        for checkpoint in run.glob("checkpoint-*"):
            shutil.rmtree(checkpoint)
        with pytest.raises(UserError, match="another one than at the start"):
            tune(at, tiny_base, "whole", options, resume=True)
    finally:
        shutil.move(at / "aside", kept)
    tune(at, tiny_base, "whole", options, resume=True)
    assert (run / WEIGHTS).read_bytes() == weights


def test_chinese_is_practised_only_by_a_base_that_has_words_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(corpus, "CORPUS", Path(corpus.__file__).parents[1] / "practice")  # the one that is shipped

    class Tokenizer:
        def __init__(self, tokens: float) -> None:
            self.tokens = tokens

        def __call__(self, text: str, **_: bool) -> dict[str, list[int]]:
            return {"input_ids": [0] * int(self.tokens * len(text))}

    assert [file.name for file in corpus_for(Tokenizer(0.8))] == ["en.jsonl", "zh.jsonl"]
    assert [file.name for file in corpus_for(Tokenizer(1.9))] == ["en.jsonl"]
    assert [file.name for file in corpus_for(Tokenizer(0.8), "zh")] == ["zh.jsonl"]


def test_practice_in_one_language_is_for_rows_in_that_language(
    at: Path, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ACTUNE_CACHE", str(tmp_path))
    assert practice(base=str(tiny_base), language="zh") == 0
    (folder,) = (tmp_path / "practice").iterdir()
    chinese = load_rows([at / "corpus" / "zh.jsonl"])
    assert read_manifest(folder).data["rows"] == len(chinese)
    given = resolve(str(tiny_base)), AutoTokenizer.from_pretrained(tiny_base), settle()
    assert room.start_of(*given, chinese)["folder"] == str(folder)
    assert room.start_of(*given, load_rows([at / "corpus" / "en.jsonl"])) == {}
    # What practised in all languages comes first.
    shutil.copytree(practised(at), tmp_path / "practice" / practised(at).name)
    assert room.start_of(*given, chinese)["folder"] == str(tmp_path / "practice" / practised(at).name)


def test_rows_base_settings_and_what_is_held_make_another_practice(
    tiny_base: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source, rows = resolve(str(tiny_base)), make_rows(4)
    other: list[Row] = make_rows(5)
    folders = {
        room.folder_for(source, rows),
        room.folder_for(source, other),
        room.folder_for(type(source)(source.id, source.path, "0" * 64), rows),
        room.folder_for(source, rows, settle(TrainOptions(epochs=3))),
    }
    monkeypatch.setattr(hold, "TOLD", 0)
    assert len({*folders, room.folder_for(source, rows)}) == 5
