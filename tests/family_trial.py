"""A tiny random base of a family of models, and what our own commands can do with it."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from tokenizers import AddedToken
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer, GenerationConfig, PreTrainedTokenizerFast

from actune.actor import Actor, load_actor
from actune.base.load import load_model
from actune.export.merge import merge
from actune.script.events import Act, Fault, Say
from actune.tune.command import train
from actune.tune.metrics import read_metrics
from actune.tune.options import TrainOptions
from actune.tune.run import read_manifest, write_rows
from actune.tune.targets import stacked_experts
from conftest import make_rows
from families import SIZES, Family

WEIGHTS = "adapter_model.safetensors"
# Two steps of two batches of two rows; no rows are kept for validation.
OPTIONS = TrainOptions(
    epochs=1, batch_size=2, grad_accum=2, valid=0.0, practice="off", lr=5e-3, save_steps=1, dtype="fp32"
)
YES = "yes"


def make_tokenizer(family: Family, plain: Path) -> PreTrainedTokenizerFast:
    """Make the tokenizer of a family: another one's words, the family's own special tokens and chat template."""
    tokenizer = AutoTokenizer.from_pretrained(plain)
    marks = [AddedToken(mark, special=True) for mark in family.format.marks]
    tokenizer.add_special_tokens({"additional_special_tokens": marks})
    tokenizer.bos_token, tokenizer.eos_token = family.format.bos, family.format.eos
    tokenizer.pad_token = family.format.marks[0]
    tokenizer.chat_template = family.format.template
    return tokenizer


def make_base(family: Family, plain: Path, folder: Path) -> Path:
    """Write a base of a family: a tiny random model with its tokenizer."""
    tokenizer = make_tokenizer(family, plain)
    ids = {"bos_token_id": tokenizer.bos_token_id, "eos_token_id": tokenizer.eos_token_id}
    ids |= {"pad_token_id": tokenizer.pad_token_id}
    values = {**SIZES, **family.config, **ids, "vocab_size": -(-len(tokenizer) // 64) * 64}
    stops = [tokenizer.eos_token_id, *map(tokenizer.convert_tokens_to_ids, family.format.stops)]
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    model = _remote(family, values, folder) if family.code else _known(family, values)
    torch.random.set_rng_state(state)
    model.generation_config = GenerationConfig(**ids | {"eos_token_id": stops})
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def _known(family: Family, values: dict[str, Any]) -> Any:
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family.kind, **values))


def _remote(family: Family, values: dict[str, Any], folder: Path) -> Any:
    skip = shutil.ignore_patterns("__pycache__")
    shutil.copytree(Path(__file__).parent / family.code, folder, ignore=skip, dirs_exist_ok=True)
    names = {"AutoConfig": "configuration_plainlm.PlainConfig", "AutoModelForCausalLM": "modeling_plainlm.PlainLM"}
    content = {**values, "model_type": family.kind, "architectures": ["PlainLM"], "auto_map": names}
    (folder / "config.json").write_text(json.dumps(content), encoding="utf-8")
    config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
    return AutoModelForCausalLM.from_config(config, trust_remote_code=True)


class Trial:
    """A base of a family, and what is tried with it.

    Args:
        family: The family.
        base: Its base.
        work: A folder for the runs.
    """

    def __init__(self, family: Family, base: Path, work: Path) -> None:
        self.family, self.base, self.work = family, base, work
        self.trust = bool(family.code)
        self.rows = make_rows(8)
        self.table = work / "rows.jsonl"
        write_rows(self.table, self.rows)
        self.run = work / "run"

    def train(self, out: Path, options: TrainOptions = OPTIONS, **more: Any) -> None:
        """Train as the command does."""
        given = {"base": str(self.base), "out": out, "options": options, "trust_remote_code": self.trust}
        assert train([self.table], **given, **more) == 0

    def kind(self) -> str:
        """The class of the model in transformers."""
        return type(load_model(self.base, "cpu", "fp32", self.trust)).__name__

    def trains(self) -> str:
        """Two steps; everything that should have an adapter has one that moved."""
        self.train(self.run)
        assert len(read_metrics(self.run)) == 2
        bare = load_model(self.base, "cpu", "fp32", self.trust)
        linear = {name for name, module in bare.named_modules() if type(module) is torch.nn.Linear}
        linear -= {name for name, module in bare.named_modules() if module is bare.get_output_embeddings()}
        found = load_file(self.run / WEIGHTS)
        assert all(value.any() for name, value in found.items() if "lora_B" in name)
        names = {name.removeprefix("base_model.model.").partition(".lora_")[0] for name in found}
        experts = stacked_experts(bare)
        owners = {name.rpartition(".")[0] for name in experts}
        stacked = {name for name in names if name.replace(".base_layer", "") in owners}
        assert names - stacked == linear, (names - stacked) ^ linear
        assert len(stacked) == len(experts)
        return YES

    def fast(self) -> str:
        """The path that training took, and that the plain path comes to the same losses."""
        path = read_manifest(self.run).probe["path"]
        if not path["fast"]:
            return f"falls back: {_reason(path['why'])}"
        plain = self.work / "plain"
        self.train(plain, TrainOptions(**{**vars(OPTIONS), "plain": True}))
        assert not read_manifest(plain).probe["path"]["fast"]
        for one, other in zip(read_metrics(self.run), read_metrics(plain), strict=True):
            assert abs(one["loss"] - other["loss"]) < 1e-4, (one, other)
        left = [name for name, there in (("head", path["chunked"]), ("blocks", path["blocks"])) if not there]
        return f"{YES}, but its own {' and '.join(left)}" if left else YES

    def resume(self) -> str:
        """From the checkpoint of step 1 on, step 2 ends as in the undisturbed run, to the bit."""
        again = self.work / "again"
        shutil.copytree(self.run, again)
        shutil.rmtree(again / "checkpoint-2")
        (again / WEIGHTS).unlink()
        self.train(again, resume=True)
        assert (again / WEIGHTS).read_bytes() == (self.run / WEIGHTS).read_bytes()
        return YES

    def merge(self) -> str:
        """The merged folder passes the comparison of `actune merge`, and is plainly loaded."""
        out = self.work / "merged"
        assert merge(self.run, out=out, device="cpu", trust_remote_code=self.trust) == 0
        parity = read_manifest(out).merged["parity"]
        assert parity["greedy"] == parity["prompts"] == 1
        assert sorted(_keys(out)) == sorted(_keys(self.base))
        return YES

    def constrained(self) -> str:
        """However much the model wants to act, no unlisted action comes."""
        actor = load_actor(self.run, device="cpu", trust_remote_code=self.trust)
        acts = 0
        with pushed(actor):
            for row in self.rows[:3]:
                events = list(actor.events(row.question, row.actions, max_tokens=40))
                assert not [event for event in events if isinstance(event, Fault)], events
                names = [event.name for event in events if isinstance(event, Act)]
                assert set(names) <= set(row.actions)
                acts += len(names)
                assert not [event for event in events if isinstance(event, Say) and "<&" in event.text]
        assert acts
        return YES


def _keys(folder: Path) -> list[str]:
    with safe_open(folder / "model.safetensors", "pt") as file:
        return list(file.keys())


@contextmanager
def pushed(actor: Actor) -> Iterator[None]:
    """Make a model want to begin tags, at every second token that it writes."""
    model = actor.local.model
    begin = actor.tokenizer("<&", add_special_tokens=False)["input_ids"]
    turn = 0

    def push(_head: Any, _args: Any, logits: torch.Tensor) -> torch.Tensor:
        nonlocal turn
        turn += 1
        return logits.index_add(-1, torch.tensor(begin[:1]), torch.full((*logits.shape[:-1], 1), 1e3 * (turn % 2)))

    handle = model.get_output_embeddings().register_forward_hook(push)
    try:
        yield
    finally:
        handle.remove()


def _reason(why: str) -> str:
    if why.startswith("CannotPack: "):
        return f"attention is asked for {why.removeprefix('CannotPack: ')}"
    return "its results differ" if why.startswith("loss") or "gradient" in why else why
