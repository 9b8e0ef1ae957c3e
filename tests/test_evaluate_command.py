"""`actune eval` end to end on a tiny run: what it writes, shares and refuses."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from actune import prompt
from actune.actor import load_actor
from actune.data.load import load_rows
from actune.engine.logits import Text
from actune.errors import UserError
from actune.evaluate.command import evaluate
from actune.evaluate.general import questions
from actune.evaluate.likelihood import divergence_parts, reference_parts
from actune.evaluate.report import ALL_METRICS
from actune.evaluate.systems import System, base_within, load_systems
from actune.export.merge import merge
from actune.prompt_format import language_of
from actune.say import How
from actune.script.events import write
from actune.tune.command import train
from actune.tune.options import TrainOptions
from conftest import make_rows

HOW = How(max_tokens=12)


@pytest.fixture(scope="module")
def run(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("eval")
    with (folder / "rows.csv").open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["actions", "input", "output"])
        writer.writerows(["、".join(row.actions), row.question, row.script] for row in make_rows(12))
    assert (
        train([folder / "rows.csv"], base=str(tiny_base), out=folder / "run", options=TrainOptions(epochs=6, lr=0.02))
        == 0
    )
    return folder / "run"


@pytest.fixture(scope="module")
def choices(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("choices") / "choices.jsonl"
    rows = [
        {
            "id": f"c{n}",
            "source": "xy"[n % 2],
            "actions": list("abcd"),
            "question": f"Choice {n}",
            "expected": ["a"] * (n % 2),
        }
        for n in range(6)
    ]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return file


def report_of(folder: Path) -> dict[str, Any]:
    result: dict[str, Any] = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return result


@pytest.fixture(scope="module")
def report(run: Path, choices: Path) -> dict[str, Any]:
    """A table that was trained on and choice rows, base beside tuned, free too."""
    how = How(max_tokens=12, free=True)
    assert evaluate(str(run), [run.parent / "rows.csv", choices], against="base", how=how) == 0
    return report_of(run / "eval" / "rows+choices")


def test_four_systems_are_scored_on_all_rows(report: dict[str, Any]) -> None:
    assert list(report["scores"]) == ["tuned", "tuned.free", "base", "base.free"]
    assert all(set(row["answers"]) == set(report["scores"]) for row in report["rows"])
    assert len(report["rows"]) == 18
    tuned, base = report["scores"]["tuned"], report["scores"]["base"]
    assert set(tuned) == set(ALL_METRICS)
    assert tuned["cut"]["n"] == 18
    # The training lowers the perplexity of its own rows; a mixed-up base would have the same.
    assert tuned["ppl"]["value"] < 0.9 * base["ppl"]["value"]
    assert tuned["ppl"]["n"] == tuned["chrf"]["n"] == 12
    assert report["scores"]["tuned.free"]["prevented_count"]["value"] is None
    assert base["unclosed"]["value"] == tuned["unclosed"]["value"] == 0


def test_the_answers_are_what_say_would_give(report: dict[str, Any], run: Path, tiny_base: Path, choices: Path) -> None:
    rows = load_rows([run.parent / "rows.csv", choices])
    tuned, base = load_actor(run), load_actor(tiny_base)
    for row, line in list(zip(rows, report["rows"], strict=True))[::5]:
        said = write(tuned.events(row.question, row.actions, max_tokens=12))
        assert line["answers"]["tuned"] == said
        if language_of([row.question]) == language_of(each.question for each in rows[:12]):
            assert line["answers"]["base"] == write(base.events(row.question, row.actions, max_tokens=12))


def test_rows_it_was_trained_on_are_named(report: dict[str, Any], run: Path, choices: Path) -> None:
    assert report["about"]["seen"] == {"asked": True, "rows": 12}
    assert [row["seen"] for row in report["rows"]] == [True] * 12 + [False] * 6
    assert set(report["slices"]["row"]) == {"trained", "new"}
    assert set(report["slices"]["actions"]) == {"seen", "unseen"}


def test_a_base_is_scored_alone_and_has_no_base_itself(
    tiny_base: Path, choices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert evaluate(str(tiny_base), [choices], limit=4, how=HOW) == 0
    result = report_of(tmp_path / "eval" / tiny_base.name / "choices+limit-4")
    assert list(result["scores"]) == ["base"]
    assert (result["forgetting"], result["difference"]) == ({}, [])
    assert sorted(row["source"] for row in result["rows"]) == ["x", "x", "y", "y"]
    assert result["about"]["data"]["of"] == 6
    with pytest.raises(UserError, match="is a base itself"):
        evaluate(str(tiny_base), [choices], against="base", out=tmp_path / "other", how=HOW)


def test_forgetting_is_the_divergence_from_the_base_and_none_without_training(run: Path) -> None:
    (system,) = load_systems(str(run), None, How())
    base = base_within(system)
    assert base is not None
    texts = [Text([5, 6, 7, 8], [9, 10, 11]), Text([5], [7]), Text(list(range(20)), [3, 2])]
    parts = divergence_parts(base, system, texts, lambda count: None)
    assert [tokens for _, tokens in parts] == [3, 1, 2]
    for text, (found, _) in zip(texts, parts, strict=True):
        assert found == pytest.approx(plain_kl(system, text), rel=1e-4)
        assert found > 0
    assert all(abs(found) < 1e-6 for found, _ in divergence_parts(base, base, texts, lambda count: None))


def plain_kl(system: System, text: Text) -> float:
    ids = torch.tensor([[*text.prompt, *text.answer]])
    model: Any = system.actor.engine.model
    with torch.no_grad():
        q = model(ids).logits[0].log_softmax(-1)
        with model.disable_adapter():
            p = model(ids).logits[0].log_softmax(-1)
    span = slice(len(text.prompt) - 1, -1)
    return float(torch.nn.functional.kl_div(q[span], p[span], log_target=True, reduction="sum"))


def test_perplexity_counts_the_answer_alone_with_its_stop(tiny_base: Path) -> None:
    actor = load_actor(tiny_base)
    texts = []
    for row in make_rows(5):
        fmt = actor.format_for(row.question)
        texts.append(
            Text(actor.prompt_ids(row.question, row.actions), prompt.answer_ids(actor.tokenizer, fmt, row.script))
        )
    parts = reference_parts(actor.engine.model, texts, lambda count: None)
    for text, (found, tokens) in zip(texts, parts, strict=True):
        ids = torch.tensor([[*text.prompt, *text.answer]])
        labels = ids.clone()
        labels[:, : len(text.prompt)] = -100
        with torch.no_grad():
            loss = float(actor.engine.model(ids, labels=labels).loss)
        assert tokens == len(text.answer)
        assert found / tokens == pytest.approx(loss, rel=1e-4)


def test_general_questions_are_thirty_in_each_language() -> None:
    asked = questions()
    assert [language for language, _ in asked] == ["en"] * 30 + ["zh"] * 30
    assert len({text for _, text in asked}) == 60
    assert all(language_of([text]) == language for language, text in asked)


def test_a_second_run_is_named_after_its_folder(run: Path, choices: Path, tmp_path: Path) -> None:
    evaluate(str(run), [choices], against=str(run), limit=2, forgetting=False, out=tmp_path / "two", how=HOW)
    result = report_of(tmp_path / "two")
    assert list(result["scores"]) == ["tuned", "run"]
    assert all(each["value"] in (0, None) for each in result["difference"])
    assert result["forgetting"] == {}


def test_a_merged_folder_scores_as_its_run_does_and_finds_its_base(
    report: dict[str, Any], run: Path, choices: Path, tmp_path: Path
) -> None:
    assert merge(run, out=tmp_path / "merged") == 0
    data = [run.parent / "rows.csv", choices]
    assert evaluate(str(tmp_path / "merged"), data, against="base", out=tmp_path / "out", how=HOW) == 0
    result = report_of(tmp_path / "out")
    for one, other in zip(result["rows"], report["rows"], strict=True):
        assert one["answers"] == {name: other["answers"][name] for name in ("tuned", "base")}
    assert result["about"]["seen"] == report["about"]["seen"]
    kept = result["forgetting"]["tuned"]["value"]
    assert kept == pytest.approx(report["forgetting"]["tuned"]["value"], rel=1e-3)
    assert kept > 0.001


def test_a_report_on_other_rows_is_never_overwritten(run: Path, choices: Path, tmp_path: Path) -> None:
    def again(data: Sequence[Path], limit: int | None) -> None:
        evaluate(str(run), list(data), limit=limit, forgetting=False, out=tmp_path / "out", how=HOW)

    again([choices], 2)
    again([choices], 2)
    before = (tmp_path / "out" / "report.json").read_bytes()
    for data, limit in (([choices], 3), ([run.parent / "rows.csv"], 2)):
        with pytest.raises(UserError, match="a report on other rows") as caught:
            again(data, limit)
        assert "--out" in caught.value.fix
    assert (tmp_path / "out" / "report.json").read_bytes() == before


def test_lists_can_be_filled_up(run: Path, choices: Path, tmp_path: Path) -> None:
    data = [choices, run.parent / "rows.csv"]
    evaluate(str(run), data, list_size=8, limit=6, forgetting=False, out=tmp_path / "long", how=HOW)
    result = report_of(tmp_path / "long")
    assert {len(row["actions"]) for row in result["rows"] if row["expected"]} == {8}
    assert result["about"]["setting"]["list_size"] == 8


def test_all_mistakes_are_told_before_anything_is_loaded(run: Path, choices: Path, tmp_path: Path) -> None:
    bad = tmp_path / "bad.csv"
    bad.write_text("actions,input,output\na,hi,<&b&>\na,,x\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        evaluate("nowhere", [bad], how=HOW)
    assert "[unlisted-tag]" in str(caught.value)
    assert "[empty-question]" in str(caught.value)
    with pytest.raises(UserError, match="--limit, --list-size"):
        evaluate(str(run), [choices], limit=0, list_size=-1)
    wide = tmp_path / "wide.jsonl"
    lines = [{"actions": ["a"], "question": "word " * 900, "expected": []} for _ in range(2)]
    wide.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    with pytest.raises(UserError, match="2 rows cannot be rendered") as caught:
        evaluate(str(run), [wide], out=tmp_path / "out", how=HOW)
    assert "wide.jsonl:1" in str(caught.value)
    assert "wide.jsonl:2" in str(caught.value)
