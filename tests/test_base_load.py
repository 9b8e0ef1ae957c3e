import json
from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from actune.base.load import load_model, load_tokenizer, pick_device, pick_dtype, stop_ids
from actune.errors import UserError


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("base") / "tiny"
    config = LlamaConfig(vocab_size=16, hidden_size=8, intermediate_size=8, num_hidden_layers=1, num_attention_heads=2)
    LlamaForCausalLM(config).save_pretrained(path)
    return path


def test_auto_is_fp32_on_the_cpu(folder):
    model = load_model(folder, device="cpu")
    assert model.dtype == torch.float32
    assert not model.training
    assert load_model(folder, device="cpu", dtype="bf16").dtype == torch.bfloat16


def test_auto_dtype_on_cuda_follows_what_it_computes_in(monkeypatch):
    for able, wanted in ((True, torch.bfloat16), (False, torch.float16)):
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation, able=able: able)
        assert pick_dtype("cuda:0") == wanted
    assert pick_dtype("mps") == torch.float32


def test_each_of_several_processes_takes_a_device_of_its_own(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert pick_device() == pick_device("cuda") == torch.device("cuda:1")
    assert pick_device("cuda:0") == torch.device("cuda:0")
    assert pick_device("cpu") == torch.device("cpu")


def test_auto_device_takes_the_best_there_is(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: False)
    assert pick_device() == torch.device("cpu")
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: True)
    assert pick_device() == torch.device("mps")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    assert pick_device() == torch.device("cuda")
    assert pick_device("cuda:1") == torch.device("cuda:1")
    with pytest.raises(UserError, match="cuda:2"):
        pick_device("cuda:2")


def test_wrong_values_are_refused(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    for wrong in ("cuda", "gpu", "cuda:x"):
        with pytest.raises(UserError, match="--device"):
            pick_device(wrong)
    with pytest.raises(UserError, match=r"(?s)--dtype.*int8.*bf16"):
        pick_dtype("cpu", "int8")


def test_pickled_weights_are_not_loaded(folder, tmp_path):
    model = load_model(folder, device="cpu")
    model.config.save_pretrained(tmp_path)
    torch.save(model.state_dict(), tmp_path / "pytorch_model.bin")
    with pytest.raises(UserError, match="safetensors"):
        load_model(tmp_path, device="cpu")


def test_code_in_the_folder_runs_only_when_asked(tmp_path):
    config = {"model_type": "odd", "auto_map": {"AutoConfig": "odd.OddConfig", "AutoModelForCausalLM": "odd.Odd"}}
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    (tmp_path / "odd.py").write_text("raise SystemExit('it ran')\n", encoding="utf-8")
    with pytest.raises(UserError, match="--trust-remote-code"):
        load_model(tmp_path, device="cpu")


def test_a_folder_without_tokenizer_is_named(tmp_path):
    with pytest.raises(UserError, match=str(tmp_path)):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize(
    ("named", "own", "expected"),
    [([1, 106], 1, (1, 106)), (2, 2, (2,)), (None, 5, (5,)), (7, 5, (7, 5)), (None, None, ())],
)
def test_stop_ids_are_all_that_are_named(named, own, expected):
    model = SimpleNamespace(generation_config=SimpleNamespace(eos_token_id=named))
    assert stop_ids(model, SimpleNamespace(eos_token_id=own)) == expected
