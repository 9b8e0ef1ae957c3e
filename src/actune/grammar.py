"""The command `grammar`: the constraint for other programs."""

from __future__ import annotations

import json
from typing import Literal

from actune.say import read_actions
from actune.script.formats import gbnf, lark, regex, structural_tag


def grammar(*, actions: str, format: Literal["xgrammar", "lark", "gbnf", "regex"] = "xgrammar") -> int:
    """Print the constraint on a list of actions: free text, and tags with listed names only.

    Args:
        actions: What can be done: names joined by 、 or @FILE with one a line.
        format: xgrammar (structural tag: vLLM, SGLang), lark (llguidance; vLLM's backend guidance), gbnf (llama.cpp),
            or regex.

    Returns:
        Exit status 0.

    Raises:
        UserError: See `say.read_actions`.
    """
    names = read_actions(actions)
    if format == "xgrammar":
        print(json.dumps(structural_tag(names), ensure_ascii=False))
    else:
        print({"lark": lark, "gbnf": gbnf, "regex": regex}[format](names))
    return 0
