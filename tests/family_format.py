"""What a chat format is, for the architecture matrix."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Format:
    """A chat format.

    Args:
        template: The chat template.
        marks: Texts of the special tokens.
        bos: The one that begins a text; none for many.
        eos: The one that ends a text or a turn.
        turns: An example dialogue, as (role, text), the system turn first if it has one.
        shown: What the documentation shows for it, up to where the assistant's next answer begins.
        source: Where it is shown.
        stops: Further marks on which models of the family stop, in generation_config.json.
    """

    template: str
    marks: tuple[str, ...]
    bos: str | None
    eos: str
    turns: tuple[tuple[str, str], ...]
    shown: str
    source: str
    stops: tuple[str, ...] = ()
