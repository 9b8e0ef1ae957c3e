"""A base from its folder into memory: device, dtype, tokenizer, model, stop ids."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer
from transformers.utils.logging import disable_progress_bar

from actune.base.quantize import check_quantize, device_map, disarm, is_quantized, quantization_config, try_out
from actune.errors import UserError, either

DTYPES = {
    "fp32": torch.float32,
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
}


def pick_device(wanted: str = "auto") -> torch.device:
    """Return the device to compute on: the first CUDA device, else Apple's, else the CPU, unless told.

    Args:
        wanted: `auto`, `cpu`, `mps`, `cuda` or `cuda:N`.

    Raises:
        UserError: The value is none of these, or the machine has no such device.
    """
    there = ["cpu"]
    if torch.backends.mps.is_available():
        there.append("mps")
    if torch.cuda.is_available():
        there += ["cuda", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
    if wanted in ("auto", "cuda") and "cuda" in there and "LOCAL_RANK" in os.environ:
        return torch.device("cuda", int(os.environ["LOCAL_RANK"]))  # one of several processes on this machine
    if wanted == "auto":
        return torch.device("cuda" if "cuda" in there else there[-1])
    if not re.fullmatch(r"cpu|mps|cuda(:\d+)?", wanted):
        raise UserError("--device", wanted, "auto, cpu, mps, cuda, cuda:N", either("leave it out", "不填即可"))
    if wanted not in there:
        listed = ", ".join(there)
        raise UserError(
            "--device",
            either(f"{wanted}, which this machine has not", f"{wanted}, 本机没有"),
            either(f"one of: {listed}", f"其中之一: {listed}"),
            either("leave it out, or install a torch build for that device", "不填, 或安装支持该设备的 torch"),
        )
    return torch.device(wanted)


def pick_dtype(device: torch.device | str, wanted: str = "auto") -> torch.dtype:
    """Return the dtype of the weights.

    `auto` is bf16 on CUDA devices that compute in it, else fp16 there, and fp32 on the CPU and Apple's devices:
    bf16 is several times slower than fp32 on many CPUs, and hardly quicker where tokens are decoded one by one.
    A training on a CPU takes it where it proves itself (`tune/fast/proof.py`).

    Args:
        device: Where the model will be.
        wanted: `auto`, `fp32`, `bf16` or `fp16`.

    Raises:
        UserError: The value is none of these.
    """
    if wanted in DTYPES:
        return DTYPES[wanted]
    if wanted != "auto":
        raise UserError("--dtype", wanted, ", ".join(["auto", *DTYPES]), either("leave it out", "不填即可"))
    if torch.device(device).type != "cuda":
        return torch.float32
    return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float16


def word_of(dtype: torch.dtype) -> str:
    """Return the name that the options have for a dtype."""
    return next(word for word, kind in DTYPES.items() if kind == dtype)


def load_tokenizer(path: Path | str, trust_remote_code: bool = False) -> Any:
    """Load the fast tokenizer of a model folder.

    Raises:
        UserError: The folder holds no tokenizer that transformers can read.
    """
    try:
        return AutoTokenizer.from_pretrained(path, trust_remote_code=trust_remote_code, local_files_only=True)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error, either("a tokenizer", "分词器")) from error


def load_config(path: Path | str, trust_remote_code: bool = False) -> Any:
    """Load the configuration of a model folder; no weights are needed for it.

    Raises:
        UserError: The folder holds none that transformers can read.
    """
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code, local_files_only=True)
    except (OSError, ValueError) as error:
        raise _unreadable(path, error, either("a model's config.json", "模型的 config.json")) from error


def load_model(
    path: Path | str,
    device: str = "auto",
    dtype: str = "auto",
    trust_remote_code: bool = False,
    quantize: str | None = None,
) -> Any:
    """Load a causal language model from safetensors, ready to be used (evaluation mode).

    Args:
        path: A Hugging Face model folder.
        device: As `pick_device` takes it.
        dtype: As `pick_dtype` takes it.
        trust_remote_code: Run Python code that lies in the folder.
        quantize: ``8bit``, ``4bit`` or None; quantised weights compute in the dtype.

    Returns:
        A transformers `PreTrainedModel` on the device.

    Raises:
        UserError: A wrong device, dtype or quantisation, or a folder that transformers cannot load.
    """
    disable_progress_bar()  # of loading weights, which takes a second
    where = pick_device(device)
    kind = pick_dtype(where, dtype)
    options: dict[str, Any] = {"dtype": kind, "use_safetensors": True}
    if quantize is not None:
        check_quantize(quantize, Path(path))
        options |= {"quantization_config": quantization_config(quantize, kind), "device_map": device_map(where)}
    try:
        model = AutoModelForCausalLM.from_pretrained(
            path, trust_remote_code=trust_remote_code, local_files_only=True, **options
        )
    except (OSError, ValueError) as error:
        raise _unreadable(
            path, error, either("a causal language model in safetensors", "safetensors 格式的语言模型")
        ) from error
    disarm(model)
    if quantize is not None:
        _let_go(model)
    if quantize == "8bit":
        try_out(model, path)
    # Quantised weights cannot be moved: they were loaded to where they belong.
    return model.eval() if is_quantized(model) else model.to(where).eval()


def _let_go(model: Any) -> None:
    """Copy what a quantised base still shares with its file: the mapping holds all of the file in memory."""
    for value in (*model.parameters(), *model.buffers()):
        if value.is_floating_point() and value.device.type == "cpu":
            value.data = value.data.clone()


def _unreadable(path: Path | str, error: Exception, wanted: str) -> UserError:
    text = str(error).strip() or type(error).__name__
    fix = either("give a Hugging Face model folder", "请给出 Hugging Face 模型文件夹")
    if "trust_remote_code" in text:
        fix = either(
            "this base brings its own Python code: read it, then add --trust-remote-code",
            "该基座自带 Python 代码: 请先阅读, 再加 --trust-remote-code",
        )
    return UserError(str(path), text.splitlines()[0], wanted, fix)


def named_stop_ids(folder: Path, tokenizer: Any) -> tuple[int, ...]:
    """Return what `stop_ids` returns, of a model whose weights are not loaded.

    Args:
        folder: The base's.
        tokenizer: Its tokenizer.
    """
    ids: list[Any] = []
    # The first one that is there holds, as in transformers.
    for file in (folder / "generation_config.json", folder / "config.json"):
        if file.is_file():
            named = json.loads(file.read_text(encoding="utf-8")).get("eos_token_id")
            ids = list(named) if isinstance(named, list) else [named]
            break
    return tuple(dict.fromkeys(int(token) for token in (*ids, tokenizer.eos_token_id) if token is not None))


def stop_ids(model: Any, tokenizer: Any) -> tuple[int, ...]:
    """Return every token id that ends an answer: those of the generation config, then the tokenizer's EOS.

    Args:
        model: The loaded base.
        tokenizer: Its tokenizer.

    Returns:
        Ids without doubles; empty when neither names one.
    """
    named = model.generation_config.eos_token_id
    ids = list(named) if isinstance(named, list | tuple) else [named]
    ids.append(tokenizer.eos_token_id)
    return tuple(dict.fromkeys(int(token) for token in ids if token is not None))
