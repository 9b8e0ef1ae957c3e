"""The chat formats of model families, each with an example from its documentation.

Compared on 2026-11-24 with what others render for six turns, and equal (test_family_formats.py does the first part):
* the own templates of families, as TRL 1.16 has them: Llama 3, Qwen2, Qwen3, Gemma 2 and 3, Phi-3, Cohere, and gpt-oss
  without its lines with dates;
* llama.cpp, tests/test-chat-template.cpp at 03f94f1: Granite, Mistral V1 and V3, and Llama 2 with BOS in each turn;
* templates in llama.cpp's models/templates, read: DeepSeek-V3.1 (0374c5b), Phi-4-mini (6d7822c);
* GLM-4-0414, read in a log of llama.cpp's converter: no line break after the last `<|assistant|>`; llama.cpp's own
  format chatglm4 puts one;
* SmolLM3, read in four programs that render it by themselves, of which one is tested against the template: its system
  turn is not ended where there are no tools.
Not compared beyond the documentation named with them: InternLM3, OLMo 2.
"""

from __future__ import annotations

import family_templates as templates
from family_chatml import INTERNLM3, QWEN2, QWEN3, REMOTE_CODE, SMOLLM3, YI
from family_format import Format

__all__ = [
    "COHERE",
    "DEEPSEEK_V3",
    "GEMMA_2",
    "GLM_4",
    "GPT_OSS",
    "GRANITE",
    "INTERNLM3",
    "LLAMA_2",
    "LLAMA_3",
    "MISTRAL",
    "MIXTRAL",
    "OLMO_2",
    "PHI_3",
    "PHI_4_MINI",
    "QWEN2",
    "QWEN3",
    "REMOTE_CODE",
    "SMOLLM3",
    "YI",
    "Format",
]


_GEMMA = ("<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>")
_KNOCK = (("user", "knock knock"), ("assistant", "who is there"), ("user", "Gemma"))
_KNOCKED = (
    "<bos><start_of_turn>user\nknock knock<end_of_turn>\n<start_of_turn>model\nwho is there<end_of_turn>\n"
    "<start_of_turn>user\nGemma<end_of_turn>\n<start_of_turn>model\n"
)
_GREETING = (
    ("user", "Hello, how are you?"),
    ("assistant", "Fine, and you?"),
    ("user", "I'm doing great!"),
)
_LLAMA = (("system", "You are a helpful AI assistant for travel tips and recommendations"),)
_MISTRAL = "docs.mistral.ai, Concept deep dive: tokenization, Templates"
_HELLO = "<|START_OF_TURN_TOKEN|><|USER_TOKEN|>Hello, how are you?<|END_OF_TURN_TOKEN|>"

LLAMA_2 = Format(
    templates.LLAMA_2,
    ("<s>", "</s>"),
    "<s>",
    "</s>",
    (("system", "Be kind."), ("user", "Hi"), ("assistant", "Hello"), ("user", "Who are you?")),
    "<s>[INST] <<SYS>>\nBe kind.\n<</SYS>>\n\nHi [/INST] Hello </s><s>[INST] Who are you? [/INST]",
    "Meta, Llama 2 model cards and prompt formats (its pattern, filled in)",
)

LLAMA_3 = Format(
    templates.LLAMA_3,
    ("<|begin_of_text|>", "<|end_of_text|>", "<|start_header_id|>", "<|end_header_id|>", "<|eot_id|>"),
    "<|begin_of_text|>",
    "<|eot_id|>",
    (*_LLAMA, ("user", "What can you help me with?")),
    "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\n"
    "You are a helpful AI assistant for travel tips and recommendations<|eot_id|>"
    "<|start_header_id|>user<|end_header_id|>\n\nWhat can you help me with?<|eot_id|>"
    "<|start_header_id|>assistant<|end_header_id|>\n\n",
    "Meta, Llama 3 model cards and prompt formats, system prompt and user message",
    ("<|end_of_text|>",),
)

MISTRAL = Format(
    templates.MISTRAL_V3,
    ("<s>", "</s>", "[INST]", "[/INST]"),
    "<s>",
    "</s>",
    _GREETING,
    "<s>[INST] Hello, how are you?[/INST] Fine, and you?</s>[INST] I'm doing great![/INST]",
    f"{_MISTRAL}, V3",
)

MIXTRAL = Format(
    templates.MISTRAL_V1,
    ("<s>", "</s>"),
    "<s>",
    "</s>",
    _GREETING,
    "<s> [INST] Hello, how are you? [/INST] Fine, and you?</s> [INST] I'm doing great! [/INST]",
    f"{_MISTRAL}, V1",
)

GEMMA_2 = Format(
    templates.GEMMA,
    _GEMMA,
    "<bos>",
    "<eos>",
    _KNOCK,
    _KNOCKED,
    "ai.google.dev/gemma/docs/core/prompt-structure",
    ("<end_of_turn>",),
)

