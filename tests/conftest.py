"""Shared fixtures: a tiny random base with a chat template and a stop token, and rows to train it on."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from actune.data.rows import Row

# Two cores serve all workers; the tiny model gains nothing from more threads.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("ACTUNE_LANG", "en")

_CACHE = pytest.StashKey[Path]()


def pytest_configure(config: pytest.Config) -> None:
    """Keep what is remembered of tiny bases out of the user's cache; pulled bases are read from there."""
    if "ACTUNE_CACHE" in os.environ:
        return  # Workers inherit it.
    from actune.base.cache import cache_folder

    folder = Path(tempfile.mkdtemp(prefix="actune-tests-"))
    (folder / "bases").symlink_to(cache_folder() / "bases")
    config.stash[_CACHE] = folder
    os.environ["ACTUNE_CACHE"] = str(folder)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Remove that cache."""
    if _CACHE in config.stash:
        shutil.rmtree(config.stash[_CACHE])
        del os.environ["ACTUNE_CACHE"]


@pytest.fixture(scope="session", autouse=True)
def _no_rows_of_ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Train on the test's rows alone: to rehearse and measure ours takes longer than a tiny base's whole training."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("actune.tune.corpus.CORPUS", tmp_path_factory.mktemp("no corpus"))
        yield


NAMES = (
    "做饭-炒冬瓜",
    "杯子-倒水",
    "换衣服-裙子",
    "切开-西瓜",
    "light-dim",
    "tv-turn on",
    "wave-both hands",
    "dance-waltz",
)


def make_rows(count: int) -> list[Row]:
    """Make `count` different rows with none, one or two actions in their answers."""
    rows = []
    for i in range(count):
        names = tuple(NAMES[(i + k) % len(NAMES)] for k in range(4))
        script = (
            f"I hear you, number {i}.",
            f"Gladly.\n<&{names[1]}&>\nDone, {i} times.",
            f"<&{names[0]}&>\nFirst this 先这样,\n<&{names[2]}&>\nthen that 再那样.",
        )[i % 3]
        question = f"Question {i}: 饿了, what now?" if i % 2 else f"Please do number {i} for me."
        rows.append(Row(actions=names, question=question, script=script, file="rows.csv", line=i + 2))
    return rows


@pytest.fixture(scope="session")
def rows() -> list[Row]:
    """Sixteen rows."""
    return make_rows(16)


def train_tokenizer(folder: Path) -> Path:
    """Train a byte-level BPE tokenizer (about 600 tokens) with the ChatML template; `<|im_end|>` ends an answer."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
    from transformers import PreTrainedTokenizerFast

    from actune.base.chat_templates import CHATML
    from actune.prompt import SYSTEM

    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=600, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    texts = [text for row in make_rows(24) for text in (*row.actions, row.question, row.script)]
    inner.train_from_iterator([*texts, *SYSTEM.values(), "system\nuser\nassistant\n"], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=inner, eos_token="<|im_end|>", pad_token="<|endoftext|>", chat_template=CHATML
    )
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|im_start|>"]})
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def tiny_tokenizer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the tiny tokenizer."""
    return train_tokenizer(tmp_path_factory.mktemp("tiny-tokenizer"))


@pytest.fixture(scope="session")
def tiny_base(tiny_tokenizer_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base folder: random two-layer Llama (hidden 32, fp32) and the tiny tokenizer. Its vocabulary is padded."""
    import torch
    from transformers import AutoTokenizer, GenerationConfig, LlamaConfig, LlamaForCausalLM

    torch.set_num_threads(1)
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer_folder)
    config = LlamaConfig(
        vocab_size=-(-len(tokenizer) // 64) * 64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        tie_word_embeddings=True,
    )
    state = torch.random.get_rng_state()
    torch.manual_seed(0)
    model = LlamaForCausalLM(config)
    torch.random.set_rng_state(state)
    model.generation_config = GenerationConfig(
        eos_token_id=[tokenizer.eos_token_id], pad_token_id=tokenizer.pad_token_id
    )
    folder = tmp_path_factory.mktemp("tiny base 基座")  # A blank and Chinese in the path: users have them.
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder
