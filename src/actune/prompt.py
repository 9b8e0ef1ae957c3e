"""The one place where a prompt is rendered: training, evaluation, chat and serving all call it."""

from __future__ import annotations

import bisect
import functools
import logging
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from actune.base.chat_templates import chat_template
from actune.data.rows import Turn
from actune.errors import PromptTooLong, UserError, either
from actune.prompt_format import NO_ACTIONS, SLOT, SYSTEM, PromptFormat, language_of, read_template

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

__all__ = [
    "SYSTEM",
    "PromptFormat",
    "answer_ids",
    "blank_ids",
    "closed",
    "language_of",
    "messages",
    "read_template",
    "render",
    "render_ids",
    "stop_token",
    "system_text",
    "taken",
]
log = logging.getLogger(__name__)

# Each family of thinking models has its own word for the switch; a template ignores the words it does not know.
THINKING_OFF = {"enable_thinking": False, "thinking": False}
# In the format of gpt-oss an answer names its channel first; only what is in this one is for the user.
_HARMONY_TURN, _HARMONY_FINAL = "<|start|>assistant", "<|channel|>final<|message|>"
# Stands for an assistant's answer when the template is asked what it puts after one.
_ANSWER = "ACTUNE-ANSWER"


def system_text(fmt: PromptFormat, actions: Sequence[str], persona: str = "") -> str:
    """Write the system text: the persona, a blank line, then the format's text with one action a line."""
    names = "\n".join(f"- {name}" for name in actions) or NO_ACTIONS["zh" if fmt.language == "zh" else "en"]
    text = fmt.template.replace(SLOT, names)
    return f"{persona}\n\n{text}" if persona else text


def messages(
    fmt: PromptFormat, question: str, actions: Sequence[str], history: Sequence[Turn] = (), persona: str = ""
) -> list[dict[str, str]]:
    """Write a prompt's turns, the system turn first, in the form of chat templates and servers."""
    turns = [{"role": turn.role, "content": turn.text} for turn in history]
    turns.append({"role": "user", "content": question})
    system = system_text(fmt.of(turns[0]["content"]), actions, persona)
    return [{"role": "system", "content": system}, *turns]


def render(
    tokenizer: PreTrainedTokenizerBase,
    fmt: PromptFormat,
    question: str,
    actions: Sequence[str],
    history: Sequence[Turn] = (),
    persona: str = "",
) -> str:
    """Render a prompt as text, up to where the assistant's answer begins; thinking is off.

    Raises:
        UserError: The chat template takes these turns neither with a system turn nor without.
    """
    return closed(_apply(tokenizer, fmt, messages(fmt, question, actions, history, persona))[1])


def taken(
    tokenizer: PreTrainedTokenizerBase, fmt: PromptFormat, turns: Sequence[dict[str, str]]
) -> list[dict[str, str]]:
    """Give turns the form in which the chat template takes them, for programs that render it themselves.

    Where it has no system turn, such programs join the texts in their own ways: llama.cpp by one line break.

    Args:
        tokenizer: The base's tokenizer.
        fmt: The run's format.
        turns: From `messages`.

    Raises:
        UserError: The chat template takes these turns neither with a system turn nor without.
    """
    return _apply(tokenizer, fmt, turns)[0]


def render_ids(
    tokenizer: PreTrainedTokenizerBase,
    fmt: PromptFormat,
    question: str,
    actions: Sequence[str],
    history: Sequence[Turn] = (),
    persona: str = "",
    room: int | None = None,
) -> list[int]:
    """Render a prompt as token ids.

    Args:
        tokenizer: The base's tokenizer.
        fmt: The run's format.
        question: What the user says now.
        actions: The catalogue, in the order to show.
        history: Earlier turns, oldest first.
        persona: Text that stands before the system text.
        room: Tokens the prompt may have. Oldest turns go first; never the list, the persona or the question.

    Returns:
        Token ids [prompt length].

    Raises:
        PromptTooLong: Even without history the prompt does not fit.
        UserError: The chat template refuses it.
    """
    # A turn of the user goes with its answer: chat templates want the first turn to be the user's.
    starts = [0, *(n for n, turn in enumerate(history) if n and turn.role == "user"), len(history)]

    @functools.cache
    def ids_from(start: int) -> list[int]:
        ids = _encode(tokenizer, render(tokenizer, fmt, question, actions, history[starts[start] :], persona))
        # A template of some bases writes the BOS that its user has put before; two of them harm every answer.
        while len(ids) > 1 and ids[0] == ids[1] == tokenizer.bos_token_id:
            ids = ids[1:]
        return ids

    if room is None or len(ids_from(0)) <= room:
        return ids_from(0)
    # Halving: a client may send a thousand turns, and each look renders all of them.
    first = bisect.bisect_left(range(len(starts)), True, key=lambda start: len(ids_from(start)) <= room)
    if first < len(starts):
        return ids_from(first)
    bare = len(ids_from(len(starts) - 1))
    raise PromptTooLong(
        either("prompt", "提示"),
        either(f"{bare} tokens without any history", f"不含历史已有 {bare} 个词元"),
        either(f"at most {max(room, 0)}", f"至多 {max(room, 0)}"),
        either(
            "offer fewer actions, shorten the question, or lower max tokens",
            "减少动作, 缩短问题, 或调低最大词元数",
        ),
    )


