"""What the tests of `script/` share: small tokenizers, a byte-level oracle written another way, random logits."""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from actune.script.grammar import Grammar
from actune.script.vocabulary import Vocabulary

TEXT = [
    "我来做饭。\n<&做饭-炒冬瓜&>\n炒冬瓜香喷四溢。",
    "先给你倒水 <&杯子-倒水&> 再切西瓜 <&切开-西瓜&>。",
    "I will dim the light. <&light-dim&> There you go; a < b && c > d.",
    "x<<y &amp; z>>w <&换衣服-裙子&><&换衣服-裙子-红色&> && << <& &> <b>bold</b>",
    "Turn on the TV, please. <&tv-turn on&>Done & done, 好了。",
] * 3
NAMES = (
    *(
        "做饭-炒冬瓜",
        "换衣服-裙子",
        "换衣服-裙子-红色",
        "a",
        "a&",
        "a<",
        "<a",
        ">a",
        "a,/b 'c' \"d\" \\e",
        "tv-turn on",
    ),
    *("表情-😀", "▁x", "<0x41>", "&&", "杯子-倒水", "切开-西瓜"),
)
SPECIAL = ["<|end|>", "<|start|>", "<&secret&>"]


def names_of(count: int) -> tuple[str, ...]:
    """Make `count` names; from 16 on, all awkward ones of `NAMES` are among them."""
    more = (f"类别{i % 9}-动作{i}" if i % 2 else f"kind{i % 7}-do thing {i}" for i in range(count))
    return (*NAMES, *more)[:count]


def _wrap(tokenizer: Tokenizer) -> PreTrainedTokenizerFast:
    tokenizer.add_tokens([AddedToken("<b>", special=False)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, eos_token="<|end|>", additional_special_tokens=SPECIAL[1:]
    )


def byte_level() -> PreTrainedTokenizerFast:
    """Byte-level BPE, as GPT-2, Llama-3, Qwen and SmolLM2 have it. Splits by blanks only, so odd merges arise."""
    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(r"\s?\S+|\s+"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(False, use_regex=False)])
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=700, special_tokens=SPECIAL, initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXT, trainer)
    return _wrap(tokenizer)


def byte_fallback() -> PreTrainedTokenizerFast:
    """SentencePiece style with byte fallback, as Gemma and Llama-2 have it."""
    tokenizer = Tokenizer(models.BPE(byte_fallback=True, unk_token="<unk>"))
    tokenizer.normalizer = normalizers.Replace(" ", "▁")
    tokenizer.pre_tokenizer = pre_tokenizers.Split(Regex(r"▁?[^▁]+"), "isolated")
    tokenizer.decoder = decoders.Sequence([decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = [*SPECIAL, "<unk>", *(f"<0x{byte:02X}>" for byte in range(256))]
    tokenizer.train_from_iterator(
        TEXT, trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    )
    # The trainer marks the byte tokens as special; in the real ones they are plain entries of the model.
    plain = json.loads(tokenizer.to_str())
    plain["added_tokens"] = [token for token in plain["added_tokens"] if not token["content"].startswith("<0x")]
    return _wrap(Tokenizer.from_str(json.dumps(plain)))


def valid_beginning(data: bytes, names: Sequence[str]) -> tuple[bool, bool]:
    """Tell (may these bytes begin a script?, is a tag open at their end?), by splitting instead of by states."""
    tags = [f"{name}&>".encode() for name in names]
    while True:
        _, mark, data = data.partition(b"<&")
        if not mark:
            return True, False
        done = [tag for tag in tags if data.startswith(tag)]
        if not done:
            return any(tag.startswith(data) for tag in tags), True
        data = data[len(done[0]) :]


def shortest(vocabulary: Vocabulary, tag: bytes, names: tuple[str, ...]) -> float:
    """Count the fewest tokens that write `tag` and maybe more, outside a tag again, by dynamic programming."""
    best: list[float] = [0, *[np.inf] * len(tag)]
    for at in range(len(tag)):
        for key in vocabulary.keys:
            if tag.startswith(key, at):
                best[at + len(key)] = min(best[at + len(key)], best[at] + 1)
            elif key.startswith(tag[at:]) and valid_beginning(key[len(tag) - at :], names) == (True, False):
                best[-1] = min(best[-1], best[at] + 1)
    return best[-1]


class Dice:
    """Random logits that lean towards tokens with `<`, `&` and `>`."""

    def __init__(self, vocabulary: Vocabulary, seed: int, push: float = 3.0) -> None:
        self.random = np.random.default_rng(seed)
        self.size = vocabulary.size
        # A window of one long random vector is as good as fresh noise for each token, and 20 times as fast.
        self.noise = self.random.standard_normal(3 * self.size).astype(np.float32)
        marks = [bool(data) and any(c in data for c in b"<&>") for data in vocabulary.token_bytes]
        self.push = push * np.array(marks, dtype=np.float32)
        for i, data in enumerate(vocabulary.token_bytes):
            if data in (b"<", b"&", b"<&"):
                self.push[i] += push

    def logits(self) -> np.ndarray:
        start = int(self.random.integers(2 * self.size))
        scores = self.noise[start : start + self.size]
        return scores + self.push if self.random.random() < 0.4 else scores

    def write(self, grammar: Grammar, budget: int) -> tuple[list[int], bool]:
        """Write an answer of at most `budget` tokens; tells too whether it ended with a stop id."""
        state, ids = grammar.start, []
        for left in range(budget, 0, -1):
            mask = grammar.mask(state, left)
            assert mask.any()
            token = int(np.where(mask, self.logits(), -np.inf).argmax())
            if token in grammar.vocabulary.stop_ids:
                return ids, True
            state = grammar.step(state, token)
            ids.append(token)
        return ids, False
