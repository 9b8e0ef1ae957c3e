"""All of a merged folder but its weights: configs, tokenizer, licence, model card, and what our commands read."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch

from actune.base.chat_templates import chat_template
from actune.prompt_format import SLOT
from actune.tune.run import PARITY, VALID, Manifest, write_whole
from actune.tune.seen import SEEN

# Parts of file names under which bases keep their terms.
_TERMS = ("license", "licence", "notice", "terms", "policy")
_WORDS = {torch.float32: "float32", torch.bfloat16: "bfloat16", torch.float16: "float16"}


def write_configs(
    base: Path, out: Path, stops: Iterable[int], dtype: torch.dtype | None, parts_ways: bool, grid: str | None
) -> None:
    """Write ``config.json`` and ``generation_config.json``.

    Args:
        base: The base's folder.
        out: The merged folder.
        stops: Every token id that ends an answer; other programs stop only on these.
        dtype: Of the weights; None keeps the base's.
        parts_ways: Whether input and output embedding are no longer one tensor.
        grid: The quantised form whose values the weights are near, if any.
    """
    config = _read(base / "config.json")
    config.pop("_name_or_path", None)
    if dtype is not None:
        config.pop("torch_dtype", None)
        config["dtype"] = _WORDS[dtype]
    if parts_ways:
        for part in (config, config.get("text_config", {})):
            if part is config or "tie_word_embeddings" in part:
                part["tie_word_embeddings"] = False
    if grid:
        # `base.quantize` refuses to quantise these weights to the same grid again.
        config["dequantized_from"] = grid
    generation = {"bos_token_id": config.get("bos_token_id"), "pad_token_id": config.get("pad_token_id")}
    generation = _read(base / "generation_config.json") or {key: id for key, id in generation.items() if id is not None}
    generation["eos_token_id"] = sorted(stops)
    for name, content in (("config.json", config), ("generation_config.json", generation)):
        write_whole(out / name, json.dumps(content, ensure_ascii=False, indent=2) + "\n")


def _read(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8"))) if file.is_file() else {}


def write_rest(run: Path, base: Path, out: Path, manifest: Manifest, tokenizer: Any, code: bool) -> None:
    """Write tokenizer with its chat template, rows for checks, terms and model card.

    Args:
        run: The folder with ``parity.jsonl``.
        base: The base's folder.
        out: The merged folder.
        manifest: Of the run.
        tokenizer: Of the run; its chat template becomes the run's.
        code: Copy the base's own Python code, which the model needs.
    """
    if name := manifest.prompt["chat_template"]:
        # Other programs know only the tokenizer's.
        tokenizer.chat_template = chat_template(name)
    tokenizer.save_pretrained(out)
    for file in (run / PARITY, run / VALID, run / SEEN):
        if file.is_file():
            shutil.copyfile(file, out / file.name)
    for file in base.iterdir():
        if file.is_file() and (any(word in file.name.lower() for word in _TERMS) or (code and file.suffix == ".py")):
            shutil.copyfile(file, out / file.name)
    write_whole(out / "README.md", card(manifest))


def card(manifest: Manifest, apart: bool = False) -> str:
    """Write the model card.

    Args:
        manifest: Of the run.
        apart: The folder holds the adapter alone.
    """
    base, data = manifest.base, manifest.data
    system = manifest.prompt["template"].replace(SLOT, "- A\n- B")
    rows, name, digest = data.get("rows", "?"), base["id"], base["sha256"]
    if apart:
        made = f"""Made with actune: a LoRA adapter, trained on {rows} dialogues, for `{name}` (sha256 of its weights
{digest}), whose licence and terms apply.

由 actune 制作: 在 {rows} 段对话上为 `{name}` 训练的 LoRA 适配器; 须遵守基座的许可与条款。"""
    else:
        made = f"""Made with actune: LoRA on {rows} dialogues, merged into the weights of
`{name}` (sha256 of its weights {digest}). The weights were modified; the base's licence and terms
apply, and their texts lie beside this file. `actune.json` says how it was made and how equal the merge is.

由 actune 制作: 在 {rows} 段对话上训练 LoRA 并合并进 `{name}` 的权重。权重已被修改;
须遵守基座的许可与条款, 其文本与本文件放在一起。"""
    return f"""---
base_model: {json.dumps(name, ensure_ascii=False)}
library_name: {"peft" if apart else "transformers"}
pipeline_tag: text-generation
tags: [actune]
---
# {name}, tuned to act

{made}

The model answers with text and with actions, `<&NAME&>`, out of a list that stands in the system text:

```
{system}
```

`actune say FOLDER "QUESTION" --actions A、B` renders this prompt and never lets an unlisted action pass.
"""
