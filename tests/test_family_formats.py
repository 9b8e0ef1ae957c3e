"""Our templates beside the families' own, as the package trl carries them."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from transformers.utils.chat_template_utils import _compile_jinja_template

import family_formats as formats
from family_formats import Format

TURNS = (
    ("system", "You are a helpful assistant"),
    ("user", "Hello"),
    ("assistant", "Hi there"),
    ("user", "Who are you"),
    ("assistant", "I am an assistant"),
    ("user", "Another question"),
)
DATES = re.compile(r"Knowledge cutoff: .*\nCurrent date: .*\n")


@pytest.mark.parametrize(
    ("name", "fmt"),
    [
        ("llama3", formats.LLAMA_3),
        ("qwen2_5", formats.QWEN2),
        ("qwen3", formats.QWEN3),
        ("gemma", formats.GEMMA_2),
        ("gemma3", formats.GEMMA_2),
        ("phi3", formats.PHI_3),
        ("cohere", formats.COHERE),
        ("gptoss", formats.GPT_OSS),
    ],
)
def test_a_template_of_ours_renders_what_the_familys_own_does(name: str, fmt: Format) -> None:
    trl = pytest.importorskip("trl")
    own = (Path(trl.__file__).parent / "chat_templates" / f"{name}.jinja").read_text(encoding="utf-8")
    turns = TURNS if name != "gemma" else TURNS[1:]  # it has no system turn

    def rendered(template: str) -> str:
        more: dict[str, Any] = {"bos_token": fmt.bos or "", "eos_token": fmt.eos, "enable_thinking": False}
        messages = [{"role": role, "content": text} for role, text in turns]
        return str(_compile_jinja_template(template).render(messages=messages, add_generation_prompt=True, **more))

    assert rendered(fmt.template) == DATES.sub("", rendered(own))
