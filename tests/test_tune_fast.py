"""The fast path computes what the plain path computes, on every kind of architecture, or is not taken."""

from __future__ import annotations

import logging
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Gemma3TextConfig, LlamaConfig, Phi3Config, Qwen2Config

from actune.base.load import load_model, load_tokenizer
from actune.base.rates import Rates
from actune.base.source import resolve
from actune.data.load import load_rows
from actune.prompt import PromptFormat
from actune.tune.dataset import RowDataset, collate, view_of
from actune.tune.encode import IGNORE
from actune.tune.fast import head, linear, proof
from actune.tune.fast.dropout import kept, kept_mask
from actune.tune.fast.pack import pack
from actune.tune.fast.path import FastPath
from actune.tune.lora import add_lora
from actune.tune.options import TrainOptions, settle
from actune.tune.trainer import summed_loss
from conftest import make_rows

SIZES: dict[str, Any] = {
    "vocab_size": 640,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    "pad_token_id": 0,
    "bos_token_id": None,
    "eos_token_id": 1,
}
KINDS = {
    "llama": LlamaConfig(**SIZES),
    "llama, no groups": LlamaConfig(**SIZES | {"num_key_value_heads": 4}, mlp_bias=True, attention_bias=True),
    "qwen2": Qwen2Config(**SIZES),
    "gemma3": Gemma3TextConfig(
        **SIZES, head_dim=16, sliding_window=24, layer_types=["sliding_attention"] * 2 + ["full_attention"]
    ),
    "phi3": Phi3Config(**SIZES, sliding_window=40),
}
FP32 = settle(TrainOptions(dtype="fp32"))


