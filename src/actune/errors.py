"""The one error a user sees, and the choice of the language it is written in."""

from __future__ import annotations

import locale
import os


def speaks_chinese() -> bool:
    """Tell whether messages are written in Chinese: ACTUNE_LANG, else the usual locale variables."""
    for name in ("ACTUNE_LANG", "LC_ALL", "LC_MESSAGES", "LANG"):
        if value := os.environ.get(name):
            return value.lower().startswith(("zh", "chinese"))
    return (locale.getlocale()[0] or "").lower().startswith(("zh", "chinese"))


def either(en: str, zh: str) -> str:
    """Return the message in the user's language."""
    return zh if speaks_chinese() else en


class UserError(Exception):
    """A mistake or a condition the user can mend. The CLI prints it without a traceback.

    Args:
        where: File, row, column or option that is at fault.
        got: What was found there.
        wanted: What was expected instead.
        fix: What the user can do now.
        exit_code: Exit status of the command, 2 (wrong use) unless the command says otherwise.
    """

    def __init__(self, where: str, got: str, wanted: str, fix: str, exit_code: int = 2) -> None:
        self.where, self.got, self.wanted, self.fix, self.exit_code = where, got, wanted, fix, exit_code
        super().__init__(str(self))

    def __str__(self) -> str:
        labels = either("got,wanted,fix", "得到,需要,办法").split(",")
        parts = zip(labels, (self.got, self.wanted, self.fix), strict=True)
        return "\n".join([self.where, *(f"  {label}: {text}" for label, text in parts if text)])


class PromptTooLong(UserError):
    """The prompt does not fit into the model's context, even without history."""
