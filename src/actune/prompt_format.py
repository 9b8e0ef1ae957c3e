"""What a run must remember to render its prompts again, and how it is chosen from the data."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from actune.base import chat_templates
from actune.data.rows import Row
from actune.errors import UserError, either

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

log = logging.getLogger(__name__)

Language = Literal["zh", "en"]
SLOT = "{actions}"
# The blank after the colon belongs to the source recipe.
SYSTEM: dict[Language, str] = {
    "zh": "回答用户的问题,根据需要可在下列动作中选择一个或多个执行,注意动作执行和问题回答的先后顺序。\n\n"
    f"可选动作: \n{SLOT}",
    "en": "Answer the user's question. If needed, choose one or more of the actions below and perform them; "
    f"mind the order of acting and answering.\n\nAvailable actions: \n{SLOT}",
}
NO_ACTIONS: dict[Language, str] = {"zh": "（无）", "en": "(none)"}


@dataclass(frozen=True)
class PromptFormat:
    """All that a run must remember to render its prompts again.

    Args:
        language: Language of the built-in texts and of the word for an empty list; ``both``: that of the dialogue.
        template: System text with ``{actions}`` where the list goes.
        chat_template: Name of one of `base.chat_templates.TEMPLATES`, or None for the tokenizer's own.
    """

    language: Language | Literal["both"]
    template: str
    chat_template: str | None = None

    def to_dict(self) -> dict[str, Any]:
        """Give the form that the run's manifest holds."""
        return asdict(self)

    def of(self, first: str) -> PromptFormat:
        """Return the format of a dialogue that begins with these words."""
        if self.language != "both":
            return self
        language = language_of([first])
        return replace(self, language=language, template=SYSTEM[language])

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> PromptFormat:
        """Read the form that `to_dict` gives."""
        return cls(data["language"], data["template"], data["chat_template"])

    @classmethod
    def for_rows(
        cls,
        rows: Iterable[Row],
        tokenizer: PreTrainedTokenizerBase,
        template_file: Path | None = None,
        chat_template: str | None = None,
    ) -> PromptFormat:
        """Choose the format for some rows and a base.

        Args:
            rows: The language is that of most of their questions.
            tokenizer: The base's; without a chat template it gets a named one, and the log says so.
            template_file: The user's own system text with ``{actions}`` in it (UTF-8).
            chat_template: Name of a chat template to use in place of the tokenizer's.

        Raises:
            UserError: The file cannot be read or has no ``{actions}``; no chat template has that name.
        """
        language = language_of(row.question for row in rows)
        template = read_template(template_file) if template_file else SYSTEM[language]
        if chat_template is not None:
            chat_templates.chat_template(chat_template)  # raises if there is none of that name
        elif not tokenizer.chat_template:
            chat_template = _guess_template(tokenizer)
            log.warning(
                either(
                    f"The base has no chat template: the named one '{chat_template}' is used (--chat-template).",
                    f"基座没有对话模板: 使用内置的 '{chat_template}' (--chat-template)。",
                )
            )
        return cls(language, template, chat_template)


def language_of(texts: Iterable[str]) -> Language:
    """Tell the language of most of the texts: ``zh`` where a text holds a Chinese character, else ``en``."""
    votes = [any("\u4e00" <= char <= "\u9fff" for char in text) for text in texts]
    return "zh" if 2 * sum(votes) > len(votes) else "en"


def read_template(file: Path) -> str:
    """Read a user's system text. Outer line breaks at its end go: none follows the last action.

    Raises:
        UserError: The file is missing, is not UTF-8, or has no ``{actions}``.
    """
    try:
        text = file.read_text(encoding="utf-8-sig").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(
            str(file),
            str(error),
            either("a text file in UTF-8", "UTF-8 文本文件"),
            either("check the path, save it as UTF-8", "检查路径, 另存为 UTF-8"),
        ) from error
    if SLOT not in text:
        raise UserError(
            str(file),
            either("a system text without a place for the actions", "系统文本里没有动作的位置"),
            SLOT,
            either(f"write {SLOT} where the list of actions goes", f"在动作列表的位置写上 {SLOT}"),
        )
    return text


def _guess_template(tokenizer: PreTrainedTokenizerBase) -> str:
    vocabulary = tokenizer.get_vocab()
    for name, template in chat_templates.TEMPLATES.items():
        if template.stop_token in vocabulary:
            return name
    return "chatml"
