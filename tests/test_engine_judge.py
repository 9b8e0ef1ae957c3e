"""Decisions under `Acting`: what is looked at is what the model would say, and each number does what it promises."""

from __future__ import annotations

import math
import random
from dataclasses import replace

import pytest
import torch

from actune.channel import channel_of
from actune.engine.local import LocalEngine, Request
from actune.engine.slots import kept, seeded
from actune.engine.tree import Tree, grow, score
from actune.errors import UserError
from actune.script.acting import Acting, Trace
from actune.script.events import Act, Fault
from actune.script.parser import parse
from test_engine_batch import KINDS, model_of
from tiny_actor import byte_tokenizer

NAMES = ("tea", "te", "做饭-炒冬瓜", "换衣服-裙子", "换衣服-裙子-红色", "a&", "<a", "light-on")
TOKENIZER = byte_tokenizer()


SIGN = TOKENIZER.convert_tokens_to_ids("<")


def engine_of(kind: str) -> LocalEngine:
    """A random model never means a tag by a lone `<`, so it does not write one."""
    engine = LocalEngine(model_of(kind, TOKENIZER), TOKENIZER, [TOKENIZER.eos_token_id])
    forward = engine.forward
    engine.forward = lambda *args: forward(*args).index_fill(1, torch.tensor([SIGN]), -300.0)
    return engine


@pytest.fixture(scope="module", params=[kind for kind in KINDS if kind != "recurrent"])
def engine(request) -> LocalEngine:
    return engine_of(request.param)


@pytest.fixture(scope="module")
def llama() -> LocalEngine:
    return engine_of("llama")


def ids(text: str) -> list[int]:
    return TOKENIZER(text)["input_ids"]


def after(engine: LocalEngine, tokens: list[int]) -> torch.Tensor:
    """Log-probabilities of what follows each token, by a plain forward pass."""
    with torch.inference_mode():
        return engine.model(torch.tensor([tokens])).logits[0].float().log_softmax(-1)


def ask(text: str, acting: Acting | None, **options) -> Request:
    return Request(ids(text), NAMES, 60, acting=acting, blank=ids("blank "), **options)


def acts(engine: LocalEngine, answer: list[int]) -> list[str]:
    script = b"".join(engine.vocabulary.token_bytes[id] or b"" for id in answer if id not in engine.stop_ids)
    events = parse([script], NAMES)
    assert not [event for event in events if isinstance(event, Fault)]
    return [event.name for event in events if isinstance(event, Act)]


def test_a_tree_is_read_as_its_paths_are(engine):
    prompt = ids("a prompt that is longer than the window")
    tree, ends = Tree(), {}
    for text in ("<&tea&>", "<&te&>", "<&tool&>", "x"):
        ends[text] = tree.add(ids(text))
    assert len(tree.tokens) < sum(len(ids(text)) for text in ends)
    _, cache, _ = engine.read(prompt)
    layers = kept(cache)
    logits = engine.branch(tree, seeded(layers, len(prompt)))
    for text, end in ends.items():
        torch.testing.assert_close(
            logits[end].log_softmax(-1), after(engine, prompt + ids(text))[-1], atol=1e-3, rtol=0
        )


def brute(engine: LocalEngine, prompt: list[int], name: str) -> float:
    """log p(name&>) after `<&`, letter by letter of the plain model; any token that ends the tag ends it."""
    rest = ids(f"<&{name}&>")[1:]
    table = after(engine, prompt + ids("<&") + rest[:-1])[len(prompt) :]
    return sum(float(table[place, token]) for place, token in enumerate(rest))


def test_scores_are_the_sums_of_all_tokens(engine):
    prompt = ids("what shall it be, what shall it be")
    spellings = [engine.speller.spell(name) for name in NAMES]
    _, cache, _ = engine.read(prompt)
    names = grow(engine.speller.opening, spellings)
    got = score(names, engine.branch(names.tree, cache))
    assert got == pytest.approx([brute(engine, prompt, name) for name in NAMES], abs=1e-3)


@pytest.mark.parametrize("gamma", [0.0, 0.5, 1.0])
def test_the_calibrated_name_is_written(engine, gamma):
    texts = ["hello", "饿了", "a much longer question", "x"]
    acting = Acting(bias=100.0, gamma=gamma, most=1)
    answers = engine.generate([ask(text, acting) for text in texts])
    chosen = []
    for text, answer in zip(texts, answers, strict=True):
        values = [brute(engine, ids(text), n) - gamma * brute(engine, ids("blank "), n) for n in NAMES]
        assert acts(engine, answer) == [NAMES[values.index(max(values))]]
        chosen += acts(engine, answer)
    assert gamma != 1 or len(set(chosen)) > 1


