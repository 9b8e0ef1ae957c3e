from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from transformers import AutoModelForCausalLM

import actune
from actune import prompt
from actune.actor import Actor, load_actor
from actune.base.source import resolve
from actune.data.rows import Row, Turn
from actune.engine.local import LocalEngine
from actune.errors import UserError
from actune.prompt import PromptFormat
from actune.script.events import Act, Done, Fault, Say, merge, write
from tiny_actor import byte_tokenizer, tiny_llama

NAMES = ("tea", "做饭-炒冬瓜")


@pytest.fixture(scope="module")
def run(tmp_path_factory) -> Path:
    """A run with random adapter weights, as a training leaves it, with a checkpoint in it."""
    top = tmp_path_factory.mktemp("运行 one")
    tokenizer = byte_tokenizer()
    base, folder = top / "base", top / "run"
    tiny_llama(tokenizer).save_pretrained(base)
    tokenizer.save_pretrained(base)
    model = get_peft_model(tiny_llama(tokenizer), LoraConfig(r=4, target_modules="all-linear", task_type="CAUSAL_LM"))
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(weight, std=0.2)
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    source = resolve(str(base))
    fmt = PromptFormat.for_rows([Row(NAMES, "饿了", "好")], tokenizer)
    write_test_manifest(folder, source, fmt)
    (folder / "checkpoint-3").mkdir()
    for file in folder.glob("adapter*"):
        shutil.copy(file, folder / "checkpoint-3")
    model.merge_and_unload().save_pretrained(top / "merged")
    tokenizer.save_pretrained(top / "merged")
    return folder


def write_test_manifest(folder: Path, source, fmt: PromptFormat) -> None:
    base = {"id": source.id, "path": str(source.path), "sha256": source.sha256}
    empty = {key: {} for key in ("recipe", "options", "data", "probe", "best", "versions")}
    manifest = {"format": 1, "base": base, "prompt": fmt.to_dict()} | empty
    (folder / "actune.json").write_text(json.dumps(manifest), encoding="utf-8")


def test_logits_equal_plain_transformers_and_peft(run: Path):
    ids = torch.tensor([load_actor(run).prompt_ids("饿了", NAMES)])
    plain = AutoModelForCausalLM.from_pretrained(run.parent / "base", dtype=torch.float32)
    with torch.inference_mode():
        bare = plain(ids).logits
        wanted = PeftModel.from_pretrained(plain, run).eval()(ids).logits
        for actor in (load_actor(run), load_actor(run, unmerged=True), load_actor(run / "checkpoint-3")):
            torch.testing.assert_close(actor.engine.model(ids).logits, wanted, atol=1e-4, rtol=0)
        torch.testing.assert_close(
            load_actor(run.parent / "merged").engine.model(ids).logits, wanted, atol=1e-4, rtol=0
        )
    assert (bare - wanted).abs().max() > 0.01
    assert isinstance(load_actor(run, unmerged=True).engine.model, PeftModel)
    assert not isinstance(load_actor(run).engine.model, PeftModel)


def test_events_are_listed_and_end_with_done(run: Path):
    actor = actune.load(run)
    *events, done = actor.events("饿了", NAMES, max_tokens=40, temperature=1.0, seed=3)
    assert isinstance(done, Done)
    assert done.tokens > 0
    assert done.ttft_ms > 0
    assert all(isinstance(event, Say | Act) for event in events)
    again = list(actor.events("饿了", NAMES, max_tokens=40, temperature=1.0, seed=3))
    assert list(merge(again[:-1])) == list(merge(events))


def test_prompt_of_training_say_and_chat_is_one(run: Path):
    actor = load_actor(run)
    fmt = PromptFormat.for_rows([Row(NAMES, "饿了", "好")], actor.tokenizer)
    history = [Turn("user", "早"), Turn("assistant", "早呀。<&tea&>")]
    trained = prompt.render_ids(actor.tokenizer, fmt, "饿了", NAMES, history, "我是小美")
    assert actor.prompt_ids("饿了", NAMES, history, "我是小美") == trained
    asked = []
    actor.engine.stream = lambda request: asked.append(request) or iter(())
    assert list(actor.events("饿了", NAMES, history, "我是小美")) == [Done("length", None, 0)]
    assert asked[0].prompt == trained
    assert asked[0].names == NAMES


def scripted(script: bytes, names=NAMES, free: bool = False, stop: bool = True) -> list:
    """Events of an actor whose engine writes this script byte by byte."""
    tokenizer = byte_tokenizer()
    engine = LocalEngine(tiny_llama(tokenizer), tokenizer, [tokenizer.eos_token_id])
    byte = {data: id for id, data in enumerate(engine.vocabulary.token_bytes) if data is not None and len(data) == 1}
    ids = [byte[script[n : n + 1]] for n in range(len(script))] + [tokenizer.eos_token_id] * stop
    engine.stream = lambda request: iter(ids)
    return list(merge(Actor(engine, free=free).events("hungry", names)))


def test_script_becomes_events():
    script = "好，我来😀\n<&tea&>\n喝吧 <3"
    *events, done = scripted(script.encode())
    assert write(events) == script
    assert events[1] == Act("tea", 6)
    assert done.reason == "stop"
    assert scripted(b"x", stop=False)[-1].reason == "length"
    assert isinstance(scripted(b"<&fly&>", free=True)[0], Fault)


def test_failing_model_is_a_fault(run: Path):
    actor = load_actor(run)
    actor.engine.model.lm_head.weight.data[0] = torch.nan
    fault, done = actor.events("饿了", NAMES)
    assert fault.kind == "model"
    assert done.reason == "interrupted"


def test_bare_base_speaks_the_language_of_the_question(run: Path):
    actor = load_actor(run.parent / "base")
    assert "可选动作" in actor.tokenizer.decode(actor.prompt_ids("饿了", NAMES))
    assert "Available actions" in actor.tokenizer.decode(actor.prompt_ids("hungry", NAMES))
    assert "可选动作" in load_actor(run).tokenizer.decode(load_actor(run).prompt_ids("hungry", NAMES))


def test_moved_base_is_named_and_checked(run: Path, tmp_path: Path):
    moved, broken = tmp_path / "my run", tmp_path / "other"
    shutil.copytree(run, moved)
    source = resolve(str(run.parent / "base"))
    fmt = PromptFormat("zh", prompt.SYSTEM["zh"])
    gone = type(source)(id=str(tmp_path / "gone"), path=tmp_path / "gone", sha256=source.sha256)
    write_test_manifest(moved, gone, fmt)
    with pytest.raises(UserError):
        load_actor(moved)
    assert load_actor(moved, base=str(run.parent / "base")).prompt_ids("饿了", NAMES)
    tiny_llama(byte_tokenizer(), seed=9).save_pretrained(broken)
    byte_tokenizer().save_pretrained(broken)
    with pytest.raises(UserError, match="--base"):
        load_actor(moved, base=str(broken))


def test_nothing_to_load_is_an_error(tmp_path: Path):
    with pytest.raises(UserError, match="resume"):
        load_actor(tmp_path)


def test_name_that_is_none_is_refused(run: Path):
    with pytest.raises(ValueError, match="twice"):
        load_actor(run).events("x", ["tea", "tea"])
