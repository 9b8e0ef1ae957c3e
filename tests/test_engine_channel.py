"""The question after each name is what the model says of it, and weighs in the choice as much as it is told."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from actune.channel import ANYTHING, BEFORE, MOST_TOKENS, asked_ids, before_ids, channel_of
from actune.engine import judge
from actune.engine.compare import read_channel
from actune.engine.local import LocalEngine
from actune.script.acting import Acting, Trace
from test_engine_judge import NAMES, SIGN, TOKENIZER, acts, after, ask, brute, engine_of, ids

FORCED = Acting(bias=100.0, most=1)
QUESTIONS = ("hello", "饿了", "x", "a much longer question")


@pytest.fixture(scope="module")
def engine() -> LocalEngine:
    return engine_of("llama")


def told(engine: LocalEngine, question: str, name: str) -> float:
    """log p(question | name), by a plain forward pass."""
    before, asked = before_ids(TOKENIZER, name, "en" if question.isascii() else "zh"), ids(question)
    table = after(engine, before + asked)[len(before) - 1 :]
    return sum(float(table[place, token]) for place, token in enumerate(asked))


def test_what_stands_before_a_question_names_the_action_in_prose() -> None:
    text = TOKENIZER.decode(before_ids(TOKENIZER, "turn_on-light.main", "en"), skip_special_tokens=True)
    assert text == BEFORE["en"].format("turn on light main")
    assert "做饭 炒冬瓜" in TOKENIZER.decode(before_ids(TOKENIZER, "做饭-炒冬瓜", "zh"))
    assert len(asked_ids(TOKENIZER, "long " * 100 + "end")) == MOST_TOKENS
    assert TOKENIZER.decode(asked_ids(TOKENIZER, "long " * 100 + "end")).endswith("end")


@pytest.mark.parametrize("question", QUESTIONS)
def test_questions_are_scored_as_the_model_would_write_them(engine: LocalEngine, question: str) -> None:
    found = read_channel(engine, channel_of(TOKENIZER, question, NAMES), NAMES)
    assert found == {name: pytest.approx(told(engine, question, name), abs=1e-3) for name in NAMES}


@pytest.mark.parametrize("weight", [0.5, 2.0])
def test_the_channel_weighs_in_the_choice(engine: LocalEngine, weight: float) -> None:
    changed = 0
    for question in QUESTIONS:
        plain = ask(question, replace(FORCED, gamma=0.5))
        asked = replace(plain, channel=channel_of(TOKENIZER, question, NAMES))
        acting = replace(FORCED, gamma=0.5, channel=weight)
        values = [
            brute(engine, ids(question), name)
            - 0.5 * brute(engine, ids("blank "), name)
            + weight * told(engine, question, name)
            for name in NAMES
        ]
        chosen = acts(engine, engine.generate([replace(asked, acting=acting)])[0])
        assert chosen == [NAMES[values.index(max(values))]]
        changed += chosen != acts(engine, engine.generate([plain])[0])
    assert changed


def test_of_a_long_list_the_likeliest_are_asked_for(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "ASKED_FOR", 2)
    request = replace(ask("hello", FORCED), channel=channel_of(TOKENIZER, "hello", NAMES), trace=(trace := Trace()))
    engine.generate([request])
    choice = trace.choices[0]
    hopes = [score - 0.5 * blank for score, blank in zip(choice.scores, choice.blank, strict=True)]
    likely = sorted(range(len(NAMES)), key=lambda place: -hopes[place])[:2]
    values = [told(engine, "hello", NAMES[place]) for place in likely]
    for place, value in enumerate(choice.told):
        wanted = values[likely.index(place)] if place in likely else min(values)
        assert value == pytest.approx(wanted, abs=1e-3)


def test_a_trace_knows_what_other_weights_would_choose(engine: LocalEngine) -> None:
    agreed = differed = 0
    for question in QUESTIONS:
        texts = []
        for weight in (0.0, 0.1, 0.5, 2.0, 8.0):
            acting, trace = replace(FORCED, gamma=0.1, channel=weight), Trace()
            request = replace(ask(question, acting, trace=trace), channel=channel_of(TOKENIZER, question, NAMES))
            texts.append((acting, trace, engine.generate([request])[0]))
        for acting, trace, text in texts:
            assert trace.agrees(acting)
            for other, _, known in texts:
                same = trace.agrees(other)
                agreed += same
                differed += not same
                assert text == known or not same
    assert agreed
    assert differed


def evidence(engine: LocalEngine, question: str, weight: float) -> float:
    """What speaks for acting, by plain forward passes."""
    logits = after(engine, ids(question))[-1].masked_fill(~torch.from_numpy(engine.grammar(NAMES).mask(0)), -torch.inf)
    unmeant = [SIGN, *engine.vocabulary.crooked.tolist()]
    logits = logits.index_fill(0, torch.tensor(unmeant), -torch.inf)
    openers = torch.from_numpy(engine.vocabulary.openers)
    margin = logits[openers].max() - logits.index_fill(0, openers, -torch.inf).max()
    anything = ANYTHING["en" if question.isascii() else "zh"]
    heard = max(told(engine, question, name) for name in NAMES) - told(engine, question, anything)
    return float(margin) + weight * heard


@pytest.mark.parametrize("weight", [0.0, 0.5])
def test_only_answers_to_questions_that_speak_for_it_may_act(engine: LocalEngine, weight: float) -> None:
    spoken = [evidence(engine, question, weight) for question in QUESTIONS]
    middle = (sorted(spoken)[1] + sorted(spoken)[2]) / 2
    gated = replace(FORCED, again=-100.0, gate=middle, heard=weight)
    traces = [Trace() for _ in QUESTIONS]
    requests = [
        replace(ask(question, gated), channel=channel_of(TOKENIZER, question, NAMES), trace=trace)
        for question, trace in zip(QUESTIONS, traces, strict=True)
    ]
    answers = engine.generate(requests)
    assert [trace.evidence(weight) for trace in traces] == pytest.approx(spoken, abs=1e-3)
    assert [bool(acts(engine, answer)) for answer in answers] == [one > middle for one in spoken]
    assert [trace.shut for trace in traces] == [one < middle for one in spoken]
    # Without a trace, as in use, it is the same; a shut answer has words all the same.
    assert engine.generate([replace(request, trace=None) for request in requests]) == answers
    assert min(len(answer) for answer in answers) > 1


def test_of_a_long_list_the_likeliest_are_heard(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge, "ASKED_FOR", 2)
    request = replace(ask("hello", FORCED), channel=channel_of(TOKENIZER, "hello", NAMES), trace=(trace := Trace()))
    engine.generate([request])
    choice = trace.choices[0]
    best = max(choice.told)  # of the likeliest: the others count like the worst of those
    assert trace.heard == pytest.approx(best - told(engine, "hello", ANYTHING["en"]), abs=1e-3)


def test_a_question_without_tokens_decides_nothing(engine: LocalEngine) -> None:
    empty = replace(ask("hello", replace(FORCED, channel=1.0)), channel=channel_of(TOKENIZER, "", NAMES))
    assert acts(engine, engine.generate([empty])[0]) == acts(engine, engine.generate([ask("hello", FORCED)])[0])


def test_an_answer_written_again_reads_no_question_again(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    request = replace(
        ask("hello", replace(FORCED, channel=0.5, gate=-99.0, heard=0.2)),
        channel=channel_of(TOKENIZER, "hello", NAMES),
    )
    first, read = engine.generate([request]), []
    monkeypatch.setattr(judge, "read_channel", lambda engine, channel, names: read.extend(names) or {})
    assert engine.generate([request]) == first
    assert not read
