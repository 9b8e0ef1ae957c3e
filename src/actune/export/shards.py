"""The weights of a merged model, one file of the base after the other."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from actune.base.cache import weight_files
from actune.errors import UserError, either
from actune.export.frame import MOST_SHOWN, Frame

INDEX = "model.safetensors.index.json"
_WORDS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16"}
_BYTES = {"F64": 8, "F32": 4, "F16": 2, "BF16": 2, "I64": 8, "I32": 4, "I16": 2, "I8": 1, "U8": 1, "BOOL": 1}


def shards_of(folder: Path) -> list[Path]:
    """Return the weight files that transformers would load; some folders hold the same weights twice."""
    index = folder / INDEX
    if index.is_file():
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return [folder / name for name in sorted(set(names))]
    single = folder / "model.safetensors"
    return [single] if single.is_file() else weight_files(folder)


def merge_shards(base: Path, out: Path, frame: Frame, dtype: torch.dtype | None) -> set[torch.dtype]:
    """Write the merged weights.

    Memory: a few times the largest weight; one file of the base at a time is read, weight by weight.

    Args:
        base: The base's folder.
        out: The folder to write in.
        frame: Of the base, with the adapter.
        dtype: Of the result; None keeps the base's.

    Returns:
        The kinds of float that were written.

    Raises:
        UserError: The files name the weights otherwise than the model does, so that the adapter finds them not.
    """
    found: dict[str, list[str]] = {file.name: _keys(file) for file in shards_of(base)}
    names = {frame.name_of(key) for keys in found.values() for key in keys}
    _check_found(base, names, frame)
    written: dict[str, str] = {}
    size, kinds = 0, set()
    for name, keys in found.items():
        # Where the files hold both shared names, each is given by its own.
        pairs = [(key, new) for key in keys for new in frame.keys_from(key) if new == key or new not in names]
        header = _header(base / name, pairs, dtype)
        with (out / name).open("wb") as target:
            target.write(header)
            for key, new in pairs:
                data = _merged(base / name, key, new, frame, dtype)
                kinds |= {data.dtype} if data.is_floating_point() else set()
                target.write(data.flatten().view(torch.uint8).numpy().data)
                size += data.nbytes
                del data  # before the next weight is read
        written |= dict.fromkeys((new for _, new in pairs), name)
    if len(found) > 1:
        index = {"metadata": {"total_size": size}, "weight_map": written}
        (out / INDEX).write_text(json.dumps(index, indent=2) + "\n", encoding="utf-8")
    return kinds


def _check_found(base: Path, names: set[str], frame: Frame) -> None:
    """Refuse files that lack a weight which the adapter changes."""
    # One of the two shared names is in the files, or both are.
    lost = set(frame.layers) - names - (frame.shared if frame.shared & names else set())
    if lost:
        raise UserError(
            str(base),
            either(
                f"not in its files: {', '.join(sorted(lost)[:MOST_SHOWN])}",
                f"文件中没有: {', '.join(sorted(lost)[:MOST_SHOWN])}",
            ),
            either("weights under the names that the model has", "与模型中名称一致的权重"),
            either(
                "save the base once with transformers' save_pretrained", "先用 transformers 的 save_pretrained 保存"
            ),
        )


def _keys(file: Path) -> list[str]:
    with safe_open(file, framework="pt") as source:
        return list(source.keys())


def _merged(file: Path, key: str, new: str, frame: Frame, dtype: torch.dtype | None) -> torch.Tensor:
    # Opened anew for each weight: the pages of a file stay in memory as long as it is open.
    with safe_open(file, framework="pt") as source:
        weight: torch.Tensor = source.get_tensor(key).clone()
    kind = (dtype if weight.is_floating_point() else None) or weight.dtype
    held = [weight]
    del weight  # so that it goes as soon as what is made of it is there
    return frame.merged(new, held.pop()).to(kind).contiguous()


def _header(file: Path, pairs: Sequence[tuple[str, str]], dtype: torch.dtype | None) -> bytes:
    """Return the beginning of a safetensors file: names, dtypes, shapes and places, before the data is known.

    safetensors' own writer wants all tensors of a file at once. The format: 8 bytes with the length of a JSON text,
    the text, the data (its README, "Format").

    Args:
        file: The base's file.
        pairs: The key of each weight in it, and of what is written.
        dtype: Of the floats; None keeps theirs.
    """
    content: dict[str, Any] = {"__metadata__": {"format": "pt"}}
    end = 0
    with safe_open(file, framework="pt") as source:
        for key, new in pairs:
            slice = source.get_slice(key)
            kind, shape = slice.get_dtype(), slice.get_shape()
            kind = _WORDS[dtype] if dtype and kind in _WORDS.values() else kind
            begin, end = end, end + math.prod(shape) * _BYTES[kind]
            content[new] = {"dtype": kind, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(content).encode()
    text += b" " * (-len(text) % 8)
    return len(text).to_bytes(8, "little") + text
