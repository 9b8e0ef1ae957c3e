"""The grid that a quantised base stands on: its weights as they were in training, in float."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from transformers.pytorch_utils import Conv1D
from transformers.quantizers import AutoHfQuantizer

from actune.base.quantize import quantization_config


@dataclass(frozen=True)
class Cell:
    """How one weight is quantised.

    Args:
        form: Class of the weight in bitsandbytes.
        options: What that class takes.
        dtype: The weight's before it is quantised.
        turned: Whether the file holds it transposed (GPT-2's modules).
    """

    form: type
    options: dict[str, Any]
    dtype: torch.dtype
    turned: bool

    def snap(self, weight: Tensor) -> Tensor:
        """Quantise a weight as transformers does when it loads it, and give back what it is then (float32)."""
        from bitsandbytes import functional

        weight = weight.T if self.turned else weight
        whole = self.form(weight.to(self.dtype), **self.options).to("cpu")
        if "quant_type" in self.options:
            value = functional.dequantize_4bit(whole.data, whole.quant_state)
        else:
            value = functional.int8_vectorwise_dequant(whole.data, whole.SCB)
        result: Tensor = (value.T if self.turned else value).float()
        return result


def read_grid(bare: Any, quantize: str, dtype: torch.dtype) -> dict[str, Cell]:
    """Let transformers say which weights it would quantise, and how.

    Args:
        bare: A base on the device ``meta``; its modules are replaced.
        quantize: ``8bit`` or ``4bit``.
        dtype: The one the base had in training.

    Returns:
        By the weight's name in the base.
    """
    from bitsandbytes.nn import Linear4bit, Linear8bitLt

    quantizer = AutoHfQuantizer.from_config(quantization_config(quantize, dtype), pre_quantized=False)
    quantizer.preprocess_model(bare, dtype=dtype, device_map=None)
    cells = {}
    for name, module in bare.named_modules():
        if isinstance(module, Linear4bit | Linear8bitLt):
            options = {**vars(module.weight), "requires_grad": False}
            options.pop("SCB", None)
            # The weight would leave its state in the module, and the shard would stay in memory with it.
            options |= {"module": None} if isinstance(module, Linear4bit) else {}
            cells[f"{name}.weight"] = Cell(type(module.weight), options, dtype, issubclass(module.source_cls, Conv1D))
    return cells
