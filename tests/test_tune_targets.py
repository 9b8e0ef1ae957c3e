"""What gets an adapter: every linear module but the head and every stack of experts, or what the user names."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from peft.tuners.tuners_utils import BaseTunerLayer
from transformers import AutoConfig, AutoModelForCausalLM

from actune.base.rates import Rates
from actune.errors import UserError
from actune.tune.fast import proof
from actune.tune.lora import add_lora
from actune.tune.options import TrainOptions, settle
from actune.tune.targets import find_targets
from families import FAMILIES, SIZES

DEEPSEEK = next(family for family in FAMILIES if family.name == "DeepSeek-V3")
STACKS = ["model.layers.1.mlp.experts.down_proj", "model.layers.1.mlp.experts.gate_up_proj"]


def model() -> Any:
    """Of two layers the second has experts, and shared experts that are linear modules."""
    config = AutoConfig.for_model(DEEPSEEK.kind, **{**SIZES, **DEEPSEEK.config, "vocab_size": 64})
    return AutoModelForCausalLM.from_config(config)


def adapted(**options: object) -> list[str]:
    """Names of all that has an adapter in a model with experts."""
    tuned = add_lora(model(), settle(TrainOptions(**options)))  # type: ignore[arg-type]
    inner = tuned.base_model.model
    found = []
    for name, module in inner.named_modules():
        if isinstance(module, BaseTunerLayer):
            stack = ".mlp.experts" in name
            found.append(name.replace(".base_layer", "") + (f".{module.parameter_name}" if stack else ""))
    return sorted(found)


def test_modules_named_as_parts_of_experts_are_not_lost() -> None:
    found = adapted()
    assert len(found) == len(set(found)) == 10 + 3 + 3 + 2  # attention of both layers, dense, shared experts, stacks
    for name in ("layers.0.mlp.gate_proj", "layers.0.mlp.down_proj", "layers.1.mlp.shared_experts.up_proj"):
        assert f"model.{name}" in found
    assert set(STACKS) < set(found)
    assert not [name for name in found if "lm_head" in name or name.endswith("mlp.gate")]


def test_the_user_names_what_gets_one() -> None:
    assert adapted(targets="o_proj") == ["model.layers.0.self_attn.o_proj", "model.layers.1.self_attn.o_proj"]
    assert adapted(targets="experts.down_proj") == STACKS[:1]
    assert adapted(targets="layers.0.mlp.up_proj,experts.gate_up_proj") == ["model.layers.0.mlp.up_proj", STACKS[1]]
    with pytest.raises(UserError, match="--targets nothing"):
        adapted(targets="nothing")


def test_with_dropout_experts_stay_frozen_and_that_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        found = adapted(dropout=0.1)
    assert len(found) == 10
    assert STACKS[1] in caplog.text
    assert "(8)" in caplog.text


def test_what_is_quantised_and_named_like_a_part_of_an_expert_stays_frozen() -> None:
    bare = model()
    weight = bare.model.layers[0].mlp.up_proj.weight
    weight.requires_grad_(False)
    weight.data = weight.data.to(torch.int8)
    targets = find_targets(bare, ["all-linear"], 0.0)
    assert targets.frozen == ["model.layers.0.mlp.up_proj.weight"]
    assert not {*targets.modules, *targets.parameters} & {"model.layers.0.mlp.up_proj", *targets.frozen}


def test_a_base_with_experts_is_not_rounded_to_bf16_unasked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(proof, "rates", lambda: Rates(1, 1, 9, 1, 1, 10.0))
    monkeypatch.setattr(proof, "LEAST_WIDTH", 0)
    assert not proof.bf16_pays(add_lora(model(), settle(TrainOptions())))
    config = AutoConfig.for_model("llama", **{**SIZES, "vocab_size": 64})
    assert proof.bf16_pays(add_lora(AutoModelForCausalLM.from_config(config), settle(TrainOptions())))


def test_without_stacked_experts_peft_finds_the_modules() -> None:
    config = AutoConfig.for_model("llama", **{**SIZES, "vocab_size": 64})
    bare = AutoModelForCausalLM.from_config(config)
    assert find_targets(bare, ["all-linear"], 0.0).modules == "all-linear"
    assert find_targets(bare, ["q_proj"], 0.1).modules == ["q_proj"]
