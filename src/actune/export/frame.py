"""The bare frame of a base with a real adapter in it: peft adds each weight's update, no base weight is held."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftConfig, get_peft_model
from peft.tuners.lora import ParamWrapper
from peft.tuners.tuners_utils import BaseTunerLayer
from peft.utils import load_peft_weights
from torch import Tensor
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.core_model_loading import revert_weight_conversion

from actune.errors import UserError, either
from actune.export.grid import Cell, read_grid

MOST_SHOWN = 5

# What a LoRA layer holds in a file without the adapter's name, and how peft names it in memory.
_PARTS = {
    "lora_A.weight": "lora_A.default.weight",
    "lora_B.weight": "lora_B.default.weight",
    "lora_embedding_A": "lora_embedding_A.default",
    "lora_embedding_B": "lora_embedding_B.default",
    "lora_magnitude_vector": "lora_magnitude_vector.default.weight",
}


@dataclass(frozen=True)
class Frame:
    """A base without its weights.

    Args:
        names: All its parameters.
        prefix: What files of some bases leave out before a name (transformers' `base_model_prefix`).
        layers: The adapter's layer for each base weight that it changes.
        grid: How each weight was quantised in training that was; empty for a base in float.
        shared: Names of the input and the output embedding where they are one tensor.
        parts: For each key in the files that is only a part of a changed weight: that weight.
        split: Takes an update of such a weight apart, by the keys in the files.
    """

    names: frozenset[str]
    prefix: str
    layers: dict[str, Any]
    grid: dict[str, Cell]
    shared: frozenset[str]
    parts: dict[str, str]
    split: Callable[[str], dict[str, Tensor]]

    @property
    def parts_ways(self) -> bool:
        """Whether an embedding that was shared is no longer: the adapter changes one side of it."""
        return not self.shared.isdisjoint(self.layers)

    def name_of(self, key: str) -> str:
        """Return the parameter's name of a key in a weight file."""
        for name in (key, f"{self.prefix}.{key}", key.removeprefix(f"{self.prefix}.")):
            if name in self.names:
                return name
        return self.parts.get(key, key)

    def keys_from(self, key: str) -> list[str]:
        """Return the keys of what a weight becomes: itself, and its twin where the two part ways."""
        name = self.name_of(key)
        return [key, *(self.shared - {name})] if name in self.shared and self.parts_ways else [key]

    def merged(self, key: str, weight: Tensor) -> Tensor:
        """Give a weight of the merged model.

        Args:
            key: One of `keys_from`.
            weight: What the base has there.

        Returns:
            The same, or float32 if it was changed.
        """
        name = self.name_of(key)
        if key in self.parts:
            return weight.float() + self.split(name)[key]
        if name in self.grid:
            weight = self.grid[name].snap(weight)
        return _added(self.layers[name], weight) if name in self.layers else weight


def _added(layer: Any, weight: Tensor) -> Tensor:
    """Let peft add the update in float32: it knows rsLoRA, DoRA, patterns of ranks and transposed modules."""
    inner, name = layer.get_base_layer(), _weight_of(layer)
    setattr(inner, name, torch.nn.Parameter(weight.float(), requires_grad=False))
    # In place: the safe form copies the weight, and the comparison finds a NaN as well.
    layer.merge()
    result: Tensor = inner.get_parameter(name).data
    setattr(inner, name, torch.nn.Parameter(torch.empty(0, device="meta"), requires_grad=False))
    return result


def _weight_of(layer: Any) -> str:
    return layer.parameter_name if isinstance(layer, ParamWrapper) else "weight"


def read_frame(base: Path, adapter: Path, quantize: str | None, dtype: torch.dtype, trust_remote_code: bool) -> Frame:
    """Build the frame of a base and put an adapter in it.

    Args:
        base: The base's folder.
        adapter: The folder of the adapter.
        quantize: ``8bit`` or ``4bit`` where the sum shall stand on the base as it was quantised in training.
        dtype: The one the base had in training.
        trust_remote_code: Run the base's own code.

    Raises:
        UserError: The adapter is of a kind that cannot be merged, or it does not belong to this base.
    """
    bare = _bare(base, trust_remote_code)
    sides = (bare.get_input_embeddings(), bare.get_output_embeddings())
    ends = {f"{name}.weight" for name, module in bare.named_modules() if any(module is side for side in sides)}
    shared = ends if sides[0].weight is sides[1].weight and len(ends) == 2 else set()
    weights = bare.state_dict(keep_vars=True)
    layers = _layers(bare, adapter)
    parts = parts_of(bare, {name: weights[name] for name in layers})

    @functools.lru_cache(maxsize=2)  # Files hold the parts of the two weights of a layer's experts by turns.
    def split(name: str) -> dict[str, Tensor]:
        update = _added(layers[name], torch.zeros(weights[name].shape))
        apart: dict[str, Tensor] = revert_weight_conversion(bare, {name: update})
        return apart

    return Frame(
        names=frozenset(weights),
        prefix=bare.base_model_prefix,
        grid=read_grid(_bare(base, trust_remote_code), quantize, dtype) if quantize else {},
        shared=frozenset(shared),
        layers=layers,
        parts=parts,
        split=split,
    )


def parts_of(model: Any, weights: Mapping[str, Tensor]) -> dict[str, str]:
    """Name the weight that each key in files of a base belongs to, where transformers stores it otherwise.

    Files of many bases hold each expert apart, and transformers stacks them when it loads them.

    Args:
        model: The base; its weights may be on the device ``meta``.
        weights: Those to look for.
    """
    found: dict[str, str] = {}
    for name, weight in weights.items():
        keys = revert_weight_conversion(model, {name: weight})
        found |= {key: name for key in keys if key != name}
    return found


def _bare(base: Path, trust_remote_code: bool) -> Any:
    config = AutoConfig.from_pretrained(base, trust_remote_code=trust_remote_code, local_files_only=True)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)