def tuned(config: Any, dtype: torch.dtype = torch.float32, **options: Any) -> Any:
    """A random model with an adapter whose B is not zero."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    base = AutoModelForCausalLM.from_config(config, dtype=dtype, attn_implementation="sdpa")
    with torch.no_grad():
        for name, value in base.named_parameters():
            if "bias" in name or "norm" in name:
                value += torch.randn_like(value) * 0.1
    model = add_lora(base.eval(), settle(TrainOptions(**options)))
    with torch.no_grad():
        for name, value in model.named_parameters():
            if "lora_B" in name:
                value.normal_(0, 0.05)
    return model


def dataset(folder: Path, count: int = 5) -> RowDataset:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    rows = make_rows(count)
    return RowDataset(rows, tokenizer, PromptFormat.for_rows(rows, tokenizer), None)


def batch_of(folder: Path, count: int = 5) -> dict[str, torch.Tensor]:
    data = dataset(folder, count)
    return collate([data[place] for place in range(count)])


def gradients(model: Any, loss: Any) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad(set_to_none=True)
    total, count = loss()
    (total / count).backward()
    return total.item() / count, {name: p.grad for name, p in model.named_parameters() if p.grad is not None}


def assert_same(
    model: Any, batch: dict[str, torch.Tensor], chunked: bool = True, blocks: bool = True, tolerance: float = 2e-5
) -> None:
    loss, wanted = gradients(model, lambda: summed_loss(model, model.get_output_embeddings(), batch))
    with FastPath(model, chunked=chunked, blocks=blocks) as path:
        got_loss, got = gradients(model, lambda: path.loss(model, batch))
    assert got_loss == pytest.approx(loss, rel=1e-5)
    assert got.keys() == wanted.keys()
    for name, grad in wanted.items():
        apart = (got[name] - grad).norm() / grad.norm()
        assert apart < tolerance, (name, apart)


@pytest.mark.parametrize("kind", KINDS)
def test_loss_and_gradients_are_those_of_the_plain_path(kind: str, tiny_tokenizer_folder: Path) -> None:
    model = tuned(KINDS[kind])
    batch = batch_of(tiny_tokenizer_folder)
    assert pack(batch, share=True).shared > 24  # the sliding windows are shorter
    assert_same(model, batch)
    assert_same(model, batch, blocks=False)


def test_rows_with_nothing_in_common_and_single_rows_are_the_same_too(tiny_tokenizer_folder: Path) -> None:
    model = tuned(KINDS["gemma3"])
    batch = batch_of(tiny_tokenizer_folder, 3)
    batch["input_ids"][:, 0] += torch.arange(3)
    assert pack(batch, share=True).shared == 0
    assert_same(model, batch, chunked=False)
    assert_same(model, batch_of(tiny_tokenizer_folder, 1))


def test_rows_of_two_kinds_share_a_beginning_each(tiny_tokenizer_folder: Path) -> None:
    batch = batch_of(tiny_tokenizer_folder)
    lengths, rows = batch["attention_mask"].sum(1).tolist(), [1, 4]
    one = pack(batch, share=True).shared
    batch["input_ids"][rows, 0] += 1
    two = pack(batch, share=True)
    assert [row.before for row in two.rows].count(0) == 2
    assert two.shared >= 2 * one
    assert two.input_ids.shape[1] <= sum(lengths) - 3 * one
    assert_same(tuned(KINDS["gemma3"]), batch)


def test_long_rows_whose_probabilities_are_computed_twice_are_the_same(
    monkeypatch: pytest.MonkeyPatch, tiny_tokenizer_folder: Path
) -> None:
    monkeypatch.setattr("actune.tune.fast.attention.MOST_KEPT", 40)
    monkeypatch.setattr("actune.tune.fast.attention.BLOCK", 24)
    assert_same(tuned(KINDS["gemma3"]), batch_of(tiny_tokenizer_folder, 3))


def test_equal_rows_keep_every_trained_place_to_themselves(tiny_tokenizer_folder: Path) -> None:
    batch = batch_of(tiny_tokenizer_folder, 1)
    double = {name: torch.cat([value, value]) for name, value in batch.items()}
    rows = pack(double, share=True)
    trained = int((double["labels"] != IGNORE).sum())
    assert rows.shared > 8
    assert len(set(rows.kept.tolist())) == len(rows.targets) == trained
    assert_same(tuned(KINDS["llama"]), double)


def test_a_pack_holds_no_padding_and_the_beginning_once(tiny_tokenizer_folder: Path) -> None:
    batch = batch_of(tiny_tokenizer_folder, 4)
    whole, shared = pack(batch, share=False), pack(batch, share=True)
    tokens = int(batch["attention_mask"].sum())
    assert whole.input_ids.shape == (1, tokens)
    assert shared.input_ids.shape == (1, tokens - 3 * shared.shared)
    for place, row, mask in zip(shared.rows[1:], batch["input_ids"], batch["attention_mask"], strict=True):
        own = shared.input_ids[0, place.begin : place.end]
        assert torch.equal(torch.cat([shared.input_ids[0, : shared.shared], own]), row[mask.bool()])
        assert shared.position_ids[0, place.begin] == shared.shared


def test_a_line_that_is_filled_up_gives_the_same(monkeypatch: pytest.MonkeyPatch, tiny_tokenizer_folder: Path) -> None:
    batch = batch_of(tiny_tokenizer_folder, 3)
    bare, filled = pack(batch, True), pack(batch, True, 64)
    assert bare.input_ids.shape[1] % 64
    assert filled.input_ids.shape[1] % 64 == 0
    assert torch.equal(bare.kept, filled.kept)
    monkeypatch.setattr(FastPath, "_multiple", 64)
    assert_same(tuned(KINDS["gemma3"]), batch)


@pytest.mark.parametrize("unlikely", [0.0, 200.0])
def test_the_head_by_words_is_the_head(monkeypatch: pytest.MonkeyPatch, unlikely: float) -> None:
    monkeypatch.setattr(head, "WORDS", 7)
    monkeypatch.setattr(head, "PLACES", 4)
    torch.manual_seed(0)
    hidden, weight, bias = torch.randn(11, 8, requires_grad=True), torch.randn(30, 8), torch.randn(30)
    targets = torch.randint(30, (11,))
    bias[targets[3]] -= unlikely
    wanted = torch.nn.functional.cross_entropy(hidden @ weight.t() + bias, targets, reduction="sum")
    (grad,) = torch.autograd.grad(wanted, hidden)
    loss = head.cross_entropies(hidden, weight, bias, targets).sum()
    (loss * 3).backward()
    torch.testing.assert_close(loss, wanted)
    torch.testing.assert_close(hidden.grad, 3 * grad, rtol=1e-5, atol=1e-5)


def test_the_gradient_at_a_sure_word_is_as_exact_as_its_loss() -> None:
    torch.manual_seed(0)
    weight, targets = torch.randn(3000, 64), torch.randint(3000, (5,))
    hidden = (weight[targets] * 0.4).requires_grad_()
    (wanted,) = torch.autograd.grad(
        torch.nn.functional.cross_entropy(hidden.double() @ weight.double().t(), targets, reduction="sum"), hidden
    )
    loss = head.cross_entropies(hidden, weight, None, targets)
    assert loss.max() < 1e-3
    (got,) = torch.autograd.grad(loss.sum(), hidden)
    assert (got - wanted).norm() < 2e-5 * wanted.norm()


def test_dropout_is_that_of_lora_with_one_mask_for_layers_over_one_input() -> None:
    model = tuned(KINDS["qwen2"], dropout=0.3).train()
    layers = [layer for layer in model.modules() if linear.can_fuse(layer)][:3]  # queries, keys, values
    assert len({layer.base_layer.out_features for layer in layers}) > 1
    x = torch.randn(7, 32, requires_grad=True)
    adapters = [p for layer in layers for p in layer.parameters() if p.requires_grad]
    torch.manual_seed(5)
    got = linear.Joined(layers)(x)
    grads = torch.autograd.grad(got.square().sum(), [x, *adapters])
    torch.manual_seed(5)
    dropped = x * (kept_mask(x.shape, 0.3, x.device) != 0) / 0.7

    def alone(layer: torch.nn.Module) -> torch.Tensor:
        return (
            layer.base_layer(x) + layer.lora_B["default"](layer.lora_A["default"](dropped)) * layer.scaling["default"]
        )

    wanted = torch.cat([alone(layer) for layer in layers], -1)
    wanted_grads = torch.autograd.grad(wanted.square().sum(), [x, *adapters])
    torch.testing.assert_close(got, wanted)
    for one, other in zip(grads, wanted_grads, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dropout", [0.05, 0.5])
def test_the_mask_keeps_the_share_it_should(dropout: float) -> None:
    torch.manual_seed(0)
    mask = kept_mask(torch.Size([401, 499]), dropout, torch.device("cpu"))
    assert set(mask.unique().tolist()) == {-1, 0}
    stays = (mask != 0).float()
    assert stays.mean().item() == pytest.approx(1 - dropout, abs=4e-3)
    assert not torch.equal(mask, kept_mask(mask.shape, dropout, torch.device("cpu")))
    for lane in range(4):
        assert stays.flatten()[lane::4].mean().item() == pytest.approx(1 - dropout, abs=8e-3)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_what_a_mask_keeps_is_what_it_was(dtype: torch.dtype) -> None:
    x = torch.randn(9, 40).to(dtype)[:, :32]  # as columns of a wider buffer
    mask = kept_mask(x.shape, 0.5, x.device)
    assert torch.equal(kept(x, mask), torch.where(mask != 0, x, 0))
    assert kept(x, None) is x


def test_with_dropout_rows_share_nothing_while_training_and_drop_anew_at_each_step(
    tiny_tokenizer_folder: Path,
) -> None:
    model, batch = tuned(KINDS["llama"], dropout=0.2), batch_of(tiny_tokenizer_folder)
    lengths = []
    with FastPath(model) as path:
        model.get_input_embeddings().register_forward_hook(lambda _m, args, _o: lengths.append(args[0].shape[1]))
        drops = (True, True, False, False)
        losses = [float(path.loss(model.train(training), batch)[0].detach()) for training in drops]
    assert lengths[0] == lengths[1] == int(batch["attention_mask"].sum()) > lengths[2]
    assert len(set(losses[:3])) == 3
    assert losses[2] == losses[3]


def test_in_bf16_a_small_delta_is_not_lost_to_rounding() -> None:
    """Added to a sum of about 1 that is rounded already, a delta of 2^-10 would vanish altogether."""
    torch.manual_seed(0)
    model = tuned(KINDS["llama"], dtype=torch.bfloat16, rank=8)
    layer = next(layer for layer in model.modules() if linear.can_fuse(layer))
    with torch.no_grad():
        layer.base_layer.weight.normal_(0, 1 / 32**0.5)
        layer.lora_A["default"].weight.fill_(1.0)
        layer.lora_B["default"].weight.fill_(2.0**-10 / 8 / layer.scaling["default"] / 4)
        x = torch.randn(4096, 32).bfloat16()
        x[:, 0] += 4.0 - x.sum(1)
        x[:, 0] += 4.0 - x.float().sum(1).bfloat16()
        base = (x.double() @ layer.base_layer.weight.double().t()).float()
        gained = (linear.fused(layer)(x).float() - base).mean()
    assert gained.item() == pytest.approx(2.0**-10, rel=0.25)


def test_outside_of_packs_the_model_is_what_it_was(tiny_tokenizer_folder: Path) -> None:
    model, batch = tuned(KINDS["gemma3"]), batch_of(tiny_tokenizer_folder, 3)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": batch["attention_mask"]}
    with torch.no_grad():
        wanted = model(**inputs).logits
        with FastPath(model), warnings.catch_warnings():
            # A cache under two names would be warned of at each layer of each step of an answer.
            warnings.simplefilter("error", FutureWarning)
            inside = model(**inputs).logits
        after = model(**inputs).logits
    torch.testing.assert_close(inside, wanted, rtol=1e-4, atol=1e-5)
    assert torch.equal(after, wanted)


def test_what_cannot_be_proved_is_computed_the_plain_way_and_says_why(
    caplog: pytest.LogCaptureFixture, tiny_tokenizer_folder: Path
) -> None:
    data = dataset(tiny_tokenizer_folder)
    model = tuned(KINDS["llama"])
    before = {name: value.clone() for name, value in model.named_parameters()}
    assert proof.choose(model, data, FP32) == proof.Choice(True, True, True)
    assert all(torch.equal(value, before[name]) and value.grad is None for name, value in model.named_parameters())
    assert not proof.choose(model, data, replace(FP32, plain=True)).fast
    # Scaled logits: the head by chunks would not see it, the model's own head does.
    scaled = tuned(KINDS["llama"])
    scaled.get_output_embeddings().register_forward_hook(lambda _m, _a, out: out * 0.5)
    choice = proof.choose(scaled, data, FP32)
    assert choice.fast
    assert not choice.chunked
    assert "loss" in choice.why
    assert not caplog.records
    # A layer that mixes neighbours sees across the borders of packed rows.
    mixing = tuned(KINDS["llama"])
    mixing.base_model.model.model.layers[1].mlp.register_forward_hook(lambda _m, _a, out: out + out.roll(1, 1))
    with caplog.at_level(logging.WARNING):
        assert not proof.choose(mixing, data, FP32).fast
    assert "plain" in caplog.text
    dropping = tuned(LlamaConfig(**SIZES, attention_dropout=0.1)).train()
    choice = proof.choose(dropping, data, FP32)
    assert not choice.fast
    assert "attention dropout" in choice.why
    assert dropping.config._attn_implementation == "sdpa"


def test_eight_bits_are_not_tried_on_packed_rows(caplog: pytest.LogCaptureFixture, tiny_tokenizer_folder: Path) -> None:
    choice = proof.choose(tuned(KINDS["llama"]), dataset(tiny_tokenizer_folder), replace(FP32, quantize="8bit"))
    assert not choice.fast
    assert "8 bits" in choice.why
    assert not caplog.records


@pytest.mark.parametrize("tight", [False, True])
def test_where_memory_is_tight_the_proof_computes_layers_twice(tight: bool, tiny_tokenizer_folder: Path) -> None:
    model, seen = tuned(KINDS["llama"]), []
    layer = model.base_model.model.model.layers[0]
    # Of the second time a layer is computed its norm is called within the backward pass.
    layer.input_layernorm.register_forward_hook(lambda *_: seen.append(torch._C._current_graph_task_id() >= 0))
    assert proof.choose(model, dataset(tiny_tokenizer_folder), FP32, tight) == proof.Choice(True, True, True)
    assert any(seen) is tight
    assert not model.is_gradient_checkpointing
    assert {module.training for module in model.modules()} == {model.training}


def losses_of(model: Any, batches: list[dict[str, torch.Tensor]], loss: Any, steps: int, lr: float) -> list[float]:
    """Losses of the first steps of a training."""
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=lr, weight_decay=0.0)
    seen = []
    for step in range(steps):
        total, count = loss(batches[step % len(batches)])
        (total / count).backward()
        optimizer.step()
        optimizer.zero_grad()
        seen.append(total.item() / count)
    return seen


def batches_of(data: RowDataset, size: int) -> list[dict[str, torch.Tensor]]:
    return [collate([data[place] for place in range(at, at + size)]) for at in range(0, len(data) - size + 1, size)]


def apart_after_thirty(model: Any, other: Any, batches: list[dict[str, torch.Tensor]], lr: float) -> float:
    """The largest difference of two trainings' losses, the first on the plain path, the second on the fast one."""
    head = model.get_output_embeddings()
    wanted = losses_of(model, batches, lambda batch: summed_loss(model, head, batch), 30, lr)
    assert wanted[-1] < wanted[0] - 0.01
    with FastPath(other) as path:
        got = losses_of(other, batches, lambda batch: path.loss(other, batch), 30, lr)
    return max(abs(one - two) for one, two in zip(got, wanted, strict=True))


