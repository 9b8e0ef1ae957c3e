"""The constraint as other programs read it: free text, and after ``<&`` only a listed name and ``&>``."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from typing import Any

from actune.script.catalogue import CLOSE, OPEN, catalogue


def structural_tag(names: Iterable[str]) -> dict[str, Any]:
    """Write a structural tag of xgrammar, which vLLM and SGLang take too.

    Args:
        names: The catalogue; without names no tag can be opened.

    Raises:
        ValueError: A name is not allowed or stands twice.
    """
    elements = [{"type": "const_string", "value": name} for name in catalogue(names)]
    if not elements:
        return {"type": "structural_tag", "format": {"type": "any_text", "excludes": [OPEN]}}
    tag = {"type": "tag", "begin": OPEN, "content": {"type": "or", "elements": elements}, "end": CLOSE}
    return {"type": "structural_tag", "format": {"type": "triggered_tags", "triggers": [OPEN], "tags": [tag]}}


def lark(names: Iterable[str]) -> str:
    """Write a grammar of llguidance, which vLLM takes with its backend ``guidance``.

    Raises:
        ValueError: A name is not allowed or stands twice.
    """
    names = catalogue(names)
    if not names:
        return '%llguidance {}\nstart: OUT\nOUT: ITEM* "<"*\nITEM: /[^<]/ | /<+[^<&]/'
    # Lazy, for a text that is taken greedily would be committed to a `<` before it sees the `&` (field notes).
    rules = 'start: tag* TEXT\ntag: head name "&>"\nhead[lazy]: TEXT "<&"\nTEXT: /(?s:.*)/\nname: '
    return f"%llguidance {{}}\n{rules}{_choice(names)}"


def gbnf(names: Iterable[str]) -> str:
    """Write a grammar of llama.cpp.

    Raises:
        ValueError: A name is not allowed or stands twice.
    """
    names = catalogue(names)
    if not names:
        return 'root ::= item* "<"*\nitem ::= [^<] | "<"+ [^<&]'
    return f'root ::= item* "<"*\nitem ::= [^<] | "<"+ ([^<&] | "&" name "&>")\nname ::= {_choice(names)}'


def regex(names: Iterable[str]) -> str:
    """Write a regular expression that whole answers match.

    Raises:
        ValueError: A name is not allowed or stands twice.
    """
    listed = "|".join(re.escape(name) for name in catalogue(names))
    after = f"(?:[^<&]|&(?:{listed})&>)" if listed else "[^<&]"
    return f"(?:[^<]|<+{after})*<*"


def _choice(names: Iterable[str]) -> str:
    # A name has no control characters, so JSON's escapes are those of the grammars: \" and \\.
    return " | ".join(json.dumps(name, ensure_ascii=False) for name in names)
