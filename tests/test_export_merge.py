"""A merged folder says what base and adapter say, whatever the base was trained on, or it does not exist."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from actune.actor import load_actor
from actune.base.load import load_model
from actune.errors import UserError
from actune.export import folder as folder_module
from actune.export import make as make_module
from actune.export.merge import merge
from actune.script.events import write
from actune.tune.command import train
from actune.tune.options import TrainOptions
from actune.tune.run import read_manifest, write_manifest, write_rows
from conftest import NAMES, make_rows

IDS = torch.arange(40)[None]


@pytest.fixture(scope="module")
def base(tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny base in several files, less flat than it was made, with its terms."""
    folder = tmp_path_factory.mktemp("base in parts")
    model = AutoModelForCausalLM.from_pretrained(tiny_base)
    for name, weight in model.named_parameters():
        if "proj" in name:
            torch.nn.init.normal_(weight, std=0.2, generator=torch.Generator().manual_seed(len(name)))
    model.save_pretrained(folder, max_shard_size="40KB")
    AutoTokenizer.from_pretrained(tiny_base).save_pretrained(folder)
    (folder / "LICENSE").write_text("Do good.", encoding="utf-8")
    return folder


@pytest.fixture(scope="module")
def runs(base: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str | None, Path]:
    """Runs on the base in float, in 8 and in 4 bits."""
    top = tmp_path_factory.mktemp("runs")
    write_rows(top / "rows.jsonl", make_rows(8))
    made: dict[str | None, Path] = {}
    for kind in (None, "8bit", "4bit"):
        made[kind] = top / f"run {kind}"
        options = TrainOptions(epochs=6, lr=5e-3, batch_size=2, grad_accum=1, quantize=kind, save_steps=8)
        assert train([top / "rows.jsonl"], base=str(base), out=made[kind], options=options) == 0
    return made


def logits(model: torch.nn.Module) -> torch.Tensor:
    with torch.no_grad():
        return model.eval()(IDS).logits.float()


@pytest.mark.parametrize("kind", [None, "8bit", "4bit"])
@pytest.mark.parametrize("onto", ["trained", "original"])
def test_merged_is_base_and_adapter(
    kind: str | None, onto: str, base: Path, runs: dict[str | None, Path], tmp_path: Path
) -> None:
    out = tmp_path / "a merged 模型"
    assert merge(runs[kind], out=out, onto=onto) == 0  # type: ignore[arg-type]
    wanted = load_model(base, "cpu", "fp32", quantize=kind if onto == "trained" else None)
    if kind and onto == "trained":
        wanted = wanted.dequantize().float()
    bare = logits(wanted)
    wanted = PeftModel.from_pretrained(wanted, runs[kind])
    assert (logits(wanted) - bare).abs().max() > 0.1  # the adapter does something
    got = AutoModelForCausalLM.from_pretrained(out)  # as any other program would
    assert (logits(got) - logits(wanted)).abs().max() < 1e-4
    merged = read_manifest(out).merged
    assert merged["parity"]["apart"] < 1e-4
    assert merged["parity"]["greedy"] == 1
    assert (merged["onto"], merged["quantize"], "live" in merged) == (onto, kind, kind is not None)


def test_merged_is_a_plain_folder_and_a_run(base: Path, runs: dict[str | None, Path], tmp_path: Path) -> None:
    out = tmp_path / "merged"
    merge(runs[None], out=out)
    assert len(list(base.glob("*.safetensors"))) > 2
    assert [file.name for file in sorted(out.glob("model*"))] == [file.name for file in sorted(base.glob("model*"))]
    assert not [file for file in out.iterdir() if file.name.startswith(".")]
    assert (out / "LICENSE").read_text(encoding="utf-8") == "Do good."
    assert "Done" not in (out / "README.md").read_text(encoding="utf-8")
    apart, merged = load_actor(runs[None], unmerged=True), load_actor(out)
    assert merged.prompt_ids("饿了", NAMES) == apart.prompt_ids("饿了", NAMES)
    said = [write(list(actor.events("饿了", NAMES, max_tokens=24))) for actor in (apart, merged)]
    assert said[0] == said[1]
    write_rows(tmp_path / "rows.jsonl", make_rows(4))
    options = TrainOptions(epochs=1, batch_size=2)
    assert train([tmp_path / "rows.jsonl"], base=str(out), out=tmp_path / "next", options=options) == 0