@pytest.mark.parametrize(("dtype", "most"), [(torch.float32, 1e-3), (torch.bfloat16, 5e-3)])
def test_thirty_steps_follow_the_plain_path_in_fp32(
    dtype: torch.dtype, most: float, tiny_tokenizer_folder: Path
) -> None:
    batches = batches_of(dataset(tiny_tokenizer_folder, 12), 4)
    config = Qwen2Config(**SIZES | {"hidden_size": 128, "intermediate_size": 256})
    other = tuned(config)
    for name, value in other.named_parameters():
        if "lora_" not in name:
            value.data = value.data.to(dtype)
    assert apart_after_thirty(tuned(config), other, batches, 3e-4) <= most


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        Qwen2Config(
            **SIZES
            | {"hidden_size": 896, "intermediate_size": 4864, "num_attention_heads": 14, "num_hidden_layers": 2}
            | {"vocab_size": 151936}
        ),
        Phi3Config(
            **SIZES
            | {"hidden_size": 3072, "intermediate_size": 8192, "num_attention_heads": 32, "num_hidden_layers": 2}
            | {"num_key_value_heads": 32, "vocab_size": 32064}
        ),
    ],
    ids=["qwen2.5-0.5b", "phi-3"],
)
def test_layers_of_real_width_are_the_same(config: Any, tiny_tokenizer_folder: Path) -> None:
    assert_same(tuned(config), batch_of(tiny_tokenizer_folder, 3), tolerance=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "most"), [("fp32", 1e-3), ("bf16", 5e-3)])
