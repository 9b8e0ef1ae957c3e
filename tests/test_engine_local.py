from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from actune.engine.local import LocalEngine, Request
from actune.engine.row import Row
from actune.script.events import Act, Fault
from actune.script.parser import parse
from tiny_actor import byte_tokenizer, tiny_llama

NAMES = ("做饭-炒冬瓜", "换衣服-裙子", "换衣服-裙子-红色", "tea", "light-on", "light-on, dim")
PROMPTS = ["hello", "饿了", "a much longer question than the other ones", "x"]


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


@pytest.fixture(scope="module")
def engine(tokenizer) -> LocalEngine:
    return LocalEngine(tiny_llama(tokenizer), tokenizer, [tokenizer.eos_token_id])


def requests(tokenizer, **options) -> list[Request]:
    ids = [tokenizer(text)["input_ids"] for text in PROMPTS]
    names = [None, NAMES, NAMES[:2], ()]
    return [
        Request(one, few, 5 + 7 * n, seed=n, **options) for n, (one, few) in enumerate(zip(ids, names, strict=True))
    ]


@pytest.mark.parametrize("options", [{}, {"temperature": 1.0}, {"temperature": 0.7, "top_p": 0.8}])
def test_batch_equals_row_by_row_and_stream(engine, tokenizer, options):
    asked = requests(tokenizer, **options)
    together = engine.generate(asked)
    assert together == [engine.generate([request])[0] for request in asked]
    assert together == [list(engine.stream(request)) for request in asked]
    assert together == engine.generate(asked, batch_size=3)
    assert together == engine.generate(asked[::-1])[::-1]
    assert len({len(answer) for answer in together}) > 1, "rows must leave the batch at different times"


def test_greedy_equals_transformers_generate(engine, tokenizer):
    ids = tokenizer("hello")["input_ids"]
    wanted = engine.model.generate(
        torch.tensor([ids]), max_new_tokens=20, do_sample=False, pad_token_id=0, eos_token_id=engine.stop_ids[0]
    )
    assert engine.generate([Request(ids, None, 20)])[0] == wanted[0, len(ids) :].tolist()


@pytest.mark.parametrize("positions", ["rotary", "learned"])
def test_padded_rows_see_the_logits_of_a_plain_forward_pass(tokenizer, monkeypatch, positions):
    # Rotary positions forgive a shift of a whole row; learned ones do not.
    learned = GPT2Config(vocab_size=300, n_positions=64, n_embd=32, n_layer=2, n_head=4, initializer_range=0.3)
    model = tiny_llama(tokenizer) if positions == "rotary" else GPT2LMHeadModel(learned).eval()
    engine, seen = LocalEngine(model, tokenizer, [tokenizer.eos_token_id]), {}
    assert engine.context == (2048 if positions == "rotary" else 64)
    choose = Row.choose
    monkeypatch.setattr(
        Row,
        "choose",
        lambda row, logits, ahead: seen.setdefault(row.ticket, []).append(logits) or choose(row, logits, ahead),
    )
    asked = [Request(tokenizer(text)["input_ids"], (), 4) for text in PROMPTS]
    for ticket, (request, answer) in enumerate(zip(asked, engine.generate(asked), strict=True)):
        with torch.inference_mode():
            plain = model(torch.tensor([request.prompt + answer[:-1]])).logits[0, len(request.prompt) - 1 :]
        assert len(answer) == 4
        torch.testing.assert_close(torch.stack(seen[ticket]), plain, atol=1e-4, rtol=0)


def test_seed_decides_a_sampled_text(engine, tokenizer):
    request = Request(tokenizer("hello")["input_ids"], None, 20, temperature=1.0)
    first, again, other = engine.generate([request, request, replace(request, seed=1)])
    assert first == again != other
    nearly_greedy = replace(request, top_p=1e-9)
    assert engine.generate([nearly_greedy]) == engine.generate([replace(request, temperature=0.0)])


def test_stops_on_every_stop_id(engine, tokenizer):
    request = Request(tokenizer("hello")["input_ids"], None, 12)
    free = engine.generate([request])[0]
    for stop in (free[3], free[6]):
        stopping = LocalEngine(engine.model, tokenizer, [tokenizer.eos_token_id, stop])
        assert stopping.generate([request])[0] == free[: free.index(stop) + 1]


def test_budget_and_context_end_an_answer(engine, tokenizer):
    assert engine.generate([Request([5, 6], None, 0)]) == [[]]
    small = LocalEngine(tiny_llama(tokenizer, context=10), tokenizer, [tokenizer.eos_token_id])
    assert len(small.generate([Request([5] * 7, None, 50)])[0]) == 3
    assert small.generate([Request([5] * 12, None, 50)]) == [[]]


def test_logits_that_are_not_numbers_are_an_error(tokenizer):
    model = tiny_llama(tokenizer)
    model.lm_head.weight.data[3] = torch.nan
    with pytest.raises(ArithmeticError):
        LocalEngine(model, tokenizer, [tokenizer.eos_token_id]).generate([Request([5], None, 3)])


def test_constraint_fuzz_never_acts_outside_the_list(engine, tokenizer, monkeypatch):
    """A random model pushed towards `<` and `&`: every tag is closed and listed, with budgets that end anywhere."""
    pushed = torch.zeros(engine.vocabulary.size)
    pushed[tokenizer.convert_tokens_to_ids(["<", "&", "<&", "&>"])] = 6.0
    forward = engine.forward
    monkeypatch.setattr(engine, "forward", lambda *args: forward(*args) + pushed)
    ids = tokenizer("hello")["input_ids"]
    lists = [NAMES, NAMES[:1], NAMES[3:], ()]
    asked = [Request(ids, lists[n % 4], 3 + n % 64, temperature=1.0, seed=n) for n in range(96)]
    acts = 0
    for request, answer in zip(asked, engine.generate(asked, batch_size=48), strict=True):
        script = b"".join(engine.vocabulary.token_bytes[id] or b"" for id in answer if id not in engine.stop_ids)
        events = parse(script.decode("utf-8", "replace"), request.names)
        assert not [event for event in events if isinstance(event, Fault)], script
        acts += sum(isinstance(event, Act) for event in events)
    assert acts > 50
    free = [replace(request, names=None) for request in asked[:16]]
    scripts = [tokenizer.decode(answer) for answer in engine.generate(free)]
    assert any(isinstance(event, Fault) for script in scripts for event in parse(script, NAMES))


def test_a_watch_sees_what_the_model_wanted_and_changes_nothing(engine, tokenizer):
    seen = []
    request = Request(tokenizer("hello")["input_ids"], NAMES, 40)
    watched = replace(request, watch=lambda logits, allowed: seen.append((int(logits.argmax()), allowed.clone())))
    answer = engine.generate([watched, request])
    assert answer[0] == answer[1]
    assert len(seen) == len(answer[0])
    for token, (likeliest, allowed) in zip(answer[0], seen, strict=True):
        assert bool(allowed[token])
        assert likeliest == token or not allowed[likeliest]