def blank_ids(
    tokenizer: PreTrainedTokenizerBase, fmt: PromptFormat, actions: Sequence[str], persona: str = ""
) -> list[int]:
    """Render a prompt with this list and nothing asked: what the list alone suggests is measured after it."""
    return render_ids(tokenizer, fmt, "", actions, (), persona)


def answer_ids(tokenizer: PreTrainedTokenizerBase, fmt: PromptFormat, script: str) -> list[int]:
    """Token ids of an answer, tokenised apart from its prompt, with the stop token at its end."""
    return [*_encode(tokenizer, script), stop_token(tokenizer, fmt)]


def stop_token(tokenizer: PreTrainedTokenizerBase, fmt: PromptFormat) -> int:
    """Find the token that ends an answer: the first special one that the chat template puts after it.

    Raises:
        UserError: The template puts none there and the tokenizer has no end-of-text token.
    """
    return _stop_token(tokenizer, _jinja(tokenizer, fmt), tokenizer.eos_token_id)


# Asked for with each row; a base with thousands of added tokens lists them all at every look (Gemma 3: 6,400, 20 ms).
@functools.lru_cache(maxsize=8)
def _stop_token(tokenizer: PreTrainedTokenizerBase, jinja: str, eos: int | None) -> int:
    turns = [{"role": "user", "content": "?"}, {"role": "assistant", "content": _ANSWER}]
    tail = _template(tokenizer, jinja, turns, False).rpartition(_ANSWER)[2]
    ids = _encode(tokenizer, tail)
    added: dict[int, Any] = tokenizer.added_tokens_decoder
    special = [id for id in ids if id in tokenizer.all_special_ids or (id in added and added[id].special)]
    # GGUF files mark some turn ends as ordinary added tokens; line breaks can be added tokens too.
    special += [id for id in ids if id in added and added[id].content.strip()]
    if special:
        return special[0]
    if eos is None:
        raise UserError(
            either("tokenizer", "分词器"),
            either("no token ends an answer", "没有结束回答的词元"),
            either("a turn end in the chat template, or an EOS token", "对话模板中的结束词元, 或 EOS"),
            either("choose another --chat-template or set eos_token", "换一个 --chat-template 或设置 eos_token"),
        )
    return eos


def _encode(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer(text, add_special_tokens=False)["input_ids"])


def _jinja(tokenizer: PreTrainedTokenizerBase, fmt: PromptFormat) -> str:
    return chat_template(fmt.chat_template) if fmt.chat_template else str(tokenizer.chat_template)


def _apply(
    tokenizer: PreTrainedTokenizerBase, fmt: PromptFormat, turns: Sequence[dict[str, str]]
) -> tuple[list[dict[str, str]], str]:
    """Render turns; where the template has no system turn, its text joins the first user turn. Return both."""
    from jinja2.exceptions import TemplateError

    jinja, system, whole = _jinja(tokenizer, fmt), turns[0]["content"], list(turns)
    try:
        text = _template(tokenizer, jinja, whole, True)
        if system.strip() in text:
            return whole, text
    except TemplateError:
        pass  # Many templates raise on a system turn; one that raises below as well has another reason.
    _say_merged(jinja)
    merged = [dict(turn) for turn in turns[1:]]
    first = next(turn for turn in merged if turn["role"] == "user")
    first["content"] = f"{system}\n\n{first['content']}"
    try:
        return merged, _template(tokenizer, jinja, merged, True)
    except TemplateError as error:
        raise UserError(
            either("chat template", "对话模板"),
            str(error),
            either("turns that the template takes", "模板能接受的对话"),
            either("let user and assistant alternate, the user first", "用户与助手交替发言, 用户在先"),
        ) from error


def _template(tokenizer: PreTrainedTokenizerBase, jinja: str, turns: list[dict[str, str]], prompt: bool) -> str:
    text = tokenizer.apply_chat_template(
        turns, chat_template=jinja, tokenize=False, add_generation_prompt=prompt, **THINKING_OFF
    )
    return cast(str, text)


def closed(text: str) -> str:
    """Lead a prompt on to where the answer itself begins.

    A thought that the template leaves open is ended: bases that always think have no switch in their template. In the
    harmony format the answer's channel is named.

    Args:
        text: As the chat template gives it.
    """
    if text.endswith(_HARMONY_TURN):
        return text + _HARMONY_FINAL
    return text.rstrip("\n") + "\n\n</think>\n\n" if text.rstrip("\n").endswith("<think>") else text


@functools.cache
def _say_merged(jinja: str) -> None:
    del jinja  # the key: it is said once for a template
    log.warning(
        either(
            "The chat template has no system turn: the system text goes before the first user turn.",
            "对话模板没有系统角色: 系统文本放在第一条用户消息之前。",
        )
    )
