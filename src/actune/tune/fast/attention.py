"""Causal attention over a pack, as an attention function of transformers.

Rows attend to their common beginning and to themselves. Scores are products of whole query groups with the keys they
can see at most, a row at a time: no copy of keys per query head, no mask of the size of the pack.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from actune.tune.fast.pack import Pack, Row

NAME = "actune"
# Queries of a long row go by blocks, for nearly nothing is computed above the diagonal then.
BLOCK = 128
# Probabilities of longer rows are computed again in the backward pass: they grow with the square of the length.
MOST_KEPT = 512
# What models hand to an attention function; an option that is not among these changes what it computes.
KNOWN = {"position_ids", "use_cache", "output_attentions", "output_router_logits", "cache_position", "is_causal"}

Kept = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
"""Probabilities of a block of queries, and the keys and values of its row."""


@dataclass(frozen=True)
class Heard:
    """What an attention layer asks of its attention function.

    Args:
        scale: Of scores.
        window: Most tokens a token sees, itself included; None: all before it.
    """

    scale: float
    window: int | None


class CannotPack(Exception):
    """The architecture asks for something that packed attention does not do."""


def register() -> None:
    """Let `config._attn_implementation = "actune"` name this function; without a pack it is sdpa."""
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)


def attend(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    pack: Pack | None = None,
    heard: dict[torch.nn.Module, Heard] | None = None,
    **options: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within the rows of a pack.

    Args:
        module: The attention layer.
        query: [1, heads, length, size].
        key: [1, key heads, length, size].
        value: [1, key heads, length, size of values].
        attention_mask: Used only without a pack.
        dropout: Of attention probabilities.
        scaling: Of scores; one over the square root of the size if None.
        sliding_window: Most tokens a token sees, itself included.
        pack: The rows.
        heard: Note here what each layer asks for.
        options: What else the architecture says; anything that matters is refused.

    Returns:
        [1, length, heads, size of values], and no probabilities.

    Raises:
        CannotPack: The architecture asks for something else.
    """
    if pack is None:
        options |= {"dropout": dropout, "scaling": scaling, "sliding_window": sliding_window}
        return sdpa_attention_forward(module, query, key, value, attention_mask, **options)  # type: ignore[no-any-return]
    asked = sorted(name for name, value in options.items() if value is not None and name not in KNOWN)
    if dropout:
        asked.append("attention dropout")
    if options.get("is_causal") is False:
        asked.append("attention in both directions")
    if asked or query.shape[0] != 1 or query.shape[2] != pack.input_ids.shape[1]:
        raise CannotPack(", ".join(asked) or "another shape of attention")
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    if heard is not None:
        heard[module] = Heard(scale, sliding_window)
    groups, length = key.shape[1], query.shape[2]
    # In bf16 scores of 10 would be 0.03 off: attention computes in fp32.
    grouped = query[0].float().mul(scale).view(groups, -1, length, query.shape[-1]).transpose(1, 2)
    out: torch.Tensor = _Attention.apply(  # type: ignore[no-untyped-call]
        grouped.flatten(1, 2), key[0].float(), value[0].float(), pack, sliding_window
    )
    parted = out.view(groups, length, -1, value.shape[-1]).transpose(0, 1)
    return parted.flatten(1, 2).to(value.dtype).unsqueeze(0), None


class _Attention(torch.autograd.Function):
    """`forward` and `backward` of this module as a step of autograd."""

    @staticmethod
    def forward(
        ctx: Any, query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, pack: Pack, window: int | None
    ) -> torch.Tensor:
        out, ctx.kept = forward(query, key, value, pack, window)
        ctx.save_for_backward(query, key, value)
        ctx.pack, ctx.window = pack, window
        return out

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        query, key, value = ctx.saved_tensors
        kept, ctx.kept = ctx.kept, None
        return *backward(grads[0], query, key, value, ctx.pack, ctx.window, kept), None, None


