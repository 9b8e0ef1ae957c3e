"""Each guard: break the thing, see the message."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, PreTrainedTokenizerBase

from actune.data.rows import Row
from actune.errors import UserError
from actune.prompt import PromptFormat
from actune.tune import guards
from actune.tune.dataset import RowDataset, collate
from actune.tune.encode import IGNORE, Example, encode
from actune.tune.lora import add_lora
from actune.tune.options import TrainOptions, settle
from actune.tune.prepare import prepare
from actune.tune.trainer import summed_loss
from conftest import make_rows


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_base)


@pytest.fixture(scope="module")
def fmt(tokenizer: PreTrainedTokenizerBase, rows: list[Row]) -> PromptFormat:
    return PromptFormat.for_rows(rows, tokenizer)


@pytest.fixture
def tuned(tiny_base: Path) -> Any:
    torch.set_num_threads(1)
    return add_lora(AutoModelForCausalLM.from_pretrained(tiny_base), settle(TrainOptions()))


def refusal(rows: list[Row], examples: list[Example], tokenizer: Any, fmt: PromptFormat, ends: set[int]) -> str:
    with pytest.raises(UserError) as error:
        guards.check_encoding(rows, examples, tokenizer, fmt, ends)
    return str(error.value)


def test_good_rows_pass(rows: list[Row], tokenizer: PreTrainedTokenizerBase, fmt: PromptFormat) -> None:
    examples = [encode(row, tokenizer, fmt) for row in rows]
    guards.check_encoding(rows, examples, tokenizer, fmt, {tokenizer.eos_token_id})


def test_a_row_without_trained_tokens(rows: list[Row], tokenizer: PreTrainedTokenizerBase, fmt: PromptFormat) -> None:
    examples = [encode(row, tokenizer, fmt) for row in rows]
    examples[3] = replace(examples[3], labels=[IGNORE] * len(examples[3].labels))
    message = refusal(rows, examples, tokenizer, fmt, {tokenizer.eos_token_id})
    assert "rows.csv:5: no trained token" in message
    assert "rows.csv:4:" not in message


def test_a_prompt_that_is_not_the_prompt_of_use(
    rows: list[Row], tokenizer: PreTrainedTokenizerBase, fmt: PromptFormat
) -> None:
    examples = [encode(row, tokenizer, fmt) for row in rows]
    examples[0] = encode(replace(rows[0], question=rows[0].question + " "), tokenizer, fmt)
    examples[1] = replace(examples[1], labels=examples[1].input_ids)  # the prompt is trained too
    message = refusal(rows, examples, tokenizer, fmt, {tokenizer.eos_token_id})
    assert "rows.csv:2: the prompt is not" in message
    assert "rows.csv:3: the prompt is not" in message


def test_a_doubled_bos(rows: list[Row], tiny_base: Path, fmt: PromptFormat) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_base)
    tokenizer.bos_token = "<|im_start|>"
    example = encode(rows[0], tokenizer, fmt)
    # SmolLM2's BOS opens every turn: one at the start is right.
    guards.check_encoding([rows[0]], [example], tokenizer, fmt, {tokenizer.eos_token_id})
    first = tokenizer.bos_token_id
    doubled = Example([first, *example.input_ids], [IGNORE, *example.labels])
    assert "two BOS tokens" in refusal([rows[0]], [doubled], tokenizer, fmt, {tokenizer.eos_token_id})


def test_a_last_token_that_does_not_stop(
    rows: list[Row], tokenizer: PreTrainedTokenizerBase, fmt: PromptFormat
) -> None:
    examples = [encode(row, tokenizer, fmt) for row in rows]
    cut = [Example(example.input_ids[:-1], example.labels[:-1]) for example in examples[:1]]
    assert "is no stop token" in refusal(rows[:1], cut, tokenizer, fmt, {tokenizer.eos_token_id})
    untrained = [replace(examples[0], labels=[*examples[0].labels[:-1], IGNORE])]
    assert "is no stop token" in refusal(rows[:1], untrained, tokenizer, fmt, {tokenizer.eos_token_id})
    # The base would not stop on it: generation_config.eos_token_id names another.
    message = refusal(rows, examples, tokenizer, fmt, {tokenizer.pad_token_id})
    assert "'<|im_end|>'" in message
    assert "generation_config.json" in message
    assert "and 6 more" in message


def test_a_batch_that_trains_less_than_its_rows(
    rows: list[Row], tokenizer: PreTrainedTokenizerBase, fmt: PromptFormat
) -> None:
    data = RowDataset(rows, tokenizer, fmt, None)
    examples = [data.example(0), data.example(1)]
    batch = collate([data[0], data[1]])
    guards.check_batch(batch, examples)
    # What collators do that mask by token id where pad is the stop token.
    stop = batch["labels"] == tokenizer.eos_token_id
    with pytest.raises(UserError, match="trained tokens in a batch"):
        guards.check_batch({**batch, "labels": batch["labels"].masked_fill(stop, IGNORE)}, examples)
    with pytest.raises(UserError, match="masked by length"):
        guards.check_batch({**batch, "attention_mask": torch.ones_like(batch["labels"])}, examples)


def test_rows_that_are_too_long_stop_the_run_or_are_dropped(
    rows: list[Row], tokenizer: PreTrainedTokenizerBase, fmt: PromptFormat
) -> None:
    examples = [encode(row, tokenizer, fmt) for row in rows]
    lengths = [len(example.input_ids) for example in examples]
    most = max(lengths) - 1
    with pytest.raises(UserError, match=r"rows\.csv:\d+: \d+ tokens") as error:
        guards.check_lengths(rows, examples, most, drop=False)
    assert "--drop-long" in str(error.value)
    assert len(guards.check_lengths(rows, examples, most, drop=True)) == sum(n <= most for n in lengths)
    with pytest.raises(UserError):
        guards.check_lengths(rows, examples, 3, drop=True)


def batch_of(rows: list[Row], tokenizer: Any, fmt: PromptFormat) -> dict[str, torch.Tensor]:
    data = RowDataset(rows, tokenizer, fmt, None)
    return collate([data[0], data[1]])


def backward(tuned: Any, batch: dict[str, torch.Tensor]) -> None:
    summed_loss(tuned, tuned.get_output_embeddings(), batch)[0].backward()


def test_gradients(rows: list[Row], tokenizer: PreTrainedTokenizerBase, fmt: PromptFormat, tuned: Any) -> None:
    backward(tuned, batch_of(rows, tokenizer, fmt))
    guards.check_gradients(tuned.named_parameters())
    named = dict(tuned.named_parameters())
    part = next(name for name in named if "lora_B" in name and "layers.1" in name)
    grad = named[part].grad
    assert grad is not None

    named[part].grad = torch.zeros_like(grad)
    with pytest.raises(UserError, match="no gradient") as error:
        guards.check_gradients(tuned.named_parameters())
    assert part in str(error.value)
    named[part].grad = None
    with pytest.raises(UserError, match="no gradient"):
        guards.check_gradients(tuned.named_parameters())
    named[part].grad = grad * float("nan")
    with pytest.raises(UserError, match="not finite"):
        guards.check_gradients(tuned.named_parameters())
    named[part].grad = grad
    base = next(name for name in named if "lora_" not in name)
    named[base].grad = torch.ones_like(named[base])
    with pytest.raises(UserError, match="a base weight has a gradient"):
        guards.check_gradients(tuned.named_parameters())


def test_experts_that_no_token_reached_may_stand_still_but_not_all_of_a_layer() -> None:
    still, moved = (torch.nn.Parameter(torch.zeros(2, 2)) for _ in range(2))
    moved.grad = torch.ones(2, 2)
    names = [f"layers.0.mlp.experts.{index}.up_proj.lora_B.default.weight" for index in range(3)]
    guards.check_gradients([(names[0], still), (names[1], moved), (names[2], still)])
    with pytest.raises(UserError, match="no gradient"):
        guards.check_gradients([(name, still) for name in names])
    with pytest.raises(UserError, match="no gradient"):  # stacked: one weight for all experts, and some are reached
        guards.check_gradients([("layers.0.mlp.experts.lora_B.default.weight", still)])


def test_layers_that_are_cut_off_are_seen(
    rows: list[Row], tokenizer: PreTrainedTokenizerBase, fmt: PromptFormat, tuned: Any
) -> None:
    # What recomputation without input gradients does: the layers before the cut get none, and the loss looks fine.
    first = tuned.base_model.model.model.layers[0]
    handle = first.register_forward_hook(lambda _module, _inputs, out: out.detach())
    backward(tuned, batch_of(rows, tokenizer, fmt))
    handle.remove()
    with pytest.raises(UserError, match="no gradient") as error:
        guards.check_gradients(tuned.named_parameters())
    assert "layers.0." in str(error.value)
    assert "layers.1." not in str(error.value)


def test_a_loss_that_is_not_finite_names_its_rows() -> None:
    with pytest.raises(UserError, match=r"step 7: the loss is nan") as error:
        guards.check_loss(torch.tensor(float("nan")), make_rows(2), 7)
    assert "rows.csv:2" in str(error.value)
    assert "rows.csv:3" in str(error.value)
    guards.check_loss(torch.tensor(1.0), [], 1)


def test_an_adapter_that_reads_back_differently(
    rows: list[Row], tokenizer: PreTrainedTokenizerBase, fmt: PromptFormat, tuned: Any, tmp_path: Path
) -> None:
    batch = batch_of(rows, tokenizer, fmt)
    for name, parameter in tuned.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter)
    tuned.save_pretrained(tmp_path)
    guards.check_saved(tuned, tmp_path, batch)
    assert list(tuned.peft_config) == ["default"]
    assert tuned.active_adapter == "default"

    file = tmp_path / "adapter_model.safetensors"
    weights = load_file(file)
    first = next(name for name in weights if "lora_B" in name)
    save_file({**weights, first: weights[first] + 0.5}, file, metadata={"format": "pt"})
    with pytest.raises(UserError, match="apart in logits"):
        guards.check_saved(tuned, tmp_path, batch)
    save_file(weights, file, metadata={"format": "pt"})
    config = tmp_path / "adapter_config.json"
    config.write_text(config.read_text(encoding="utf-8").replace('"lora_alpha": 32', '"lora_alpha": 16'), "utf-8")
    with pytest.raises(UserError, match="apart in logits"):
        guards.check_saved(tuned, tmp_path, batch)


def test_the_guards_stand_in_the_way_of_training(tiny_base: Path, tmp_path: Path, rows: list[Row]) -> None:
    import shutil

    from actune.base.source import resolve

    base = tmp_path / "base"
    shutil.copytree(tiny_base, base)
    config = base / "generation_config.json"
    config.write_text('{"eos_token_id": 0}', encoding="utf-8")
    with pytest.raises(UserError, match="is no stop token"):
        prepare([], rows, resolve(str(base)), settle(TrainOptions()), None)
    with pytest.raises(UserError, match="too long"):
        prepare([], rows, resolve(str(tiny_base)), settle(TrainOptions(max_length=60)), None)
    choice = replace(rows[0], script="", expected=("a",))
    with pytest.raises(UserError, match="have no answer"):
        prepare([], [choice], resolve(str(tiny_base)), settle(TrainOptions()), None)
