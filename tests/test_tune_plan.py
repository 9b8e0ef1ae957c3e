"""What `plan` says before anything is loaded, and what training refuses because of it."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM, LlamaConfig, Qwen3MoeConfig

from actune.base.load import load_tokenizer
from actune.base.rates import Rates
from actune.cli import app
from actune.errors import UserError
from actune.prompt import PromptFormat
from actune.tune import calibrate as calibration
from actune.tune import memory
from actune.tune.command import train
from actune.tune.dataset import RowDataset, collate, view_of
from actune.tune.fast import proof
from actune.tune.fast.path import FastPath
from actune.tune.lora import add_lora
from actune.tune.metrics import read_metrics
from actune.tune.options import TrainOptions, settle
from actune.tune.plan import make_plan, survey
from actune.tune.rehearse import rehearse
from actune.tune.run import write_rows
from actune.tune.trainer import summed_loss
from conftest import make_rows


@pytest.fixture(scope="module")
def batch(tiny_base: Path) -> dict[str, torch.Tensor]:
    tokenizer, rows = load_tokenizer(tiny_base), make_rows(4)
    data = RowDataset(rows, tokenizer, PromptFormat.for_rows(rows, tokenizer), None)
    return collate([data[place] for place in range(4)])


def kept(model: Any, loss: Any) -> int:
    """Bytes that the backward pass keeps, counted on real tensors."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    found: dict[int, int] = {}

    def note(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            found[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        total = loss()
    for tensor in held_apart(total[0] if isinstance(total, tuple) else total):
        note(tensor)
    return sum(found.values())


def held_apart(loss: torch.Tensor) -> Iterator[torch.Tensor]:
    """Tensors that the fast path's own steps of autograd keep beside those that they save: no hook sees these."""
    left, seen = [loss.grad_fn], set()
    while left:
        node = left.pop()
        if node is None or node in seen:
            continue
        seen.add(node)
        left += [before for before, _ in node.next_functions]
        held = list(getattr(node, "__dict__", {}).values())
        while held:
            one = held.pop()
            if isinstance(one, torch.Tensor):
                yield one
            elif isinstance(one, list | tuple):
                held += one


@pytest.mark.parametrize("plain", [False, True])
def test_what_is_alive_is_at_least_what_a_real_step_keeps_and_not_much_more(
    plain: bool, tiny_base: Path, batch: dict[str, torch.Tensor]
) -> None:
    settings, config = settle(TrainOptions(plain=plain)), AutoConfig.from_pretrained(tiny_base)
    step = rehearse(config, batch, settings, torch.float32)
    assert step.how == ("plain" if plain else "fast")
    model = add_lora(AutoModelForCausalLM.from_pretrained(tiny_base), settings).train()
    if plain:
        real = kept(model, lambda: summed_loss(model, model.get_output_embeddings(), batch))
    else:
        with FastPath(model) as path:
            real = kept(model, lambda: path.loss(model, batch))
    assert real * 0.95 <= step.activations + step.logits <= real * 2  # temporaries come on top
    assert step.weights == sum(p.numel() * 4 for p in model.parameters() if not p.requires_grad)
    assert step.trained == sum(p.numel() for p in model.parameters() if p.requires_grad)


def test_computing_twice_bf16_and_fewer_bits_each_take_less(tiny_base: Path, batch: dict[str, torch.Tensor]) -> None:
    settings, config = settle(TrainOptions()), AutoConfig.from_pretrained(tiny_base)
    once = rehearse(config, batch, settings, torch.float32)
    twice = rehearse(config, batch, replace(settings, checkpointing=True), torch.float32)
    half = rehearse(config, batch, settings, torch.bfloat16)
    assert twice.activations < once.activations
    assert twice.flops > once.flops
    assert half.activations < once.activations
    assert half.weights * 2 == once.weights
    eight, four = (
        rehearse(config, batch, replace(settings, quantize=kind), torch.float32) for kind in ("8bit", "4bit")
    )
    assert four.weights < eight.weights < once.weights


def test_in_eight_bits_the_plain_path_is_planned_which_training_takes(
    tiny_base: Path, batch: dict[str, torch.Tensor]
) -> None:
    config = AutoConfig.from_pretrained(tiny_base)
    how = {
        kind: rehearse(config, batch, replace(settle(), quantize=kind), torch.float32).how for kind in ("8bit", "4bit")
    }
    assert how == {"8bit": "plain", "4bit": "fast"}


def test_experts_are_planned_too(batch: dict[str, torch.Tensor]) -> None:
    sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    config = Qwen3MoeConfig(
        vocab_size=640, **sizes, num_key_value_heads=2, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=32
    )
    step = rehearse(config, batch, settle(TrainOptions()), torch.float32)
    assert step.activations > 0
    assert step.parameters > 0


def test_the_largest_batch_and_all_tokens_are_found(tiny_base: Path) -> None:
    tokenizer, rows = load_tokenizer(tiny_base), make_rows(9)
    settings = replace(settle(TrainOptions(epochs=3)), remember=False)
    data = RowDataset(rows, tokenizer, PromptFormat.for_rows(rows, tokenizer), view_of(rows, settings, 1024))
    found = survey(data, settings)
    tokens, areas = 0, []
    for epoch in range(3):
        data.set_epoch(epoch)
        for begin in range(0, 9, 4):
            lengths = [len(data[place]["input_ids"]) for place in range(begin, min(9, begin + 4))]
            areas.append(len(lengths) * max(lengths))
    tokens = sum(areas)
    assert found.tokens == tokens
    assert found.largest["input_ids"].numel() == max(areas)


def llama_8b(folder: Path, tokenizer: Path) -> Path:
    """The configuration of llama-3-chinese-8b-instruct-v3, the source's base; no weights."""
    config = LlamaConfig(
        vocab_size=128256, hidden_size=4096, intermediate_size=14336, num_hidden_layers=32, num_attention_heads=32,
        num_key_value_heads=8, max_position_embeddings=8192, rope_theta=500000.0, rms_norm_eps=1e-5,
        bos_token_id=None, eos_token_id=load_tokenizer(tokenizer).eos_token_id, tie_word_embeddings=False,
        dtype="bfloat16",
    )  # fmt: skip
    config.save_pretrained(folder)
    load_tokenizer(tokenizer).save_pretrained(folder)
    return folder


def test_the_sources_base_is_planned_from_its_configuration_alone(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "rows.jsonl"
    write_rows(table, make_rows(4))
    base = llama_8b(tmp_path / "base", tiny_base)
    words = ["plan", str(table), "--base", str(base), "--recipe", "origin", "--epochs", "1"]
    app()(words, result_action="return_value")
    out = capsys.readouterr().out
    assert "8,030,261,248 parameters; trained: 20,971,520" in out
    lines = {tuple(line.split()[:2]): line.split() for line in out.splitlines() if line[:4] in ("fp32", "4bit")}
    assert lines["fp32", "no"][3] == "32.12"
    assert lines["4bit", "yes"][3] == "7.80"  # embeddings and head stay in fp32
    assert "--recipe origin --epochs 1" in out or "nothing fits" in out


def test_where_training_takes_bf16_the_plan_does(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "rows.jsonl"
    write_rows(table, make_rows(4))
    words = ["plan", str(table), "--base", str(tiny_base), "--epochs", "1", "--device", "cpu"]

    def told(bf16: float, *more: str) -> str:
        monkeypatch.setattr(proof, "rates", lambda: Rates(100, 0, bf16, 10, 10, 10.0))
        monkeypatch.setattr(proof, "LEAST_WIDTH", 1)
        app()([*words, *more], result_action="return_value")
        return capsys.readouterr().out

    assert "train here holds the base in fp32" in told(100)
    quick = told(500)
    assert "train here holds the base in bf16" in quick
    assert "--epochs 1 --device cpu --out RUN" in quick  # it needs no option for that
    assert "holds the base" not in told(500, "--dtype", "fp32")


def test_a_base_that_has_no_room_in_two_forms_is_proposed_in_one(
    tiny_base: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "rates", lambda: Rates(100, 0, 500, 10, 10, 10.0))
    monkeypatch.setattr(proof, "LEAST_WIDTH", 1)
    monkeypatch.setattr(memory, "free", lambda device: 24_000_000_000)
    table = tmp_path / "rows.jsonl"
    write_rows(table, make_rows(4))
    base = llama_8b(tmp_path / "base", tiny_base)
    words = ["plan", str(table), "--base", str(base), "--epochs", "1", "--device", "cpu"]
    assert app()(words, result_action="return_value") == 0
    out = capsys.readouterr().out
    assert "holds the base in fp32, for which there is no room" in out
    assert "--epochs 1 --device cpu --dtype bf16 --out RUN" in out


def test_a_base_that_is_rounded_is_there_twice_at_first(
    tiny_base: Path, batch: dict[str, torch.Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(proof, "rates", lambda: Rates(100, 0, 500, 10, 10, 10.0))
    monkeypatch.setattr(proof, "LEAST_WIDTH", 1)
    tokenizer, rows = load_tokenizer(tiny_base), make_rows(9)
    config, cpu = AutoConfig.from_pretrained(tiny_base), torch.device("cpu")
    plans = []
    for dtype, stored in (("fp32", torch.float32), ("auto", torch.float32), ("auto", torch.bfloat16)):
        settings, config.dtype = settle(TrainOptions(epochs=1, dtype=dtype)), stored
        data = RowDataset(rows, tokenizer, PromptFormat.for_rows(rows, tokenizer), view_of(rows, settings, 1024))
        plans.append(make_plan(data, 0, settings, config, cpu, torch.float32).need)
    whole, half, read = plans
    assert half.step.weights * 2 == whole.step.weights
    assert not whole.begin
    assert half.begin > 2 * whole.step.weights  # mapped, and its linear layers in joined matrices
    assert 1.5 * whole.step.weights < read.begin < half.begin  # read, and so nothing is left where it was joined from
    assert half.bytes >= half.begin + half.runtime


def test_a_hopeless_training_ends_before_anything_is_loaded(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "rows.jsonl"
    write_rows(table, make_rows(4))
    monkeypatch.setattr(memory, "free", lambda device: 1_000_000)
    monkeypatch.setattr("actune.tune.prepare.load_model", lambda *_: pytest.fail("it was loaded"))
    with pytest.raises(UserError, match="actune plan"):
        train([table], base=str(tiny_base), out=tmp_path / "run", options=TrainOptions(epochs=1))


@pytest.mark.parametrize(("slack", "dtype"), [(memory.SLACK, torch.float32), (0.0, torch.bfloat16)])
def test_a_base_in_bf16_is_widened_at_the_end_only_where_there_is_room(
    slack: float, dtype: torch.dtype, tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table, seen, whole = tmp_path / "rows.jsonl", [], calibration.calibrate
    write_rows(table, make_rows(44))

    def watched(engine, *more):
        seen.append(engine.model.dtype)
        return whole(engine, *more)

    monkeypatch.setattr(calibration, "calibrate", watched)
    monkeypatch.setattr(memory, "SLACK", slack)  # none of the memory may be taken
    options = TrainOptions(epochs=1, dtype="bf16", valid=0.4)  # 18 rows to calibrate on
    assert train([table], base=str(tiny_base), out=tmp_path / "run", options=options) == 0
    assert seen == [dtype]


def test_layers_are_computed_twice_where_memory_asks_for_it_and_the_result_is_the_same(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = tmp_path / "rows.jsonl"
    write_rows(table, make_rows(6))
    results = []
    for name, spare in (("once", memory.SPARE), ("twice", 0.0)):
        monkeypatch.setattr(memory, "SPARE", spare)
        train([table], base=str(tiny_base), out=tmp_path / name, options=TrainOptions(epochs=1, lr=1e-2))
        manifest = json.loads((tmp_path / name / "actune.json").read_text(encoding="utf-8"))
        assert manifest["probe"]["path"]["recompute"] == (name == "twice")
        results.append(read_metrics(tmp_path / name))
    for one, other in zip(*results, strict=True):
        assert one["loss"] == pytest.approx(other["loss"], rel=1e-5)
        assert one["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-4)
