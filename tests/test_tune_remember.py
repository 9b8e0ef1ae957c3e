"""What a training leaves as it was: the base's answers to general questions."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoTokenizer

from actune.base.load import load_model
from actune.base.source import Source, resolve
from actune.data.augment import used_actions
from actune.data.rows import Row, Turn
from actune.engine.logits import answer_logits
from actune.errors import UserError
from actune.evaluate.general import questions as asked_in_evaluations
from actune.prompt import PromptFormat
from actune.tune import hold, remember
from actune.tune.command import run_in, train
from actune.tune.dataset import RowDataset, collate
from actune.tune.encode import IGNORE
from actune.tune.fast.path import FastPath
from actune.tune.lora import add_lora
from actune.tune.options import RECIPES, TrainOptions, settle
from actune.tune.run import read_manifest, write_rows
from actune.tune.trainer import summed_loss
from tiny_actor import byte_tokenizer


@pytest.fixture
def base(tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Source:
    monkeypatch.setenv("ACTUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(remember, "questions", lambda: [("en", "How are you?"), ("zh", "你好吗?"), ("en", "Why?")])
    return resolve(str(tiny_base))


def known(base: Source) -> tuple[Any, list[remember.Memory]]:
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    model = load_model(base.path)
    return model, remember.memories(model, tokenizer, PromptFormat.for_rows((), tokenizer), base)[0]


def held(kept: list[remember.Memory], rows: RowDataset | None = None) -> hold.Kept:
    return hold.Kept(kept, [] if rows is None else rows, told(rows.rows if rows else []))  # type: ignore[arg-type]


def told(rows: Sequence[Row]) -> hold.Told:
    return hold.Told(rows, byte_tokenizer())


@torch.no_grad()
def distance(model: Any, kept: list[remember.Memory]) -> float:
    """Mean distance a token from what the base answered, through the rows of a batch."""
    before = {"input_ids": [5, 6, 7], "attention_mask": [1, 1, 1], "labels": [-100, 6, 7]}
    batch = hold.added({name: torch.tensor([row]) for name, row in before.items()}, held(kept), "any")
    logits = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    places = torch.nn.functional.pad(batch["labels"][:, 1:], (0, 1), value=-100) != -100
    count = len(batch["memory_ids"])
    return float(hold.forgotten(logits[places][-count:], batch)) / count


def test_no_question_is_one_that_evaluations_ask() -> None:
    assert not {text for _, text in remember.questions()} & {text for _, text in asked_in_evaluations()}
    assert len(set(remember.questions())) == 192


def test_answers_lie_in_one_block_for_between_logits_they_would_keep_gigabytes(base: Source) -> None:
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    fmt = PromptFormat.for_rows((), tokenizer)
    made = remember._answered(load_model(base.path), tokenizer, fmt, [[1, 2, 3], [4, 5], [6]])
    assert len(made) == 3
    assert len({one.logs.untyped_storage().data_ptr() for one in made}) == 1
    assert len({one.ids.untyped_storage().data_ptr() for one in made}) == 1


def test_a_base_is_at_no_distance_from_itself_and_answers_once(base: Source) -> None:
    model, first = known(base)
    _, again = known(base)
    assert [one.text for one in first] == [one.text for one in again]
    assert len(list((base_cache(base)).glob("*.safetensors"))) == 1
    assert distance(model, first) == pytest.approx(0, abs=1e-5)


def base_cache(_base: Source) -> Path:
    from actune.base.cache import cache_folder

    return cache_folder() / "memory"


def test_the_distance_is_the_divergence_where_all_tokens_are_kept(
    base: Source, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(remember, "KEPT", 10_000)
    model, kept = known(base)
    with torch.no_grad():
        before = torch.cat(answer_logits(model, [one.text for one in kept]))
        for value in model.parameters():
            value += 0.05 * torch.randn(value.shape, generator=torch.Generator().manual_seed(1))
        after = torch.cat(answer_logits(model, [one.text for one in kept]))
    p, q = torch.log_softmax(before, -1), torch.log_softmax(after, -1)
    wanted = float((p.exp() * (p - q)).sum(-1).mean())
    assert wanted > 0.01
    assert distance(model, kept) == pytest.approx(wanted, rel=1e-3)


def test_a_training_that_remembers_stays_nearer_to_its_base(
    base: Source, rows: list[Row], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    # The answers of a random base are noise, and hardly move: they must weigh more than a real one's.
    monkeypatch.setattr(hold, "WEIGHT", 300.0)
    _, kept = known(base)
    settings = settle(TrainOptions(epochs=4, lr=2e-2, valid=0.0, dtype="fp32", practice="off"))
    far = []
    for name, on in (("with", True), ("without", False)):
        out = tmp_path / name
        assert run_in(out, [], rows, base, replace(settings, remember=on), resume=False, trust=False) == 0
        tuned = add_lora(load_model(base.path), settings)
        set_peft_model_state_dict(tuned, load_file(out / "adapter_model.safetensors"))
        far.append(distance(tuned.eval(), kept))
    assert far[0] < 0.5 * far[1], far


def test_a_run_does_not_go_on_with_other_answers(base: Source, rows: list[Row], tmp_path: Path) -> None:
    table = tmp_path / "rows.jsonl"
    write_rows(table, rows)
    run = tmp_path / "run"
    assert train([table], base=str(base.path), out=run, options=TrainOptions(epochs=1)) == 0
    assert read_manifest(run).probe["memory"]
    with pytest.raises(UserError, match="--resume"):
        remember.check_memory(read_manifest(run).probe["memory"], "another")


def test_the_source_recipe_is_left_as_it_is() -> None:
    assert not RECIPES["origin"].remember
    assert RECIPES["small"].remember


@pytest.mark.parametrize("chunked", [True, False])
def test_the_fast_path_remembers_as_the_plain_one_does(base: Source, rows: list[Row], chunked: bool) -> None:
    model, kept = known(base)
    tuned = add_lora(model, settle(TrainOptions(dtype="fp32")))
    with torch.no_grad():
        for name, value in tuned.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.05, generator=torch.Generator().manual_seed(2))
    tokenizer = AutoTokenizer.from_pretrained(base.path)
    data = RowDataset(rows[:3], tokenizer, PromptFormat.for_rows(rows, tokenizer), None)
    more = RowDataset(rows[3:9], tokenizer, data.fmt, None)
    batch = hold.added(collate([data[place] for place in range(3)]), held(kept, more), "any")
    assert len(batch["input_ids"]) == 3 + hold.REPLAYED + min(hold.TOLD, len(told(more.rows))) + 3
    found = []
    for path in (None, FastPath(tuned, chunked=chunked)):
        with path or nullcontext():
            total, count = path.loss(tuned, batch) if path else summed_loss(tuned, tuned.get_output_embeddings(), batch)
            total.backward()
        grads = {name: value.grad for name, value in tuned.named_parameters() if value.grad is not None}
        found.append((float(total), count, grads))
        tuned.zero_grad(set_to_none=True)
    plain, fast = found
    assert plain[:2] == (pytest.approx(fast[0], rel=1e-5), fast[1])
    for name, grad in plain[2].items():
        assert float((grad - fast[2][name]).norm()) <= 1e-4 * float(grad.norm())


def test_questions_are_trained_after_the_actions_that_they_want(rows: list[Row]) -> None:
    row = next(row for row in rows if used_actions(row))
    later = replace(row, history=(Turn("user", "before"), Turn("assistant", "yes")))
    asked, used = told([row, later]), used_actions(row)
    assert len(asked) == len(used) > 0, "a question that hangs on earlier turns is left out"
    tokenizer = byte_tokenizer()
    for place, name in enumerate(used):
        item = asked[place]
        begin = sum(label == IGNORE for label in item["labels"])
        assert tokenizer.decode(item["input_ids"][begin:]) == row.question
        assert item["labels"][begin:] == item["input_ids"][begin:]
        assert name.replace("-", " ") in tokenizer.decode(item["input_ids"][:begin])