def test_a_checkpoint_can_be_merged(runs: dict[str | None, Path], tmp_path: Path) -> None:
    checkpoint = sorted(runs[None].glob("checkpoint-*"))[0]
    assert merge(checkpoint, out=tmp_path / "merged") == 0
    assert read_manifest(tmp_path / "merged").merged["adapter"] == checkpoint.name


def test_dtype_is_the_base_s_or_as_told(runs: dict[str | None, Path], tmp_path: Path) -> None:
    merge(runs[None], out=tmp_path / "16", dtype="bf16")
    with safe_open(next((tmp_path / "16").glob("*.safetensors")), "pt") as file:
        assert {file.get_tensor(key).dtype for key in file.keys()} == {torch.bfloat16}  # noqa: SIM118
    assert AutoModelForCausalLM.from_pretrained(tmp_path / "16").dtype == torch.bfloat16
    assert read_manifest(tmp_path / "16").merged["dtype"] == ["bfloat16"]


@pytest.mark.parametrize(
    "more",
    [
        {"use_rslora": True},
        {"use_dora": True},
        {"rank_pattern": {"q_proj": 2}, "alpha_pattern": {"v_proj": 9}},
        {"target_modules": ["lm_head", "q_proj"]},  # the base's embeddings are one tensor
        {"target_modules": ["embed_tokens"]},
    ],
    ids=["rslora", "dora", "patterns", "head", "embedding"],
)
def test_other_adapters_of_peft(more: dict, base: Path, runs: dict[str | None, Path], tmp_path: Path) -> None:
    run = other_run(base, runs[None], tmp_path / "run", **more)
    merge(run, out=tmp_path / "merged")
    wanted = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), run)
    assert (logits(AutoModelForCausalLM.from_pretrained(tmp_path / "merged")) - logits(wanted)).abs().max() < 1e-4


def other_run(base: Path, like: Path, folder: Path, **more: object) -> Path:
    """A run with an adapter of another kind, random."""
    torch.manual_seed(0)
    config = LoraConfig(**{"r": 4, "target_modules": "all-linear", "task_type": "CAUSAL_LM", **more})
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base), config)
    for name, weight in model.named_parameters():
        if "lora_B" in name or "lora_embedding_A" in name:
            torch.nn.init.normal_(weight, std=0.1)
    shutil.copytree(like, folder, ignore=shutil.ignore_patterns("checkpoint-*", "adapter*"))
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize("more", [{"modules_to_save": ["lm_head"]}, {"bias": "lora_only"}], ids=["saved", "bias"])
def test_what_is_no_update_of_weights_is_refused(
    more: dict, base: Path, runs: dict[str | None, Path], tmp_path: Path
) -> None:
    run = other_run(base, runs[None], tmp_path / "run", target_modules=["q_proj"], **more)
    with pytest.raises(UserError, match=next(iter(more))):
        merge(run, out=tmp_path / "merged")
    assert not (tmp_path / "merged").exists()


def test_the_same_grid_is_refused(runs: dict[str | None, Path], tmp_path: Path) -> None:
    with pytest.raises(UserError, match="erases the adapter"):
        merge(runs["4bit"], out=tmp_path / "merged", dtype="4bit")
    merge(runs["4bit"], out=tmp_path / "merged")
    with pytest.raises(UserError, match="erases the tuning"):
        load_actor(tmp_path / "merged", quantize="4bit")
    load_actor(tmp_path / "merged", quantize="8bit")