def _layers(bare: Any, folder: Path) -> dict[str, Any]:
    config = PeftConfig.from_pretrained(str(folder))
    _check_kind(config, folder)
    with torch.device("meta"):
        tuned = get_peft_model(bare, config)
    state = {}
    for key, value in load_peft_weights(str(folder), device="cpu").items():
        part = next((part for part in _PARTS if key.endswith(f".{part}")), "")
        state[key.removesuffix(part) + _PARTS.get(part, "")] = value.float()
    # peft's own loading would put the adapter on the device of the base, which is none. Assigned, it stays on the CPU.
    unknown = tuned.load_state_dict(state, strict=False, assign=True).unexpected_keys
    missing = [name for name, value in tuned.named_parameters() if "lora_" in name and value.is_meta]
    if unknown or missing:
        raise UserError(
            str(folder),
            ", ".join([*unknown, *missing][:MOST_SHOWN]),
            either("an adapter of this base, whole", "属于该基座的完整适配器"),
            either("name the right base with --base, or train again", "用 --base 指定正确的基座, 或重新训练"),
        )
    inner = tuned.base_model.model
    return {
        # A second weight of the same module is wrapped inside of the first one's wrapper.
        f"{name.replace('.base_layer', '')}.{_weight_of(module)}": module
        for name, module in inner.named_modules()
        if isinstance(module, BaseTunerLayer)
    }


def _check_kind(config: Any, folder: Path) -> None:
    """Refuse what is not an addition to weights."""
    values = config.to_dict()
    more = ("modules_to_save", "trainable_token_indices", "layer_replication")
    found = [name for name in more if values.get(name)]
    found += [f"bias={values['bias']}"] if values.get("bias", "none") != "none" else []
    if values["peft_type"] != "LORA" or found:
        raise UserError(
            str(folder),
            ", ".join([str(values["peft_type"].value), *found]),
            either("a LoRA adapter on modules (rsLoRA and DoRA too)", "作用于模块的 LoRA 适配器 (含 rsLoRA, DoRA)"),
            either("merge it with peft, or keep it apart: --unmerged", "用 peft 合并, 或保持分离: --unmerged"),
        )
