"""Rows that come and go get the tokens they would get alone, on every kind of attention."""

from __future__ import annotations

import random

import pytest
import torch
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    MistralConfig,
    MistralForCausalLM,
    Qwen3NextConfig,
    Qwen3NextForCausalLM,
)

from actune.engine.local import LocalEngine, Request
from tiny_actor import byte_tokenizer, tiny_llama

SIZES = {
    "vocab_size": 264,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "initializer_range": 0.3,
    "max_position_embeddings": 512,
}
WINDOW = 12


def model_of(kind: str, tokenizer):
    torch.manual_seed(1)
    if kind == "llama":
        return tiny_llama(tokenizer)
    if kind == "mistral":
        return MistralForCausalLM(MistralConfig(**SIZES, num_hidden_layers=2, sliding_window=WINDOW)).eval()
    if kind == "recurrent":
        config = Qwen3NextConfig(
            **SIZES,
            num_hidden_layers=4,
            num_experts=2,
            num_experts_per_tok=1,
            moe_intermediate_size=16,
            shared_expert_intermediate_size=16,
            linear_num_key_heads=2,
            linear_num_value_heads=2,
            linear_key_head_dim=8,
            linear_value_head_dim=8,
        )
        return Qwen3NextForCausalLM(config).eval()
    layers = ["sliding_attention", "full_attention", "sliding_attention"]
    config = Gemma3TextConfig(**SIZES, num_hidden_layers=3, sliding_window=WINDOW, layer_types=layers)
    return Gemma3ForCausalLM(config).eval()


KINDS = ["llama", "gemma", "mistral", "recurrent"]


@pytest.fixture(scope="module", params=KINDS)
def engine(request) -> LocalEngine:
    tokenizer = byte_tokenizer()
    return LocalEngine(model_of(request.param, tokenizer), tokenizer, [tokenizer.eos_token_id])


def plain(engine: LocalEngine, request: Request) -> list[int]:
    wanted = engine.model.generate(
        torch.tensor([request.prompt]),
        attention_mask=torch.ones(1, len(request.prompt), dtype=torch.long),
        max_new_tokens=request.max_tokens,
        do_sample=False,
        pad_token_id=0,
        eos_token_id=list(engine.stop_ids),
    )
    return wanted[0, len(request.prompt) :].tolist()


def asked(count: int, seed: int = 0) -> list[Request]:
    """Free requests of many lengths, some far beyond the window, some with a common beginning."""
    dice = random.Random(seed)
    start = [dice.randrange(256) for _ in range(30)]
    return [
        Request(
            start[: dice.choice((0, 9, 30))] + [dice.randrange(256) for _ in range(dice.randint(1, 40))],
            None,
            dice.randint(1, 30),
        )
        for _ in range(count)
    ]


def test_only_rows_of_recurrent_layers_stay_apart(engine):
    assert engine.joinable == engine.supports.acting == ("Qwen3Next" not in type(engine.model).__name__)


def test_generate_equals_transformers(engine):
    requests = asked(12)
    assert engine.generate(requests, batch_size=5) == [plain(engine, request) for request in requests]


def test_rows_come_and_go_between_steps(engine):
    dice, requests = random.Random(3), asked(24, seed=2)
    wanted = [plain(engine, request) for request in requests]
    batch, answers, dropped = engine.batch(), {}, {}
    waiting = list(range(len(requests)))
    while waiting or len(batch):
        for _ in range(dice.choice((0, 0, 1, 3))):
            if waiting:
                ticket = batch.add(requests[waiting.pop(0)])
                assert ticket not in answers
                answers[ticket] = []
        if answers and dice.random() < 0.15:
            ticket = dice.choice(list(answers))
            batch.drop(ticket)
            dropped.setdefault(ticket, len(answers[ticket]))
        for ticket, token in batch.step():
            answers[ticket].append(token)
    assert sorted(answers) == list(range(len(requests)))
    assert dropped
    for ticket, answer in answers.items():
        assert answer == wanted[ticket][: dropped.get(ticket)]
    assert batch.step() == []


def test_a_request_without_budget_is_done_at_once(engine):
    batch = engine.batch()
    first, second = batch.add(Request([5], None, 0)), batch.add(Request([5], None, 1))
    assert first != second
    assert len(batch) == 1
    assert [ticket for ticket, _ in batch.step()] == [second]
    assert len(batch) == 0
    batch.drop(second)


def test_a_burst_of_prompts_does_not_stop_a_row_that_speaks(engine):
    batch = engine.batch()
    speaking = batch.add(Request([7, 8], None, 60))
    batch.step()
    late = [batch.add(Request([n] * 300, None, 3)) for n in range(4)]
    steps = 0
    while late:
        tickets = [ticket for ticket, _ in batch.step()]
        steps += 1
        assert speaking in tickets
        late = [ticket for ticket in late if ticket not in tickets]
    assert steps == 2


def bytes_of_a_position(engine: LocalEngine) -> int:
    config = engine.model.config
    return config.num_hidden_layers * 2 * config.num_key_value_heads * config.head_dim * 4


def test_the_prefix_store_changes_no_text_and_saves_the_reading(engine):
    if not engine.joinable:
        pytest.skip("nothing is kept of recurrent layers")
    bare = LocalEngine(engine.model, engine.tokenizer, engine.stop_ids, prefix_mb=0)
    fresh = LocalEngine(engine.model, engine.tokenizer, engine.stop_ids)
    start = list(range(60))
    requests = [Request([*start, n, n + 1], None, 20) for n in range(8)]
    requests += [Request(start[:40], None, 20), Request([*start, 1, 2, 3], None, 20)]
    wanted = [bare.generate([request])[0] for request in requests]
    read = []
    forward = fresh.forward
    fresh.forward = lambda ids, *rest: read.append(ids.shape[1]) or forward(ids, *rest)
    assert [fresh.generate([request])[0] for request in requests] == wanted
    # All but one token of the last but one is known: that reading looks like a step.
    assert [count for count in read if count > 1] == [62, *[2] * 7, 3]
    assert fresh.prefixes.size == 62 * bytes_of_a_position(fresh), "the list is kept once, not with each question"
    assert bare.prefixes.size == 0


def test_the_prefix_store_is_bounded_and_forgets_the_oldest():
    tokenizer = byte_tokenizer()
    engine = LocalEngine(tiny_llama(tokenizer), tokenizer, [tokenizer.eos_token_id], prefix_mb=0.1)
    prompts = [[n] * 100 for n in range(10)]
    # Two layers, keys and values, two heads of eight floats: 256 bytes a position.
    for prompt in prompts[:3]:
        engine.generate([Request(prompt, None, 1)])
    assert engine.prefixes.size == 3 * 100 * 256
    assert engine.prefixes.find(prompts[0])[1] == 99
    for prompt in prompts[3:5]:
        engine.generate([Request(prompt, None, 1)])
    assert engine.prefixes.size == 3 * 100 * 256
    assert [engine.prefixes.find(prompt)[1] for prompt in prompts[:5]] == [99, 0, 0, 99, 99]
    engine.generate([Request([*prompts[0], *range(40)], None, 1)])
    assert engine.prefixes.size == 340 * 256, "a longer prompt takes the place of its beginning"
