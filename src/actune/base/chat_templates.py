"""Named chat templates for bases that have none: `chatml`, `gemma` and `llama-3`.

Each renders the documented format of its family and nothing else: no default system text, no tools, no
thinking. They are Jinja texts as `tokenizer.chat_template` takes them.
"""

from __future__ import annotations

from typing import NamedTuple

from actune.errors import UserError, either


class NamedTemplate(NamedTuple):
    """A chat template and the text of the special token that it puts after an assistant message."""

    jinja: str
    stop_token: str


# What a base may lack is a BOS token; an undefined `bos_token` renders as nothing in Jinja.
CHATML = """\
{%- for message in messages -%}
{{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|im_start|>assistant\\n' -}}
{%- endif -%}"""

# Gemma has no system turn: its documentation puts that text before the first user turn, a blank line between.
GEMMA = """\
{{- bos_token -}}
{%- if messages[0]['role'] == 'system' -%}
{%- set first_user_prefix = messages[0]['content'] | trim + '\\n\\n' -%}
{%- set turns = messages[1:] -%}
{%- else -%}
{%- set first_user_prefix = '' -%}
{%- set turns = messages -%}
{%- endif -%}
{%- for message in turns -%}
{%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
{{- raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') -}}
{%- endif -%}
{%- set role = 'model' if message['role'] == 'assistant' else message['role'] -%}
{{- '<start_of_turn>' + role + '\\n' + (first_user_prefix if loop.first else '') -}}
{{- message['content'] | trim + '<end_of_turn>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<start_of_turn>model\\n' -}}
{%- endif -%}"""

LLAMA_3 = """\
{{- bos_token -}}
{%- for message in messages -%}
{{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' -}}
{{- message['content'] | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
{{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
{%- endif -%}"""

TEMPLATES = {
    "chatml": NamedTemplate(CHATML, "<|im_end|>"),
    "gemma": NamedTemplate(GEMMA, "<end_of_turn>"),
    "llama-3": NamedTemplate(LLAMA_3, "<|eot_id|>"),
}


def _named(name: str) -> NamedTemplate:
    if name not in TEMPLATES:
        names = ", ".join(TEMPLATES)
        raise UserError(
            "--chat-template",
            name,
            either(f"one of: {names}", f"其中之一: {names}"),
            either("take the family the base was trained with", "选择该基座所属的模板"),
        )
    return TEMPLATES[name]


def chat_template(name: str) -> str:
    """Return the Jinja text of a named chat template.

    Raises:
        UserError: There is no template of that name.
    """
    return _named(name).jinja


def stop_token_text(name: str) -> str:
    """Return the text of the token that ends an assistant message in a named chat template.

    Raises:
        UserError: There is no template of that name.
    """
    return _named(name).stop_token