def test_neutral_numbers_change_nothing(llama):
    requests = [ask(text, None, temperature=heat) for text in ("hello", "x", "饿了") for heat in (0.0, 1.0)]
    neutral = [replace(request, acting=Acting()) for request in requests]
    assert llama.generate(requests) == llama.generate(neutral)


def test_bias_and_count_decide_how_many_tags_there_are(engine):
    def count(acting: Acting) -> int:
        return len(acts(engine, engine.generate([ask("hello", acting)])[0]))

    assert count(Acting(bias=-100.0)) == 0
    assert count(Acting(bias=100.0, again=-100.0)) == 1
    assert count(Acting(bias=100.0, again=100.0, most=3)) == 3
    assert count(Acting(bias=100.0, again=100.0, most=0)) == 0
    assert count(Acting(bias=100.0, again=100.0)) > 3


def test_the_wish_to_repeat_ends_the_acting_and_not_the_words(engine):
    free = engine.generate([ask("hello", Acting(bias=100.0, again=100.0))])[0]
    once = engine.generate([ask("hello", Acting(bias=100.0, again=100.0, repeats=False))])[0]
    all_of_it, done = acts(engine, free), acts(engine, once)
    assert len(set(all_of_it)) < len(all_of_it), "the model does want to repeat"
    first = next(place for place, name in enumerate(all_of_it) if name in all_of_it[:place])
    assert done == all_of_it[:first]
    assert len(once) == 60
    brief = replace(ask("hello", Acting(bias=100.0, again=100.0, repeats=False)), trace=Trace(brief=True))
    cut = engine.generate([brief])[0]
    assert len(cut) < 60
    assert cut == once[: len(cut)]
    assert acts(engine, cut) == done


def test_company_changes_nothing(engine):
    dice = random.Random(4)
    requests = [
        ask(
            "word " * dice.randint(1, 9),
            dice.choice([None, Acting(bias=8.0, again=dice.choice((-9.0, 7.0)), gamma=1.0, repeats=False)]),
            temperature=dice.choice((0.0, 0.0, 1.0)),
            seed=n,
        )
        for n in range(12)
    ]
    together = engine.generate(requests, batch_size=5)
    assert together == [engine.generate([request])[0] for request in requests]
    assert sum(bool(acts(engine, answer)) for answer in together) > 3


def test_a_trace_knows_for_which_numbers_the_answer_is_the_same(llama):
    dice, known, agreed, differed = random.Random(5), [], 0, 0
    for _ in range(60):
        acting = Acting(
            bias=dice.uniform(-2, 14),
            again=dice.uniform(-2, 14),
            gate=dice.choice((None, None, -10.0, -5.0, 0.0, 5.0)),
            heard=dice.choice((0.0, 0.5)),
            gamma=dice.choice((0.0, 0.3, 1.0)),
            channel=dice.choice((0.0, 0.5)),
            repeats=dice.random() < 0.5,
            most=dice.choice((None, 1, 2)),
        )
        trace = Trace()
        request = ask("hello", acting, trace=trace, channel=channel_of(TOKENIZER, "hello", NAMES))
        answer = llama.generate([request])[0]
        if acting.neutral:
            continue
        assert trace.agrees(acting)
        for other, text in known:
            same = other.agrees(acting)
            agreed += same
            differed += not same and text != answer
            assert text == answer or not same
        known.append((trace, answer))
    assert agreed > 20
    assert differed > 20


def test_a_tag_comes_at_once(llama):
    request = ask("hello", Acting(bias=100.0, again=-100.0))
    for others in (0, 2):
        batch, steps = llama.batch(), []
        for n in range(others):
            batch.add(replace(request, prompt=ids("what" * (1 + 9 * n)), acting=None))
        ticket = batch.add(request)
        while len(batch):
            steps.append([token for other, token in batch.step() if other == ticket])
        tag = b"".join(llama.vocabulary.token_bytes[token] for token in steps[0]).decode()
        assert [event.name for event in parse(tag) if isinstance(event, Act)]
        assert {len(step) for step in steps[1:] if step} == {1}
        answer = [token for step in steps for token in step]
        assert len(answer) == 60
        # The model has read the tag as if token by token.
        closed = ~torch.from_numpy(llama.grammar(NAMES).mask(0))
        closed[llama.vocabulary.openers] = True
        table = after(llama, request.prompt + answer).masked_fill(closed, -torch.inf)
        place = len(request.prompt) + len(steps[0])
        assert [int(row.argmax()) for row in table[place - 1 : -1]] == answer[len(steps[0]) :]


def pushed_engine(push: dict[str, float], ahead: dict[str, float] | None = None) -> LocalEngine:
    """A random model with more logit for some tokens; other ones, perhaps, where it looks ahead."""
    engine = LocalEngine(model_of("llama", TOKENIZER), TOKENIZER, [TOKENIZER.eos_token_id])
    extra = torch.zeros(2, engine.vocabulary.size)
    for row, pushes in zip(extra, (push, push if ahead is None else ahead), strict=True):
        for token, by in pushes.items():
            row[TOKENIZER.convert_tokens_to_ids(token)] += by
    forward, branch = engine.forward, engine.branch
    engine.forward = lambda *args: forward(*args) + extra[0]
    engine.branch = lambda *args: branch(*args) + extra[1]
    return engine