PHI_3 = Format(
    templates.PHI_3,
    ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    None,
    "<|endoftext|>",
    (
        ("system", "You are a helpful assistant."),
        ("user", "How to explain Internet for a medieval knight?"),
    ),
    "<|system|>\nYou are a helpful assistant.<|end|>\n"
    "<|user|>\nHow to explain Internet for a medieval knight?<|end|>\n<|assistant|>\n",
    "Phi-3-mini-4k-instruct model card, Chat format",
    ("<|end|>",),
)

PHI_4_MINI = Format(
    templates.PHI_4_MINI,
    ("<|endoftext|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    None,
    "<|endoftext|>",
    (("system", "Insert System Message"), ("user", "Insert User Message")),
    "<|system|>Insert System Message<|end|><|user|>Insert User Message<|end|><|assistant|>",
    "Phi-4-mini-instruct model card, Chat format",
    ("<|end|>",),
)

GLM_4 = Format(
    templates.GLM_4,
    ("<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>", "<|observation|>"),
    None,
    "<|endoftext|>",
    (("system", "You are kind."), ("user", "hi"), ("assistant", "Hello!"), ("user", "Who are you?")),
    "[gMASK]<sop><|system|>\nYou are kind.<|user|>\nhi<|assistant|>\nHello!<|user|>\nWho are you?<|assistant|>",
    "GLM-4-9B-0414, chat_template.jinja in its repository (the pattern, filled in)",
    ("<|user|>", "<|observation|>"),
)

DEEPSEEK_V3 = Format(
    templates.DEEPSEEK,
    ("<｜begin▁of▁sentence｜>", "<｜end▁of▁sentence｜>", "<｜User｜>", "<｜Assistant｜>", "<think>", "</think>"),
    "<｜begin▁of▁sentence｜>",
    "<｜end▁of▁sentence｜>",
    (
        ("system", "You are a helpful assistant"),
        ("user", "Who are you?"),
        ("assistant", "I am DeepSeek"),
        ("user", "1+1=?"),
    ),
    "<｜begin▁of▁sentence｜>You are a helpful assistant<｜User｜>Who are you?<｜Assistant｜></think>I am DeepSeek"
    "<｜end▁of▁sentence｜><｜User｜>1+1=?<｜Assistant｜></think>",
    "DeepSeek-V3.1 model card, Chat template, non-thinking, with the dialogue of its Usage example",
)

GRANITE = Format(
    templates.GRANITE,
    ("<|end_of_text|>", "<|start_of_role|>", "<|end_of_role|>"),
    None,
    "<|end_of_text|>",
    (("system", "You are Granite."), ("user", "Hello!"), ("assistant", "Hi there"), ("user", "Who are you?")),
    "<|start_of_role|>system<|end_of_role|>You are Granite.<|end_of_text|>\n"
    "<|start_of_role|>user<|end_of_role|>Hello!<|end_of_text|>\n"
    "<|start_of_role|>assistant<|end_of_role|>Hi there<|end_of_text|>\n"
    "<|start_of_role|>user<|end_of_role|>Who are you?<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>",
    "ibm.com/granite/docs, Prompt engineering, Chat template design (the pattern, filled in)",
)

OLMO_2 = Format(
    templates.OLMO_2,
    ("<|endoftext|>", "<|pad|>"),
    "<|endoftext|>",
    "<|endoftext|>",
    (("user", "How are you doing?"),),
    "<|endoftext|><|user|>\nHow are you doing?\n<|assistant|>\n",
    "OLMo-2-1124-7B-Instruct model card, Chat template",
)

COHERE = Format(
    templates.COHERE,
    (
        "<BOS_TOKEN>",
        "<|START_OF_TURN_TOKEN|>",
        "<|END_OF_TURN_TOKEN|>",
        "<|SYSTEM_TOKEN|>",
        "<|USER_TOKEN|>",
        "<|CHATBOT_TOKEN|>",
    ),
    "<BOS_TOKEN>",
    "<|END_OF_TURN_TOKEN|>",
    (("user", "Hello, how are you?"),),
    f"<BOS_TOKEN>{_HELLO}<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>",
    "Command R model card, Usage, Format message with the command-r chat template",
)

GPT_OSS = Format(
    templates.HARMONY,
    ("<|endoftext|>", "<|start|>", "<|end|>", "<|message|>", "<|channel|>", "<|return|>", "<|call|>"),
    None,
    "<|return|>",
    (("user", "What is 2 + 2?"),),
    "<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\n\nReasoning: medium\n\n"
    "# Valid channels: analysis, commentary, final. Channel must be included for every message.<|end|>"
    "<|start|>user<|message|>What is 2 + 2?<|end|><|start|>assistant<|channel|>final<|message|>",
    "OpenAI harmony, docs/format.md, Chat conversation format, and the answer's channel from its Example output",
    ("<|endoftext|>", "<|call|>"),
)
