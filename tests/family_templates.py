"""Chat templates of model families, written by us from the formats that their documentation shows. Text turns only."""

from __future__ import annotations

from actune.base.chat_templates import CHATML, GEMMA, LLAMA_3

__all__ = [
    "CHATML",
    "CHATML_BOS",
    "COHERE",
    "DEEPSEEK",
    "GEMMA",
    "GLM_4",
    "GRANITE",
    "HARMONY",
    "LLAMA_2",
    "LLAMA_3",
    "MISTRAL_V1",
    "MISTRAL_V3",
    "OLMO_2",
    "PHI_3",
    "PHI_4_MINI",
    "QWEN_3",
    "SMOLLM_3",
]

CHATML_BOS = "{{- bos_token -}}" + CHATML

# A template of Qwen3 puts an empty thought where thinking is switched off.
QWEN_3 = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- if enable_thinking is defined and not enable_thinking -%}
{{- '<think>\\n\\n</think>\\n\\n' -}}
{%- endif -%}
{%- endif -%}"""

# Its system turn also says which mode of thinking is on, and is not ended where there are no tools.
SMOLLM_3 = """\
{%- set mode = '/no_think' if enable_thinking is defined and not enable_thinking else '/think' -%}
{%- if messages[0]['role'] == 'system' -%}
{%- set custom = messages[0]['content'] -%}
{%- set turns = messages[1:] -%}
{%- else -%}
{%- set custom = 'You are a helpful AI assistant named SmolLM, trained by Hugging Face.' -%}
{%- set turns = messages -%}
{%- endif -%}
{{- '<|im_start|>system\\n## Metadata\\n\\nReasoning Mode: ' + mode -}}
{{- '\\n\\n## Custom Instructions\\n\\n' + custom + '\\n\\n' -}}
{%- for message in turns -%}
{%- set thought = '<think>\\n\\n</think>\\n' if message['role'] == 'assistant' and mode == '/no_think' else '' -%}
{{- '<|im_start|>' + message['role'] + '\\n' + thought + message['content'] + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' + ('<think>\\n\\n</think>\\n' if mode == '/no_think' else '') -}}
{%- endif -%}"""

LLAMA_2 = """\
{%- if messages[0]['role'] == 'system' -%}
{%- set turns = messages[1:] -%}
{%- set system = '<<SYS>>\\n' + messages[0]['content'] + '\\n<</SYS>>\\n\\n' -%}
{%- else -%}
{%- set turns = messages -%}
{%- set system = '' -%}
{%- endif -%}
{%- for message in turns -%}
{%- if message['role'] == 'user' -%}
{{- bos_token + '[INST] ' + (system if loop.first else '') + message['content'] + ' [/INST]' -}}
{%- else -%}
{{- ' ' + message['content'] + ' ' + eos_token -}}
{%- endif -%}
{%- endfor -%}"""

# Of version 1 and 3 only the blanks differ. Neither has a system turn: it is refused.
_MISTRAL = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{{- raise_exception('Only user and assistant roles are supported!') -}}
{%- elif message['role'] == 'user' -%}
{{- 'BEFORE' + message['content'] + 'AFTER' -}}
{%- else -%}
{{- ' ' + message['content'] + eos_token -}}
{%- endif -%}
{%- endfor -%}"""
MISTRAL_V1 = _MISTRAL.replace("BEFORE", " [INST] ").replace("AFTER", " [/INST]")
MISTRAL_V3 = _MISTRAL.replace("BEFORE", "[INST] ").replace("AFTER", "[/INST]")

PHI_3 = """\
{%- for message in messages -%}
{{- '<|' + message['role'] + '|>\\n' + message['content'] + '<|end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|assistant|>\\n' -}}
{%- else -%}
{{- eos_token -}}
{%- endif -%}"""
PHI_4_MINI = PHI_3.replace("\\n", "")

# Nothing ends an answer here but the beginning of the next turn.
GLM_4 = """\
{{- '[gMASK]<sop>' -}}
{%- for message in messages -%}
{{- '<|' + message['role'] + '|>\\n' + message['content'] -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|assistant|>' -}}
{%- endif -%}"""

DEEPSEEK = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{{- message['content'] -}}
{%- elif message['role'] == 'user' -%}
{{- '<｜User｜>' + message['content'] -}}
{%- else -%}
{{- '<｜Assistant｜></think>' + message['content'] + eos_token -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<｜Assistant｜>' + ('<think>' if thinking else '</think>') -}}
{%- endif -%}"""

GRANITE = """\
{%- for message in messages -%}
{{- '<|start_of_role|>' + message['role'] + '<|end_of_role|>' + message['content'] + '<|end_of_text|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|start_of_role|>assistant<|end_of_role|>' -}}
{%- endif -%}"""

# The beginning and the end of a text are the same token.
OLMO_2 = """\
{{- eos_token -}}
{%- for message in messages -%}
{{- '<|' + message['role'] + '|>\\n' + message['content'] -}}
{{- eos_token if message['role'] == 'assistant' and loop.last else '\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|assistant|>\\n' -}}
{%- endif -%}"""

COHERE = """\
{{- bos_token -}}
{%- for message in messages -%}
{%- set role = {'system': 'SYSTEM', 'user': 'USER', 'assistant': 'CHATBOT'}[message['role']] -%}
{{- '<|START_OF_TURN_TOKEN|><|' + role + '_TOKEN|>' + message['content'] + '<|END_OF_TURN_TOKEN|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|START_OF_TURN_TOKEN|><|CHATBOT_TOKEN|>' -}}
{%- endif -%}"""

# Only an answer in the channel "final" is for the user. `<|return|>` ends a dialogue, `<|end|>` a turn within one. The
# system turn is OpenAI's; a user's system text is the developer's. Its lines with dates are left out.
HARMONY = """\
{{- '<|start|>system<|message|>You are ChatGPT, a large language model trained by OpenAI.\\n\\n' -}}
{{- 'Reasoning: medium\\n\\n' -}}
{{- '# Valid channels: analysis, commentary, final. Channel must be included for every message.<|end|>' -}}
{%- for message in messages -%}
{%- if message['role'] == 'system' -%}
{{- '<|start|>developer<|message|># Instructions\\n\\n' + message['content'] + '\\n\\n<|end|>' -}}
{%- elif message['role'] == 'user' -%}
{{- '<|start|>user<|message|>' + message['content'] + '<|end|>' -}}
{%- else -%}
{{- '<|start|>assistant<|channel|>final<|message|>' + message['content'] -}}
{{- '<|return|>' if loop.last and not add_generation_prompt else '<|end|>' -}}
{%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|start|>assistant' -}}
{%- endif -%}"""