def test_a_sign_that_opens_no_tag_stays_a_word():
    engine = pushed_engine({"<": 30.0, "&": -60.0, "<&": -60.0})
    for acting in (Acting(bias=1.0), Acting(most=0), Acting(bias=1.0, repeats=False)):
        answer = engine.generate([ask("hello", acting)])[0]
        assert TOKENIZER.decode(answer) == "<" * 60


def test_a_tag_is_opened_by_two_tokens_too():
    engine = pushed_engine({"<": 30.0, "&": -60.0, "<&": -60.0}, ahead={"&": 60.0})
    answer = engine.generate([ask("hello", Acting(bias=1.0, again=-300.0))])[0]
    assert TOKENIZER.decode(answer[:2]) == "<&"
    assert len(answer[:2]) == 2
    assert len(acts(engine, answer)) == 1
    over = engine.generate([ask("hello", Acting(most=0))])[0]
    assert b"<" not in b"".join(engine.vocabulary.token_bytes[id] or b"" for id in over)


def test_of_a_long_list_the_grammar_writes_the_name():
    engine = LocalEngine(model_of("llama", TOKENIZER), TOKENIZER, [TOKENIZER.eos_token_id])
    extra = torch.zeros(2, engine.vocabulary.size)
    extra[0, SIGN] = extra[1, TOKENIZER.convert_tokens_to_ids("&")] = 60.0
    forward = engine.forward
    engine.forward = lambda tokens, *rest: forward(tokens, *rest) + extra[int(tokens[0, -1] == SIGN)]
    names = tuple(f"k{n}-do {n}" for n in range(200))
    request = Request(ids("hello"), names, 60, acting=Acting(bias=1.0, again=-300.0, gamma=1.0), blank=ids("blank "))
    script = TOKENIZER.decode(engine.generate([request])[0])
    assert len([event for event in parse(script, names) if isinstance(event, Act)]) == 1
    none = TOKENIZER.decode(engine.generate([replace(request, acting=Acting(bias=-300.0))])[0])
    assert "<&" not in none


@pytest.mark.parametrize("seed", range(6))
def test_fuzz_no_unlisted_action_and_no_open_tag_at_any_budget(seed):
    dice = random.Random(seed)
    engine = pushed_engine({"<": 5.0, "&": 5.0, "<&": 6.0, "&>": 6.0})
    lists = [NAMES, NAMES[:1], (), tuple(f"k{n}-do {n}" for n in range(200))]
    requests = []
    for n in range(40):
        acting = Acting(
            dice.uniform(-3, 3),
            dice.uniform(-3, 3),
            dice.choice((None, None, -9.0, 0.0)),
            dice.choice((0.0, 0.2)),
            dice.choice((0.0, 1.0)),
            dice.choice((0.0, 0.5)),
            dice.random() < 0.5,
            dice.choice((None, 0, 2)),
        )
        names = dice.choice(lists)
        requests.append(
            Request(
                ids("word " * dice.randint(1, 6)),
                names,
                dice.randint(1, 60),
                temperature=dice.choice((0.0, 1.0, 3.0)),
                seed=n,
                acting=acting,
                blank=ids("blank "),
                channel=channel_of(TOKENIZER, "word", names),
            )
        )
    found = 0
    for request, answer in zip(requests, engine.generate(requests, batch_size=16), strict=True):
        script = b"".join(engine.vocabulary.token_bytes[id] or b"" for id in answer if id not in engine.stop_ids)
        events = parse([script], request.names)
        assert not [event for event in events if isinstance(event, Fault)], script
        names = [event.name for event in events if isinstance(event, Act)]
        found += len(names)
        assert request.acting.most is None or len(names) <= request.acting.most
        assert request.acting.repeats or len(names) == len(set(names)) or len(request.names) > 128
    assert found > 10


def test_numbers_of_an_older_run_are_read_and_what_is_gone_is_said(caplog):
    old = {"bias": -0.5, "contrast": 0.0, "fit": None, "gamma": 0.5, "repeats": False}
    assert Acting.from_dict(old) == Acting(bias=-0.5, gamma=0.5, repeats=False)
    assert not caplog.records
    assert Acting.from_dict(old | {"fit": 0.3}) == Acting(bias=-0.5, gamma=0.5, repeats=False)
    assert "'fit': 0.3" in caplog.text
    for wrong in ({"newer": 1.0}, {"gate": math.inf}):
        with pytest.raises(UserError, match="acting"):
            Acting.from_dict(old | wrong)