def forward(
    query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, pack: Pack, window: int | None
) -> tuple[torch.Tensor, list[Kept | None]]:
    """Attend within the rows of a pack.

    Args:
        query: [key heads, length * group, size]: the heads of a group side by side, already scaled; fp32.
        key: [key heads, length, size].
        value: [key heads, length, size of values].
        pack: The rows.
        window: Most tokens a token sees, itself included.

    Returns:
        [key heads, length * group, size of values], and what is kept for `backward`.
    """
    group = query.shape[1] // key.shape[1]
    outs, kept = [], list[Kept | None]()
    for row in pack.rows:
        keys, values = _joined(key, row), _joined(value, row)
        for begin, end in _blocks(row):
            seen = row.before + end - row.begin
            chances = _chances(query[:, group * begin : group * end], keys[:, :seen], pack, end - begin, window)
            outs.append(torch.bmm(chances, values[:, :seen]))
            kept.append((chances, keys, values) if keys.shape[1] <= MOST_KEPT else None)
    return torch.cat(outs, 1), kept


def backward(
    grad: torch.Tensor,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    pack: Pack,
    window: int | None,
    kept: list[Kept | None],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Compute the gradients of `forward`: of queries, keys and values, in the forms it takes them."""
    group = query.shape[1] // key.shape[1]
    d_query, d_both = [], list[tuple[torch.Tensor, torch.Tensor]]()
    at: dict[tuple[int, int], int] = {}
    blocks = iter(kept)
    for row in pack.rows:
        held = next(blocks)
        keys, values = held[1:] if held else (_joined(key, row), _joined(value, row))
        whole: tuple[torch.Tensor, torch.Tensor] | None = None
        for begin, end in _blocks(row):
            seen, part = row.before + end - row.begin, slice(group * begin, group * end)
            held = held if begin == row.begin else next(blocks)
            chances = held[0] if held else _chances(query[:, part], keys[:, :seen], pack, end - begin, window)
            d_chances = torch.bmm(grad[:, part], values[:, :seen].transpose(1, 2))
            d_scores = torch._softmax_backward_data(d_chances, chances, -1, chances.dtype)
            d_query.append(torch.bmm(d_scores, keys[:, :seen]))
            d_keys = torch.bmm(d_scores.transpose(1, 2), query[:, part])
            d_values = torch.bmm(chances.transpose(1, 2), grad[:, part])
            if whole is None and seen == keys.shape[1]:
                whole = d_keys, d_values
                break
            whole = whole or (torch.zeros_like(keys), torch.zeros_like(values))
            whole[0][:, :seen] += d_keys
            whole[1][:, :seen] += d_values
        assert whole is not None
        if row.before:
            for total, more in zip(d_both[at[row.front]], whole, strict=True):
                total += more[:, : row.before]
        at[row.begin, row.end] = len(d_both)
        d_both.append((whole[0][:, row.before :], whole[1][:, row.before :]))
    d_key, d_value = (torch.cat(parts, 1) for parts in zip(*d_both, strict=True))
    return torch.cat(d_query, 1), d_key, d_value


def _blocks(row: Row) -> list[tuple[int, int]]:
    size = row.end - row.begin
    size = size if size <= BLOCK * 3 // 2 else BLOCK
    return [(at, min(at + size, row.end)) for at in range(row.begin, row.end, size)]


def _joined(tensor: torch.Tensor, row: Row) -> torch.Tensor:
    """Take a row's keys or values: those of its common beginning, then its own. [key heads, length, size]"""
    own = tensor[:, row.begin : row.end]
    return torch.cat([tensor[:, row.front[0] : row.front[1]], own], 1) if row.before else own


def _chances(query: torch.Tensor, keys: torch.Tensor, pack: Pack, rows: int, window: int | None) -> torch.Tensor:
    """Softmax of the scores of a block that ends where the keys end. [key heads, rows * group, keys]"""
    mask = _mask(pack, rows, keys.shape[1], query.shape[1] // rows, window, query)
    return torch.softmax(torch.baddbmm(mask, query, keys.transpose(1, 2)), -1)


def _mask(pack: Pack, rows: int, seen: int, group: int, window: int | None, like: torch.Tensor) -> torch.Tensor:
    """What is added to scores [rows * group, seen]: nothing, or minus infinity where a query may not look."""
    name = (rows, seen, group, window or 0)
    if name not in pack.masks:
        ages = torch.arange(seen - rows, seen, device=like.device).unsqueeze(1) - torch.arange(seen, device=like.device)
        hidden = ages < 0 if window is None else (ages < 0) | (ages >= window)
        mask = torch.zeros(rows, seen, dtype=like.dtype, device=like.device).masked_fill_(hidden, float("-inf"))
        pack.masks[name] = mask.repeat_interleave(group, 0)
    return pack.masks[name]
