"""A Modelfile for Ollama, whose Go template writes our prompt."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from actune import prompt
from actune.data.rows import Turn
from actune.errors import UserError, either
from actune.prompt import PromptFormat

# Texts that no chat template writes by itself; each is found again in what is rendered.
_SYSTEM, _USER, _ASSISTANT, _LAST = "ACTUNE-S", "ACTUNE-U", "ACTUNE-A", "ACTUNE-V"


@dataclass(frozen=True)
class Pieces:
    """What stands between the turns of a prompt.

    Args:
        start: Before the system text.
        first: Between the system text and the user's first turn.
        assistant: Before an assistant's turn.
        user: Before a later turn of the user.
        end: After the last turn of the user.
    """

    start: str
    first: str
    assistant: str
    user: str
    end: str

    def render(self, messages: Sequence[Mapping[str, str]]) -> str:
        """Do what `template` does."""
        text, last = "", ""
        for message in messages:
            role = message["role"]
            before = self.first if last == "system" else self.user
            text += {"system": self.start, "assistant": self.assistant}.get(role, before) + message["content"]
            last = role
        return text + self.end

    def template(self) -> str:
        """Write a Go text/template over ``.Messages``, as Ollama's reference describes it.

        Every text is a Go string and every blank between actions is trimmed, so that only what is quoted is written.
        A prompt of ours always has a system turn.
        """
        start, first, assistant, user, end = (json.dumps(text, ensure_ascii=False) for text in vars(self).values())
        return (
            '{{- $last := "" }}\n'
            "{{- range .Messages }}\n"
            f'{{{{- if eq .Role "system" }}}}{{{{ {start} }}}}\n'
            f'{{{{- else if eq .Role "assistant" }}}}{{{{ {assistant} }}}}\n'
            f'{{{{- else if eq $last "system" }}}}{{{{ {first} }}}}\n'
            f"{{{{- else }}}}{{{{ {user} }}}}\n"
            "{{- end }}{{ .Content }}\n"
            "{{- $last = .Role }}\n"
            f"{{{{- end }}}}{{{{ {end} }}}}"
        )


def read_pieces(tokenizer: Any, fmt: PromptFormat, bos: str) -> Pieces:
    """Find what our prompt writes between the turns.

    Args:
        tokenizer: Of the model.
        fmt: The run's format.
        bos: Text that the runtime puts before every prompt by itself, which must not stand there twice.

    Raises:
        UserError: The chat template does more than to write something between turns.
    """
    bare = replace(fmt.of(_LAST), template=_SYSTEM)
    history = (Turn("user", _USER), Turn("assistant", _ASSISTANT))
    text = prompt.render(tokenizer, bare, _LAST, (), history).removeprefix(bos)
    found = []
    for mark in (_SYSTEM, _USER, _ASSISTANT, _LAST):
        before, mark_found, text = text.partition(mark)
        if not mark_found:
            raise _not_plain()
        found.append(before)
    start, first, assistant, user = found
    return Pieces(start, first, assistant, user, text)


def check_pieces(pieces: Pieces, messages: Sequence[Mapping[str, str]], wanted: str, bos: str) -> None:
    """Check that a prompt is written byte for byte.

    Raises:
        UserError: It is not.
    """
    if bos + pieces.render(messages) != wanted:
        raise _not_plain()


def _not_plain() -> UserError:
    return UserError(
        either("chat template", "对话模板"),
        either("it changes what the turns say, or looks at more than their roles", "它改动对话内容, 或不只依据角色"),
        either("a template that writes something between turns", "只在对话之间写入文本的模板"),
        either("--to gguf: llama.cpp uses the template as it is", "--to gguf: llama.cpp 直接使用原模板"),
        exit_code=3,
    )


def modelfile(file: str, pieces: Pieces, stops: Sequence[str], context: int) -> str:
    """Write a Modelfile.

    Args:
        file: Name of the GGUF file beside it.
        pieces: Of the prompt.
        stops: Texts that end an answer.
        context: Tokens that prompt and answer may have together.
    """
    lines = [f"FROM ./{file}", f'TEMPLATE """{pieces.template()}"""']
    lines += [f"PARAMETER stop {json.dumps(stop, ensure_ascii=False)}" for stop in stops]
    # Greedy, without Ollama's penalty for what stands in the prompt: action names are to be repeated.
    lines += ["PARAMETER temperature 0", "PARAMETER repeat_penalty 1.0", f"PARAMETER num_ctx {context}"]
    return "\n".join(lines) + "\n"
