from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback

from actune.errors import UserError
from actune.prompt import PromptFormat
from actune.tune.callbacks import FirstStep, StepSeed
from actune.tune.dataset import RowDataset, collate, view_of
from actune.tune.lora import add_lora
from actune.tune.options import Settings, TrainOptions, settle
from actune.tune.trainer import RowTrainer, make_trainer, summed_loss
from conftest import make_rows


class Gradients(TrainerCallback):
    """Note the gradients of every step."""

    def __init__(self) -> None:
        self.steps: list[dict[str, torch.Tensor]] = []

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, *, model: Any, **_: Any) -> None:
        grads = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
        self.steps.append(grads)


def trainer_for(
    base: Path, run: Path, settings: Settings, count: int, valid: int = 0, note: TrainerCallback | None = None
) -> RowTrainer:
    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(base)
    rows = make_rows(count)
    fmt = PromptFormat.for_rows(rows, tokenizer)
    train = RowDataset(rows, tokenizer, fmt, view_of(rows, settings, 1024))
    checked = RowDataset(make_rows(valid), tokenizer, fmt, None) if valid else None
    model = add_lora(AutoModelForCausalLM.from_pretrained(base), settings)
    hooks = [StepSeed(), FirstStep(), *([note] if note else [])]
    return make_trainer(model, train, checked, settings, run, 1000, hooks)


def test_every_trainable_tensor_moves_and_no_base_tensor_does(tiny_base: Path, tmp_path: Path) -> None:
    for recipe in ("small", "origin"):
        trainer = trainer_for(tiny_base, tmp_path, settle(TrainOptions(recipe=recipe, epochs=4)), 9)  # type: ignore[arg-type]
        before = {name: parameter.detach().clone() for name, parameter in trainer.model.named_parameters()}
        trainer.train()
        for name, parameter in trainer.model.named_parameters():
            assert torch.equal(parameter, before[name]) != ("lora_" in name), (recipe, name)
            assert parameter.requires_grad == ("lora_" in name)


def test_the_adapter_is_on_all_linear_layers_and_begins_the_same(tiny_base: Path) -> None:
    settings = settle(TrainOptions())
    torch.manual_seed(1)
    one = add_lora(AutoModelForCausalLM.from_pretrained(tiny_base), settings)
    torch.manual_seed(2)
    two = add_lora(AutoModelForCausalLM.from_pretrained(tiny_base), settings)
    adapter = {name: p for name, p in one.named_parameters() if "lora_" in name}
    assert len(adapter) == 2 * 7 * 2
    assert not any("lm_head" in name for name in adapter)
    assert all(torch.equal(p, dict(two.named_parameters())[name]) for name, p in adapter.items())


def test_targets_that_are_nowhere_are_refused(tiny_base: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    with pytest.raises(UserError, match="all-linear"):
        add_lora(model, settle(TrainOptions(targets="c_attn")))


def test_the_loss_is_that_of_transformers_and_the_head_sees_trained_positions_only(tiny_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    rows = make_rows(5)
    data = RowDataset(rows, tokenizer, PromptFormat.for_rows(rows, tokenizer), None)
    batch = collate([data[place] for place in range(5)])
    head, seen = model.get_output_embeddings(), []
    handle = head.register_forward_hook(lambda _m, _i, out: seen.append(out.shape))
    total, count = summed_loss(model, head, batch)
    handle.remove()
    assert count == sum(data.example(index).trained for index in range(5))
    assert seen == [(1, count, model.config.vocab_size)]
    plain = model(batch["input_ids"], batch["attention_mask"], labels=batch["labels"]).loss
    assert total.item() / count == pytest.approx(plain.item(), rel=1e-5)


def test_four_batches_of_four_are_one_of_sixteen_the_last_short_window_too(tiny_base: Path, tmp_path: Path) -> None:
    steps = []
    for size, accum in ((16, 1), (4, 4)):
        note = Gradients()
        settings = settle(TrainOptions(epochs=2, batch_size=size, grad_accum=accum, dropout=0.0))
        trainer_for(tiny_base, tmp_path, replace(settings, warmup=0.0), 18, note=note).train()
        assert len(note.steps) == 4  # 16 and 2 rows, twice
        steps.append(note.steps)
    for one, other in zip(*steps, strict=True):
        assert one.keys() == other.keys()
        for name in one:
            scale = one[name].abs().max().item()
            torch.testing.assert_close(one[name], other[name], rtol=0, atol=2e-4 * scale + 1e-9)


def test_the_gradient_is_that_of_the_mean_over_tokens(tiny_base: Path, tmp_path: Path) -> None:
    note = Gradients()
    settings = replace(settle(TrainOptions(epochs=1, batch_size=2, grad_accum=2, augment="off")), warmup=0.0)
    trainer = trainer_for(tiny_base, tmp_path, settings, 3, note=note)
    trainer.args.max_grad_norm = 0.0
    trainer.train()
    fresh = trainer_for(tiny_base, tmp_path, settings, 3)
    data = fresh.train_dataset
    batch = collate([data[place] for place in range(3)])
    fresh.model.train()
    fresh.model(batch["input_ids"], batch["attention_mask"], labels=batch["labels"]).loss.backward()
    for name, parameter in fresh.model.named_parameters():
        if "lora_B" in name:
            torch.testing.assert_close(note.steps[0][name], parameter.grad, rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize("count", [1, 3, 17])
def test_few_rows_work_and_none_is_left_out(tiny_base: Path, tmp_path: Path, count: int) -> None:
    seen: list[int] = []

    class Seen(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
            seen.append(state.global_step)

    trainer = trainer_for(tiny_base, tmp_path, settle(TrainOptions(epochs=2, grad_accum=1)), count, note=Seen())
    used: list[int] = []
    whole = trainer.train_dataset.__class__.__getitem__

    def watch(self: RowDataset, place: int) -> dict[str, Any]:
        item = whole(self, place)
        used.append(item["rows"])
        return item

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RowDataset, "__getitem__", watch)
        trainer.train()
    assert sorted(used) == sorted([*range(count)] * 2)
    assert len(seen) == 2 * -(-count // 4)


def test_validation_is_the_mean_over_tokens_and_draws_nothing(tiny_base: Path, tmp_path: Path) -> None:
    settings = settle(TrainOptions(batch_size=2, dropout=0.5))
    trainer = trainer_for(tiny_base, tmp_path, settings, 3, valid=5)
    data = trainer.eval_dataset
    batch = collate([data[place] for place in range(5)])
    trainer.model.eval()
    with torch.no_grad():
        wanted = trainer.model(batch["input_ids"], batch["attention_mask"], labels=batch["labels"]).loss.item()
    assert trainer.evaluate()["eval_loss"] == pytest.approx(wanted, rel=1e-5)


def test_it_learns(tiny_base: Path, tmp_path: Path) -> None:
    trainer = trainer_for(tiny_base, tmp_path, settle(TrainOptions(epochs=6, lr=1e-2)), 16)
    trainer.train()
    losses = [line["loss"] for line in trainer.state.log_history if "loss" in line]
    assert len(losses) == 12
    assert losses[-1] < losses[0] - 0.15


def test_nothing_is_reported_to_any_network(tiny_base: Path, tmp_path: Path) -> None:
    trainer = trainer_for(tiny_base, tmp_path, settle(TrainOptions()), 1)
    assert trainer.args.report_to == []
    assert not trainer.args.push_to_hub
