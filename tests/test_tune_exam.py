"""Training by the score: what is measured is what a user would see, and measuring changes nothing."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from actune.actor import load_actor
from actune.data.load import load_rows
from actune.data.rows import Row
from actune.prompt import PromptFormat
from actune.script.acting import Acting
from actune.script.events import write
from actune.script.score import Outcome, measure
from actune.tune import exam as exam_module
from actune.tune import metrics, resume
from actune.tune.command import train
from actune.tune.dataset import RowDataset
from actune.tune.exam import Exam
from actune.tune.options import TrainOptions, settle
from actune.tune.run import read_manifest
from conftest import make_rows
from test_tune_trainer import trainer_for


@pytest.fixture(scope="module")
def run(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that is best at its second validation, and so ends early."""
    torch.set_num_threads(1)
    folder = tmp_path_factory.mktemp("score")
    with (folder / "rows.csv").open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["actions", "input", "output"])
        writer.writerows(["、".join(row.actions), row.question, row.script] for row in make_rows(40))
    asked: list[dict[str, float]] = []
    whole = Exam.ask

    def ask(self: Exam) -> dict[str, float]:
        asked.append(whole(self) | {"f1": 0.5 if len(asked) == 1 else 0.25})
        return asked[-1]

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Exam, "ask", ask)
        again(folder / "run", tiny_base)
    return folder / "run"


def again(run: Path, base: Path, go_on: bool = False) -> None:
    options = TrainOptions(epochs=4, lr=1e-2)
    assert train([run.parent / "rows.csv"], base=str(base), out=run, options=options, resume=go_on) == 0


def test_a_run_that_does_not_become_better_ends_early_and_keeps_its_best_step(run: Path) -> None:
    best, lines = read_manifest(run).best, metrics.read_metrics(run)
    last = lines[-1]["step"]
    assert (best["step"], best["of"], best["ended"], last) == (4, 16, 12, 12)
    assert resume.step_of(resume.checkpoints(run)[-1]) == 12
    kept = run / f"checkpoint-{best['step']}" / "adapter_model.safetensors"
    assert (run / "adapter_model.safetensors").read_bytes() == kept.read_bytes()


def test_killed_after_the_last_checkpoint_of_an_early_end_it_ends_the_same(run: Path, tiny_base: Path) -> None:
    names = ("adapter_model.safetensors", "metrics.jsonl", "samples.jsonl", "actune.json")
    before = [(run / name).read_bytes() for name in names]
    (run / names[0]).unlink()
    again(run, tiny_base, go_on=True)
    assert [(run / name).read_bytes() for name in names] == before


def test_the_samples_are_what_the_checkpoint_says_to_a_user(run: Path) -> None:
    step = read_manifest(run).best["step"]
    samples = [sample for sample in metrics.read_metrics(run, metrics.SAMPLES) if sample["step"] == step]
    assert len(samples) == 3
    actor = load_actor(run, unmerged=True)
    actor.acting = exam_module.ASKED
    rows = {row.question: row for row in load_rows([run / "valid.jsonl"])}
    for sample in samples:
        row = rows[sample["question"]]
        trained = len(actor.tokenizer(row.script)["input_ids"]) + 1
        budget = min(exam_module.MOST_TOKENS, 16 + 2 * trained)
        assert sample["answer"] == write(actor.events(row.question, row.actions, max_tokens=budget))
        assert (sample["wanted"], sample["actions"]) == (row.script, list(row.actions))


def test_what_is_found_about_acting_is_stored_and_used(run: Path) -> None:
    actor = load_actor(run)
    assert actor.acting == Acting.from_dict(read_manifest(run).acting)


def test_the_scores_are_counted_from_the_answers_of_all_rows(tiny_base: Path) -> None:
    exam = exam_for(tiny_base, make_rows(6))
    scores = exam.ask()
    assert [len(answer.outcome.wanted) for answer in exam.answers] == [0, 1, 2] * 2
    outcomes = [
        Outcome(answer.outcome.wanted, True, answer.row.actions, answer.events, answer.outcome.reference)
        for answer in exam.answers
    ]
    assert scores == {name: value for name, value in measure(outcomes).items() if value is not None}
    assert scores["unclosed"] == scores.get("repeat", 0) == 0


def test_rows_and_tokens_are_bounded(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exam_module, "MOST_ROWS", 4)
    monkeypatch.setattr(exam_module, "MOST_TOKENS", 5)
    exam = exam_for(tiny_base, make_rows(12))
    assert [row.question for row in exam.rows] == [make_rows(12)[place].question for place in (0, 3, 6, 9)]
    exam.ask()
    assert all(request.max_tokens == 5 for request in exam.requests)


def exam_for(base: Path, rows: list[Row]) -> Exam:
    tokenizer = AutoTokenizer.from_pretrained(base)
    data = RowDataset(rows, tokenizer, PromptFormat.for_rows(rows, tokenizer), None)
    return Exam(AutoModelForCausalLM.from_pretrained(base).eval(), data)


@pytest.mark.parametrize("recipe", ["small", "origin"])  # origin recomputes activations
def test_asking_changes_nothing_in_the_training(tiny_base: Path, tmp_path: Path, recipe: str) -> None:
    options = TrainOptions(recipe=recipe, epochs=2, lr=1e-2, dropout=0.3, save_steps=1)  # type: ignore[arg-type]
    adapters = []
    for asked in (True, False):
        trainer = trainer_for(tiny_base, tmp_path / str(asked), settle(options), 12, valid=4)
        trainer.args.eval_steps = trainer.state.eval_steps = 1
        if asked:
            assert trainer.eval_dataset is not None
            trainer.exam = Exam(trainer.model, trainer.eval_dataset)
        trainer.train()
        adapters.append({name: p.detach().clone() for name, p in trainer.model.named_parameters() if "lora_" in name})
        asks = sum("eval_f1" in line for line in trainer.state.log_history)
        assert asks == (trainer.state.global_step if asked else 0) != 1
    assert all(torch.equal(adapters[0][name], adapters[1][name]) for name in adapters[0])


def test_an_exam_sees_the_weights_as_they_are_now(tiny_base: Path) -> None:
    rows = make_rows(4)
    exam = exam_for(tiny_base, rows)
    exam.ask()
    before = [answer.events for answer in exam.answers]
    with torch.no_grad():
        for parameter in exam.engine.model.parameters():
            parameter.add_(torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1)) * 0.5)
    exam.ask()
    fresh = exam_for(tiny_base, rows)
    fresh.engine.model.load_state_dict(exam.engine.model.state_dict())
    fresh.ask()
    said = [[write(answer.events) for answer in one.answers] for one in (exam, fresh)]
    assert said[0] == said[1]
    assert said[0] != [write(events) for events in before]
