"""Exports: what each consists of, and that none passes that does not say the same."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, GenerationConfig, LlamaConfig, LlamaForCausalLM

from actune.actor import load_actor
from actune.base.load import load_tokenizer
from actune.errors import UserError
from actune.export import targets
from actune.export.command import export
from actune.export.gguf import make_gguf
from actune.export.llama import compare_looks
from actune.export.parity import BLOCKS, compare, look
from actune.script.acting import Acting
from actune.tune.command import train
from actune.tune.options import TrainOptions
from actune.tune.run import read_manifest, write_manifest, write_rows
from conftest import make_rows


@pytest.fixture(scope="module")
def run(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tuned(tiny_base, tmp_path_factory.mktemp("runs"))


def tuned(base: Path, top: Path) -> Path:
    write_rows(top / "rows.jsonl", make_rows(8))
    options = TrainOptions(epochs=3, lr=5e-3, batch_size=2, grad_accum=1, valid=0.0)
    assert train([top / "rows.jsonl"], base=str(base), out=top / "run", options=options) == 0
    return top / "run"


def test_peft_is_the_adapter_that_every_tool_loads(run: Path, tiny_base: Path, tmp_path: Path) -> None:
    out = tmp_path / "adapter"
    assert export(run, to="peft", out=out) == 0
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_base), out)
    ours = load_actor(run, unmerged=True)
    ids = torch.tensor([ours.prompt_ids("饿了", ("a", "b"))])
    with torch.no_grad():
        assert torch.equal(model.eval()(ids).logits, ours.local.model(ids).logits)
    assert "merged" not in (out / "README.md").read_text(encoding="utf-8")
    config = json.loads((out / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["base_model_name_or_path"] == str(tiny_base)  # the name it was given
    assert load_actor(out).prompt_ids("饿了", ("a", "b")) == ids[0].tolist()


def test_vllm_gets_our_prompt_and_our_constraint(run: Path, tmp_path: Path) -> None:
    out = tmp_path / "vllm"
    assert export(run, to="vllm", out=out) == 0
    request = json.loads((out / "request.json").read_text(encoding="utf-8"))
    row = make_rows(8)[0]
    assert request["prompt"] == load_actor(run).prompt_ids(row.question, row.actions)
    assert row.actions[1] in request["structured_outputs"]["structural_tag"]
    assert "vllm serve ./model" in (out / "README.md").read_text(encoding="utf-8")
    assert load_actor(out / "model").prompt_ids(row.question, row.actions) == request["prompt"]
    assert not [file for file in out.rglob("*") if file.name.startswith(".")]
    again = tmp_path / "again"
    assert export(out / "model", to="vllm", out=again) == 0  # a merged folder will do
    assert (again / "request.json").read_bytes() == (out / "request.json").read_bytes()


def test_what_does_not_hold_elsewhere_is_said_and_stored(run: Path, tmp_path: Path, capsys) -> None:
    def told(name: str) -> str:
        assert export(run, to="vllm", out=tmp_path / name) == 0
        return "\n".join(line for line in capsys.readouterr().out.splitlines() if line.startswith("vllm: "))

    write_manifest(run, replace(read_manifest(run), acting={}))
    assert told("neutral") == "vllm: a tag cut off by the budget is dropped and counted"
    write_manifest(run, replace(read_manifest(run), acting=Acting(bias=1.0).to_dict()))
    lost = "the run's act threshold and calibrated choice are not applied"
    assert lost in told("biased")
    assert f"* {lost}" in (tmp_path / "biased" / "README.md").read_text(encoding="utf-8")


def test_a_base_is_no_run(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"actune\.json"):
        export(tiny_base, to="vllm", out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("change", ["prompts", "templated", "stops", "greedy", "logits"])
@pytest.mark.parametrize("dtype", ["f32", "q8_0"])
def test_a_file_that_says_something_else_is_refused_and_deleted(
    change: str, dtype: str, run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def harmed(file, actor, wanted, rows):
        if change == "logits":
            return wanted, replace(
                wanted, logits=[-one for one in wanted.logits], best=[one + 1 for one in wanted.best]
            )
        value = getattr(wanted, change)
        return wanted, replace(wanted, **{change: frozenset() if change == "stops" else [[7], *value[1:]]})

    monkeypatch.setattr(targets, "make_gguf", lambda _, out, __: out)
    monkeypatch.setattr(targets, "compare_looks", harmed)
    if change == "greedy" and dtype == "q8_0":
        export(run, to="gguf", out=tmp_path / "out", dtype=dtype)  # rounding may change the text in the end
        return
    with pytest.raises(UserError) as caught:
        export(run, to="gguf", out=tmp_path / "out", dtype=dtype)  # type: ignore[arg-type]
    assert caught.value.exit_code == 3
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def spoken(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on a small random model with a tokenizer that llama.cpp knows."""
    folder = Path.home() / ".cache" / "actune" / "bases" / "smollm2"
    if not folder.is_dir():
        pytest.skip("actune pull smollm2")
    top, tokenizer = tmp_path_factory.mktemp("spoken"), load_tokenizer(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=49152, hidden_size=64, intermediate_size=128, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, bos_token_id=1, eos_token_id=2, pad_token_id=2, tie_word_embeddings=True,
        initializer_range=0.15, max_position_embeddings=2048,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.generation_config = GenerationConfig(eos_token_id=[2])
    model.save_pretrained(top / "base")
    tokenizer.save_pretrained(top / "base")
    return tuned(top / "base", top)


@pytest.mark.slow
def test_llama_cpp_says_what_the_run_says(spoken: Path, tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp")
    export(spoken, to="ollama", out=tmp_path / "out", dtype="f32")
    names = {file.name for file in (tmp_path / "out").iterdir()}
    assert names == {"Modelfile", "README.md", "actune.json", "model-f32.gguf", "request.json"}
    # The same file is another model's: an adapter that was not merged.
    shutil.copytree(spoken.parent / "base", tmp_path / "bare")
    other = make_gguf(tmp_path / "bare", tmp_path / "other.gguf", "f32")
    actor = load_actor(spoken, dtype="fp32", free=True)
    rows = make_rows(2)
    parity = compare(*compare_looks(other, actor, look(actor, rows), rows))
    assert "top-1" in " ".join(parity.faults(BLOCKS))
    assert parity.prompts == 1