def test_thirty_steps_of_smollm2_follow_the_plain_path_in_fp32(dtype: str, most: float) -> None:
    """With the mean rate of the recipe `small`."""
    folder = resolve("smollm2").path
    settings, tokenizer = settle(TrainOptions()), load_tokenizer(folder)
    rows = load_rows([Path(__file__).parent.parent / "examples" / "actions_en.csv"], None)
    data = RowDataset(rows, tokenizer, PromptFormat.for_rows(rows, tokenizer), view_of(rows, settings, 8192))
    plain, other = (add_lora(load_model(folder, "cpu", kind), settings) for kind in ("fp32", dtype))
    assert apart_after_thirty(plain, other, batches_of(data, 8), settings.lr / 2) <= most


def test_auto_takes_bf16_where_it_is_clearly_quicker_and_proves_itself(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tiny_tokenizer_folder: Path
) -> None:
    data = dataset(tiny_tokenizer_folder)
    wide = LlamaConfig(**SIZES | {"hidden_size": 256})
    quick, slow = Rates(100, 0, 200, 10, 10, 10.0), Rates(100, 180, 200, 10, 10, 10.0)

    def dtypes(config: Any, auto: bool = True, **options: Any) -> set[torch.dtype]:
        model = tuned(config, **options)
        choice = proof.choose(model, data, replace(FP32, dtype="auto" if auto else "fp32"))
        assert choice.fast
        assert {value.dtype for name, value in model.named_parameters() if "lora_" in name} == {torch.float32}
        return {value.dtype for name, value in model.named_parameters() if "lora_" not in name}

    monkeypatch.setattr(proof, "rates", lambda: quick)
    assert dtypes(wide) == {torch.bfloat16}
    assert dtypes(wide, auto=False) == {torch.float32}
    assert dtypes(KINDS["llama"]) == {torch.float32}
    monkeypatch.setattr(proof, "rates", lambda: slow)
    assert dtypes(wide) == {torch.float32}
    monkeypatch.setattr(proof, "rates", lambda: quick)
    monkeypatch.setitem(proof.TOLERANCE, torch.bfloat16, 1e-4)
    with caplog.at_level(logging.WARNING):
        assert dtypes(wide) == {torch.float32}
    assert "bf16" in caplog.text
