"""A base in 8 or 4 bits (bitsandbytes): how it is loaded, where, and the trap on some CPUs."""

from __future__ import annotations

import importlib.util
import json
import os
from pathlib import Path
from typing import Any

import torch

from actune.errors import UserError, either

KINDS = ("8bit", "4bit")
# Tokens; a number that is no width of a layer, so that no shapes fit by chance.
TRIED = 7


def check_quantize(kind: str, base: Path) -> None:
    """Check that a base can be loaded in a quantised form.

    Raises:
        UserError: There is no such form, the base's files are quantised already, or bitsandbytes is not installed.
    """
    if kind not in KINDS:
        raise UserError("--quantize", kind, ", ".join(KINDS), either("leave it out", "不填即可"))
    if importlib.util.find_spec("bitsandbytes") is None:
        raise UserError(
            f"--quantize {kind}",
            either("bitsandbytes is not installed", "没有安装 bitsandbytes"),
            either("the extra `quant`", "可选依赖 quant"),
            "python -m pip install 'actune[quant]'",
        )
    if _config(base).get("dequantized_from") == kind:
        raise UserError(
            f"--quantize {kind}",
            either(f"{base} was merged onto a {kind} base", f"{base} 是合并到 {kind} 基座上的"),
            # Measured: rounding the sum to the grid the base came from puts nearly every weight back.
            either("another grid: this one erases the tuning", "另一种网格: 同一网格会抹去微调结果"),
            either(
                "leave --quantize out, or export a finer grid: actune export --to gguf --dtype q8_0",
                "去掉 --quantize, 或导出更细的网格: actune export --to gguf --dtype q8_0",
            ),
        )
    if quantized_on_disk(base):
        raise UserError(
            f"--quantize {kind}",
            either(f"the weights in {base} are quantised already", f"{base} 中的权重已经量化"),
            either("weights in floating point", "浮点权重"),
            either("leave --quantize out, or take the original base", "去掉 --quantize, 或使用原始基座"),
        )


def quantized_on_disk(folder: Path) -> bool:
    """Tell whether a model folder holds quantised weights; a folder without a readable config does not."""
    return "quantization_config" in _config(folder)


def _config(folder: Path) -> dict[str, Any]:
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}  # whoever loads the folder says what is wrong with it
    return config if isinstance(config, dict) else {}


def quantization_config(kind: str, dtype: torch.dtype) -> Any:
    """Give transformers' description: LLM.int8, or NF4 with double quantisation (as QLoRA has it).

    Args:
        kind: ``8bit`` or ``4bit``.
        dtype: What a linear module computes in.
    """
    from transformers import BitsAndBytesConfig

    if kind == "8bit":
        return BitsAndBytesConfig(load_in_8bit=True)
    return BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )


def device_map(device: torch.device) -> dict[str, torch.device]:
    """Put the whole base on the one device that this process trains on.

    A quantised base cannot be moved later, and accelerate refuses to train it on another device than it was loaded on
    ("You can't train a model that has been loaded in 8-bit precision on a different device"): a process that
    torchrun started must not load on the first GPU, as ``device_map="auto"`` would.

    Args:
        device: From `load.pick_device`; ``cuda`` without a number is this process's own.
    """
    if device.type == "cuda" and device.index is None:
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", torch.cuda.current_device())))
    return {"": device}


def disarm(model: Any) -> None:
    """Keep bitsandbytes from repacking 4-bit weights on CPUs with AVX512-BF16.

    There the first forward in evaluation mode lays the weights out anew; after it a training step gets no gradient
    through them, and dequantising, merging or saving gives noise, all in silence (0 of 48 answers right in our
    measures; bitsandbytes 2078 is the same fault in `.to()`).
    """
    if not is_quantized(model) or model.config.quantization_config.quant_method != "bitsandbytes":
        return
    import bitsandbytes

    for module in model.modules():
        if isinstance(module, bitsandbytes.nn.Linear4bit):
            module.support_avx512bf16_for_cpu = False


def try_out(model: Any, base: Path | str) -> None:
    """Let a base in 8 bits read a few tokens: bitsandbytes cannot compute every layer that it can hold.

    Its product in evaluation takes inputs of two or three dimensions, and DeepSeek's attention gives it four
    (bitsandbytes 0.50). Found here, it ends a run before it has begun.

    Args:
        model: As it was loaded.
        base: Where from.

    Raises:
        UserError: It fails.
    """
    ids = torch.arange(TRIED, device=model.device)[None]
    try:
        with torch.inference_mode():
            model.eval()(input_ids=ids, use_cache=False)
    except (RuntimeError, IndexError) as error:
        raise UserError(
            f"--quantize 8bit ({base})",
            either(
                f"bitsandbytes cannot compute this base: {str(error).splitlines()[0]}",
                f"bitsandbytes 无法计算该基座: {str(error).splitlines()[0]}",
            ),
            either("a base whose layers it can compute in 8 bits", "可用 8 位计算的基座"),
            either("--quantize 4bit, or leave it out", "改用 --quantize 4bit, 或去掉该选项"),
        ) from error


def is_quantized(model: Any) -> bool:
    """Tell whether a model's weights are quantised, by us or on the disk."""
    return "quantization_config" in model.config.to_dict()