def test_a_used_folder_is_refused_and_untouched(runs: dict[str | None, Path], tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(UserError, match="not empty"):
        merge(runs[None], out=tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["mine.txt"]


def flip_block(staged: Path) -> None:
    file = sorted(staged.glob("*.safetensors"))[-1]
    tensors = load_file(file)
    name = next(name for name in tensors if "proj" in name)
    tensors[name][:16, :16] *= -1
    save_file(tensors, file, metadata={"format": "pt"})


def lose_stop(staged: Path) -> None:
    file = staged / "generation_config.json"
    config = json.loads(file.read_text(encoding="utf-8"))
    file.write_text(json.dumps(config | {"eos_token_id": 0}), encoding="utf-8")


def change_template(staged: Path) -> None:
    file = staged / "chat_template.jinja"
    file.write_text(file.read_text(encoding="utf-8").replace("<|im_start|>", "<|im_end|>", 1), encoding="utf-8")


def change_prompt(staged: Path) -> None:
    manifest = read_manifest(staged)
    fmt = manifest.prompt | {"template": manifest.prompt["template"] + " "}
    write_manifest(staged, replace(manifest, prompt=fmt))


@pytest.mark.parametrize(
    ("harm", "dtype", "word"),
    [
        (flip_block, "fp32", "logit"),
        (flip_block, "bf16", "top-1"),
        (lose_stop, "fp32", "end an answer"),
        (change_template, "fp32", "prompt ids"),
        (change_prompt, "bf16", "prompt ids"),
    ],
)
def test_broken_on_purpose_is_refused_and_deleted(
    harm, dtype: str, word: str, runs: dict[str | None, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make_module.write_manifest

    def write_harmed(staged: Path, manifest: object) -> None:
        whole(staged, manifest)
        harm(staged)

    monkeypatch.setattr(make_module, "write_manifest", write_harmed)
    with pytest.raises(UserError, match=word) as caught:
        merge(runs[None], out=tmp_path / "merged", dtype=dtype)
    assert caught.value.exit_code == 3
    assert not (tmp_path / "merged").exists()


def test_a_swapped_adapter_is_refused(
    base: Path, runs: dict[str | None, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = other_run(base, runs[None], tmp_path / "other")
    whole = make_module.read_frame
    monkeypatch.setattr(make_module, "read_frame", lambda base, _, *more: whole(base, other, *more))
    (tmp_path / "out").mkdir()
    with pytest.raises(UserError, match="logit"):
        merge(runs[None], out=tmp_path / "out")
    assert not list((tmp_path / "out").iterdir())


def test_terms_of_every_name_come_along(tmp_path: Path) -> None:
    base, out = tmp_path / "base", tmp_path / "out"
    base.mkdir()
    out.mkdir()
    for name in ("NOTICE", "USE_POLICY.md", "GEMMA_TERMS.html", "config.json", "modeling_x.py"):
        (base / name).write_text("{}", encoding="utf-8")
    tokenizer = SimpleNamespace(save_pretrained=lambda _: None)
    manifest = SimpleNamespace(
        prompt={"chat_template": None, "template": "{actions}"}, base={"id": "b", "sha256": "0"}, data={}
    )
    folder_module.write_rest(base, base, out, manifest, tokenizer, False)  # type: ignore[arg-type]
    assert {file.name for file in out.iterdir()} == {"NOTICE", "USE_POLICY.md", "GEMMA_TERMS.html", "README.md"}


MEASURE = """
import re, sys, torch
from pathlib import Path
from actune.export.frame import read_frame
from actune.export.shards import merge_shards
def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1]) / 1024
Path("/proc/self/clear_refs").write_text("5")  # the peak so far is forgotten
idle = peak()
base, adapter, out, kind, dtype = sys.argv[1:]
frame = read_frame(Path(base), Path(adapter), kind or None, torch.float32, False)
merge_shards(Path(base), Path(out), frame, torch.bfloat16 if dtype else None)
print(peak() - idle)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peaks are read from /proc")
@pytest.mark.parametrize(("kind", "dtype"), [("", "bf16"), ("4bit", "")])
def test_memory_stays_near_twice_the_largest_file(kind: str, dtype: str, tmp_path: Path) -> None:
    config = LlamaConfig(
        vocab_size=8000, hidden_size=2048, intermediate_size=5632, num_hidden_layers=2, tie_word_embeddings=True,
        num_attention_heads=16, num_key_value_heads=16,
    )  # fmt: skip
    model = LlamaForCausalLM(config)
    model.save_pretrained(tmp_path / "base", max_shard_size="250MB")
    sizes = [file.stat().st_size / 2**20 for file in (tmp_path / "base").glob("*.safetensors")]
    assert len(sizes) > 2
    assert max(sizes) > 200
    tuned = get_peft_model(model, LoraConfig(r=16, target_modules="all-linear", task_type="CAUSAL_LM"))
    tuned.save_pretrained(tmp_path / "adapter")
    del model, tuned
    (tmp_path / "out").mkdir()
    arguments = [str(tmp_path / "base"), str(tmp_path / "adapter"), str(tmp_path / "out"), kind, dtype]
    done = subprocess.run([sys.executable, "-c", MEASURE, *arguments], capture_output=True, text=True, check=True)
    used = float(done.stdout)
    print(f"{used:.0f} MiB, largest file {max(sizes):.0f} MiB: x {used / max(sizes):.2f}")
    assert used <= 2.25 * max(sizes)
