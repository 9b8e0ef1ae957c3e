"""Quantised bases: they train and speak with every guard on, and the CPU's repacking cannot spoil them."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import accelerate
import pytest
import torch
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM

from actune.actor import load_actor
from actune.base import load, quantize
from actune.base.load import load_model, load_tokenizer
from actune.errors import UserError
from actune.script.events import Done
from actune.tune import memory
from actune.tune.command import train
from actune.tune.options import TrainOptions
from actune.tune.run import read_manifest, write_rows
from conftest import NAMES, make_rows
from families import FAMILIES
from family_trial import make_base

bitsandbytes = pytest.importorskip("bitsandbytes")
IDS = torch.arange(40)[None]


@pytest.fixture(scope="module")
def wide_base(tiny_tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Blocks of 64 weights fill its rows, so that bitsandbytes can repack them."""
    tokenizer = load_tokenizer(tiny_tokenizer_folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=640, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, max_position_embeddings=1024, bos_token_id=None, initializer_range=0.1,
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, tie_word_embeddings=True,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=[tokenizer.eos_token_id])
    folder = tmp_path_factory.mktemp("wide")
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def no_harm(base: Path) -> tuple[float, bool]:
    """After a forward in evaluation: how far dequantising is from it, and whether a training step gets a gradient."""
    model = load_model(base, "cpu", "fp32", quantize="4bit")
    with torch.no_grad():
        live = model(IDS).logits
    inputs = torch.randn(3, 64, requires_grad=True)
    model.train()
    model.model.layers[0].self_attn.q_proj(inputs).sum().backward()
    with torch.no_grad():
        apart = (model.eval().dequantize()(IDS).logits - live).abs().max()
    return float(apart), inputs.grad is not None


def test_a_forward_in_evaluation_spoils_neither_dequantising_nor_gradients(wide_base: Path) -> None:
    apart, learns = no_harm(wide_base)
    assert apart < 1e-4
    assert learns


@pytest.mark.skipif(not bitsandbytes.functional.has_avx512bf16(), reason="this CPU has no AVX512-BF16")
@pytest.mark.filterwarnings("ignore:.*autograd kernel")
def test_without_our_guard_this_cpu_would_be_trapped(wide_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(load, "disarm", lambda _: None)
    apart, learns = no_harm(wide_base)
    assert apart > 1
    assert not learns


@pytest.mark.skipif(not bitsandbytes.functional.has_avx512bf16(), reason="this CPU has no AVX512-BF16")
def test_nobody_is_told_to_install_what_fetches_code() -> None:
    done = subprocess.run([sys.executable, "-c", "import actune, bitsandbytes"], capture_output=True, text=True)
    assert done.returncode == 0
    assert "kernels" not in done.stderr


def test_every_module_is_disarmed_after_our_load(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bitsandbytes.nn.modules, "has_avx512bf16", lambda: True)  # as such a CPU says
    model = load_model(tiny_base, "cpu", quantize="4bit")
    modules = [module for module in model.modules() if isinstance(module, bitsandbytes.nn.Linear4bit)]
    assert len(modules) == 14
    assert not any(module.support_avx512bf16_for_cpu for module in modules)


@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the system does not say what is mapped")
@pytest.mark.parametrize("kind", ["8bit", "4bit"])
def test_a_quantised_base_does_not_hold_its_file_in_memory(kind: str, wide_base: Path) -> None:
    model = load_model(wide_base, "cpu", "fp32", quantize=kind)
    assert str(wide_base) not in Path("/proc/self/maps").read_text(encoding="utf-8")
    assert model.get_input_embeddings().weight.dtype == torch.float32


@pytest.mark.parametrize(("kind", "dtype"), [("8bit", torch.int8), ("4bit", torch.uint8)])
def test_training_and_speaking_on_a_quantised_base(
    kind: str, dtype: torch.dtype, wide_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, run, told = tmp_path / "rows.jsonl", tmp_path / "run", list[dict[int, int]]()
    monkeypatch.setattr(memory, "_malloc", told.append)
    write_rows(rows, make_rows(8))
    options = TrainOptions(epochs=2, quantize=kind, batch_size=2, grad_accum=1)
    assert train([rows], base=str(wide_base), out=run, options=options) == 0
    assert read_manifest(run).options["quantize"] == kind
    assert told == [{memory.M_MMAP_THRESHOLD: 1 << 19}], "blocks that it frees leave gaps, unless they go back"
    actor = load_actor(run)
    layer = actor.engine.model.base_model.model.model.layers[0].self_attn.q_proj
    assert layer.base_layer.weight.dtype == dtype
    assert layer.lora_B.default.weight.dtype == torch.float32
    assert layer.lora_B.default.weight.any()
    assert isinstance(list(actor.events("饿了", NAMES[:4], max_tokens=8))[-1], Done)
    # In full precision the same run folds its adapter in.
    assert not quantize.is_quantized(load_actor(run, quantize="off").engine.model)


class Loaded(torch.nn.Module):
    """Stands for a quantised model on some device."""

    is_loaded_in_4bit = True

    def __init__(self, where: object) -> None:
        super().__init__()
        self.hf_device_map = {"": where}


def test_each_process_loads_on_the_device_it_trains_on(monkeypatch: pytest.MonkeyPatch) -> None:
    second = accelerate.Accelerator(cpu=True)
    # What the second process of a machine with GPUs has.
    monkeypatch.setattr(accelerate.Accelerator, "device", torch.device("cuda", 1))
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(ValueError, match="on a different device"):
        second.prepare_model(Loaded(torch.device("cuda", 0)), device_placement=False)
    second.prepare_model(Loaded(quantize.device_map(torch.device("cuda"))[""]), device_placement=False)


def test_a_device_that_was_named_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert quantize.device_map(torch.device("cuda", 3)) == {"": torch.device("cuda", 3)}
    assert quantize.device_map(torch.device("cpu")) == {"": torch.device("cpu")}


def test_without_the_extra_the_install_line_is_said(tiny_base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "bitsandbytes" else found(name))
    with pytest.raises(UserError, match=r"pip install 'actune\[quant\]'"):
        load_model(tiny_base, quantize="4bit")


def test_weights_that_are_quantised_already_are_not_quantised_again(tiny_base: Path, tmp_path: Path) -> None:
    config = json.loads((tiny_base / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "config.json").write_text(json.dumps(config | {"quantization_config": {}}), encoding="utf-8")
    with pytest.raises(UserError, match="quantised already"):
        load_model(tmp_path, quantize="8bit")


def test_a_base_that_8_bits_cannot_compute_is_refused_when_it_is_loaded(
    tiny_tokenizer_folder: Path, tmp_path: Path
) -> None:
    base = make_base(next(one for one in FAMILIES if one.name == "DeepSeek-V3"), tiny_tokenizer_folder, tmp_path)
    with pytest.raises(UserError, match="--quantize 4bit"):
        load_model(base, "cpu", "fp32", quantize="8bit")
