"""From a GGUF file to an ordinary Hugging Face folder in float32."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from tokenizers import pre_tokenizers
from transformers import AutoModelForCausalLM, AutoTokenizer, GenerationConfig

from actune.base.bundled import Bundled
from actune.base.chat_templates import chat_template

# Chinese, digits, runs of blanks and line breaks, an emoji and our tags: what a wrong tokenizer garbles first.
_SAMPLE = "饿了? I’ll cook  12 dishes.\n\n<&做饭-炒冬瓜&>\n炒冬瓜香喷四溢。😀"


def convert(gguf: Path, folder: Path, base: Bundled) -> None:
    """Write the model, tokenizer, chat template and generation config of a GGUF file as a Hugging Face folder.

    Args:
        gguf: The file; its own folder is used as the model's path.
        folder: Where to write; made when missing.
        base: What is known about this base.

    Raises:
        RuntimeError: The tokenizer that was written does not read back as it should.
    """
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if base.digits_apart:
        tokenizer.backend_tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
            [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
        )
    if base.chat_template is not None:
        tokenizer.chat_template = chat_template(base.chat_template)
    tokenizer.save_pretrained(folder)
    _save_model(gguf, folder, tokenizer, base)
    _check_tokenizer(tokenizer, folder, base)


def _save_model(gguf: Path, folder: Path, tokenizer: Any, base: Bundled) -> None:
    loaded = AutoModelForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    config = loaded.config
    # A model that came from GGUF counts as quantised and refuses to be saved: its weights go into a fresh one.
    del config.quantization_config
    config.name_or_path = base.model
    model = AutoModelForCausalLM.from_config(config, dtype=torch.float32)
    model.load_state_dict(loaded.state_dict())
    stops = [_token_id(tokenizer, text) for text in base.stop_tokens]
    model.generation_config = GenerationConfig(
        bos_token_id=tokenizer.bos_token_id, eos_token_id=stops, pad_token_id=tokenizer.pad_token_id
    )
    model.save_pretrained(folder)


def _token_id(tokenizer: Any, text: str) -> int:
    ids: list[int] = tokenizer.encode(text, add_special_tokens=False)
    if len(ids) != 1 or not tokenizer.added_tokens_decoder[ids[0]].special:
        raise RuntimeError(f"{text!r} is not one special token but {ids}")
    return ids[0]


def _check_tokenizer(tokenizer: Any, folder: Path, base: Bundled) -> None:
    """Read the tokenizer back: same ids, same text, same chat template, stop tokens special."""
    again = AutoTokenizer.from_pretrained(folder)
    ids = again.encode(_SAMPLE, add_special_tokens=False)
    if ids != tokenizer.encode(_SAMPLE, add_special_tokens=False):
        raise RuntimeError(f"{base.name}: the saved tokenizer gives other ids")
    if again.decode(ids) != _SAMPLE:
        raise RuntimeError(f"{base.name}: the tokenizer does not give the text back: {again.decode(ids)!r}")
    if again.chat_template != tokenizer.chat_template or not again.chat_template:
        raise RuntimeError(f"{base.name}: the chat template was not saved")
    for text in base.stop_tokens:
        _token_id(again, text)
