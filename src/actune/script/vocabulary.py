"""The bytes of every token of a tokenizer, in the order the automaton searches them."""

from __future__ import annotations

import json
import re
from bisect import bisect_left
from collections.abc import Collection, Iterable
from functools import cached_property, lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt

from actune.errors import UserError, either

_BYTE_TOKEN = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_BLANK = "\u2581"  # how SentencePiece spells a blank


class Vocabulary:
    """What the automaton knows of a tokenizer. Build it once a model; all grammars share it.

    Args:
        token_bytes: Bytes of each token id; None for a token that is never written (special, unused, padding).
        size: Number of logits of the model. Ids from `len(token_bytes)` on are padding and always forbidden.
        stop_ids: All ids that end an answer. They have no bytes, whatever the tokenizer says of them.

    Raises:
        ValueError: A stop id is not below `size`.
    """

    def __init__(self, token_bytes: list[bytes | None], size: int, stop_ids: Collection[int]) -> None:
        self.size, self.stop_ids = size, tuple(sorted(set(stop_ids)))
        if any(not 0 <= i < size for i in self.stop_ids):
            raise ValueError(f"stop ids {self.stop_ids} do not all lie below the vocabulary size {size}")
        # A token without bytes would be a way to spend the budget in silence, so it counts as never written.
        self.token_bytes = [data or None for data in token_bytes[:size]]
        self.token_bytes += [None] * (size - len(self.token_bytes))
        for i in self.stop_ids:
            self.token_bytes[i] = None
        ids: dict[bytes, list[int]] = {}
        for i, data in enumerate(self.token_bytes):
            if data:
                ids.setdefault(data, []).append(i)
        self.keys = sorted(ids)
        """Distinct token byte strings, sorted: the tokens with a common prefix are one slice."""
        self.ids = [tuple(ids[key]) for key in self.keys]
        """Token ids of each key; several tokens may be spelled alike."""

    @classmethod
    def from_tokenizer(cls, tokenizer: Any, size: int, stop_ids: Collection[int]) -> Vocabulary:
        """Read a fast tokenizer: byte-level BPE, or SentencePiece style with or without byte fallback.

        Args:
            tokenizer: A transformers tokenizer that rests on the `tokenizers` library.
            size: Number of logits of the model (`model.config.vocab_size`); may differ from `len(tokenizer)`.
            stop_ids: All ids that end an answer.

        Raises:
            UserError: The tokenizer's decoder is of another kind, so the bytes of its tokens are unknown.
        """
        spell = _speller(tokenizer)
        added = tokenizer.added_tokens_decoder
        silent = {i for i, token in added.items() if token.special} | set(tokenizer.all_special_ids)
        token_bytes: list[bytes | None] = [None] * size
        for token, i in tokenizer.get_vocab().items():
            if i < size and i not in silent:
                token_bytes[i] = spell(token)
        return cls(token_bytes, size, stop_ids)

    @cached_property
    def ordinary(self) -> npt.NDArray[np.bool_]:
        """Tokens that may be written as text, `[size]`."""
        return np.array([data is not None for data in self.token_bytes], dtype=np.bool_)

    @cached_property
    def words(self) -> bytes:
        """Where each token leads from words, `[size]`: 0 to words, 1 to words just after ``<``, 2 if a tag opens in it
        or it is never written. (The automaton's first states; bytes, for these are the quickest to look up.)
        """
        return bytes(
            0 if i in self.stop_ids else 2 if data is None or b"<&" in data else data.endswith(b"<")
            for i, data in enumerate(self.token_bytes)
        )

    @cached_property
    def openers(self) -> npt.NDArray[np.int64]:
        """Tokens after words by which a tag may begin: those that end with ``<`` or with their first ``<&``."""
        return np.array([i for i in self._beginners if self._straight(i)], dtype=np.int64)

    @cached_property
    def crooked(self) -> npt.NDArray[np.int64]:
        """The other tokens that hold ``<&``: they run on into a name or beyond it."""
        return np.array([i for i in self._beginners if not self._straight(i)], dtype=np.int64)

    @cached_property
    def _beginners(self) -> list[int]:
        table = np.frombuffer(self.words, dtype=np.uint8)
        return [int(i) for i in np.flatnonzero((table == 1) | ((table == 2) & self.ordinary))]

    def _straight(self, token_id: int) -> bool:
        data = self.token_bytes[token_id] or b""
        return data.find(b"<&") in (-1, len(data) - 2)

    def id_of(self, data: bytes) -> int | None:
        """First token that is spelled like this."""
        place = bisect_left(self.keys, data)
        return self.ids[place][0] if place < len(self.keys) and self.keys[place] == data else None

    def ids_of(self, keys: Iterable[int]) -> list[int]:
        """Token ids of some keys."""
        return [i for key in keys for i in self.ids[key]]

    def closers(self, data: bytes) -> tuple[int, ...]:
        """Tokens that write `data` and perhaps words after it, but no beginning of a tag."""
        found: list[int] = []
        for place in range(bisect_left(self.keys, data), len(self.keys)):
            key = self.keys[place]
            if not key.startswith(data):
                break
            if b"<" not in key[len(data) :]:
                found += self.ids[place]
        return tuple(found)

    @cached_property
    def single_bytes(self) -> frozenset[int]:
        """Bytes that are a token of their own."""
        return frozenset(key[0] for key in self.keys if len(key) == 1)

    @cached_property
    def opening(self) -> tuple[int, ...]:
        """Indices of the keys that hold ``<&``."""
        return tuple(k for k, key in enumerate(self.keys) if b"<&" in key)

    @cached_property
    def ampersand(self) -> tuple[int, ...]:
        """Indices of the keys that begin with ``&``, for they open a tag after ``<``, and those of `opening`."""
        begin = {k for k, key in enumerate(self.keys) if key[:1] == b"&"}
        return tuple(sorted(begin | set(self.opening)))


