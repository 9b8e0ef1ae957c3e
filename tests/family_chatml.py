"""The chat formats that are ChatML, or grew out of it; see family_formats.py."""

from __future__ import annotations

import family_templates as templates
from family_format import Format

_IM = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
_QWEN = (
    ("system", "You are a helpful assistant."),
    ("user", "hello"),
    ("assistant", "Hello! How can I assist you today?"),
    ("user", "Explain large language models like I'm 5."),
)
_QWEN_SHOWN = (
    "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n<|im_start|>user\nhello<|im_end|>\n"
    "<|im_start|>assistant\nHello! How can I assist you today?<|im_end|>\n"
    "<|im_start|>user\nExplain large language models like I'm 5.<|im_end|>\n<|im_start|>assistant\n"
)
_NO_THOUGHT = "<think>\n\n</think>\n\n"

QWEN2 = Format(
    templates.CHATML,
    _IM,
    None,
    "<|im_end|>",
    _QWEN,
    _QWEN_SHOWN,
    "qwen.readthedocs.io, Key concepts, Chat template",
    ("<|endoftext|>",),
)

QWEN3 = Format(
    templates.QWEN_3,
    (*_IM, "<think>", "</think>"),
    None,
    "<|im_end|>",
    _QWEN,
    _QWEN_SHOWN + _NO_THOUGHT,
    "qwen.readthedocs.io, Key concepts; Qwen3 model card, enable_thinking=False",
    ("<|endoftext|>",),
)

INTERNLM3 = Format(
    templates.CHATML_BOS,
    ("<s>", "</s>", "<|im_start|>", "<|im_end|>"),
    "<s>",
    "</s>",
    (("user", "Hello"), ("assistant", "Hello, I am InternLM."), ("user", "What can you do?")),
    "<s><|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\nHello, I am InternLM.<|im_end|>\n"
    "<|im_start|>user\nWhat can you do?<|im_end|>\n<|im_start|>assistant\n",
    "InternLM, chat/chat_format.md, Basic structure (the pattern, filled in)",
    ("<|im_end|>",),
)

YI = Format(
    templates.CHATML,
    _IM,
    None,
    "<|im_end|>",
    (("user", "hi"),),
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "Yi README, Quick start, its messages in ChatML",
)

SMOLLM3 = Format(
    templates.SMOLLM_3,
    (*_IM, "<think>", "</think>"),
    None,
    "<|im_end|>",
    (("system", "Be kind."), ("user", "Hi")),
    "<|im_start|>system\n## Metadata\n\nReasoning Mode: /no_think\n\n## Custom Instructions\n\nBe kind.\n\n"
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n",
    "SmolLM3-3B, chat_template.jinja in its repository (without its dates)",
)

REMOTE_CODE = Format(
    templates.CHATML,
    _IM,
    None,
    "<|im_end|>",
    (("user", "hi"),),
    "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n",
    "ChatML",
)