@lru_cache(maxsize=1)
def _byte_level() -> dict[str, int]:
    """GPT-2's alphabet: printable Latin-1 characters stand for themselves, the other bytes for U+0100 onwards."""
    printable = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in set(printable)]
    return {chr(byte): byte for byte in printable} | {chr(256 + n): byte for n, byte in enumerate(others)}


def _spell_byte_level(token: str) -> bytes:
    # Added tokens may hold characters outside the alphabet; the decoder then takes the token as it is.
    alphabet = _byte_level()
    return bytes(alphabet[c] for c in token) if all(c in alphabet for c in token) else token.encode()


def _spell_fallback(token: str) -> bytes:
    match = _BYTE_TOKEN.fullmatch(token)
    return bytes((int(match[1], 16),)) if match else _spell_blanks(token)


def _spell_blanks(token: str) -> bytes:
    return token.replace(_BLANK, " ").encode()


def _speller(tokenizer: Any) -> Any:
    kinds: set[str] = set()
    if tokenizer.is_fast and tokenizer.backend_tokenizer.decoder is not None:
        # The decoder alone: the whole tokenizer as JSON is 30 MB for Gemma.
        decoder = json.loads(tokenizer.backend_tokenizer.decoder.__getstate__())
        kinds = {part["type"] for part in decoder.get("decoders", [decoder])}
    if "ByteLevel" in kinds:
        return _spell_byte_level
    if "ByteFallback" in kinds:
        return _spell_fallback
    if "Metaspace" in kinds:
        return _spell_blanks
    raise UserError(
        either("tokenizer", "分词器"),
        f"{type(tokenizer).__name__}, decoder: {', '.join(sorted(kinds)) or '-'}",
        either("a fast tokenizer with a ByteLevel, ByteFallback or Metaspace decoder", "快速分词器（字节级解码）"),
        either("use --free to generate without the constraint", "用 --free 关闭约束"),
    )
