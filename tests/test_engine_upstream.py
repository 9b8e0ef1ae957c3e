"""An engine behind HTTP: what it is asked, what comes of what it says, and how it fails."""

from __future__ import annotations

import json
from contextlib import contextmanager

import pytest

from actune.actor import Actor
from actune.engine import wire
from actune.engine.protocol import EngineError
from actune.engine.upstream import connect
from actune.errors import UserError
from actune.script.events import Act, Done, Fault, Say, merge
from actune.script.formats import gbnf, lark, structural_tag
from fake_server import Plan, fake_server
from tiny_actor import byte_tokenizer

TOKENIZER = byte_tokenizer()
STOP = TOKENIZER.eos_token_id
NAMES = ("tea", "wave")


@pytest.fixture(autouse=True)
def _hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(wire, "PAUSES", (0.0, 0.0, 0.0))


@contextmanager
def actor_on(plan: Plan, free: bool = False, model: str = ""):
    plan.vocabulary = plan.vocabulary or TOKENIZER
    with fake_server(plan) as url:
        yield Actor(connect(url + "/v1/", model, TOKENIZER, [STOP], key="secret"), free=free), plan.asked


def said(actor: Actor, **how) -> list:
    """The events of an answer, without the clock."""
    events = list(merge(actor.events("thirsty", NAMES, **how)))
    assert isinstance(events[-1], Done)
    return [*events[:-1], events[-1].reason]


def test_an_answer_comes_as_events():
    with actor_on(Plan()) as (actor, _):
        assert said(actor) == [Say("Tea. "), Act("tea", 5), Say(" Done"), "stop"]
    with actor_on(Plan(finish="length")) as (actor, _):
        assert said(actor)[-1] == "length"


def test_vllm_gets_our_token_ids_stop_ids_and_structural_tag():
    with actor_on(Plan("vllm")) as (actor, asked):
        said(actor, max_tokens=7, temperature=0.5, seed=3)
        [one] = asked
        assert one["path"] == "/v1/completions"
        assert one["prompt"] == actor.prompt_ids("thirsty", NAMES, max_tokens=7)
        wanted = {"model": "m", "max_tokens": 7, "temperature": 0.5, "seed": 3, "stop_token_ids": [STOP]}
        assert {key: one[key] for key in wanted} == wanted
        assert json.loads(one["structured_outputs"]["structural_tag"]) == structural_tag(NAMES)
        assert actor.engine.context == 2048


def test_vllm_that_refuses_the_structural_tag_gets_lark_from_then_on():
    with actor_on(Plan("vllm", refuses="structural_tag")) as (actor, asked):
        assert said(actor) == said(actor)
        forms = [list(one["structured_outputs"]) for one in asked]
        assert forms == [["structural_tag"], ["grammar"], ["grammar"]]
        assert asked[1]["structured_outputs"]["grammar"] == lark(NAMES)


def test_a_request_that_is_refused_for_itself_changes_nothing_for_the_next():
    plan = Plan("vllm", refuses="prompt")
    with actor_on(plan) as (actor, asked):
        with pytest.raises(UserError, match="HTTP 400"):
            said(actor)
        plan.refuses = ""
        said(actor)
        assert list(asked[-1]["structured_outputs"]) == ["structural_tag"]


def test_llama_server_gets_gbnf():
    with actor_on(Plan("llamacpp")) as (actor, asked):
        said(actor)
        assert asked[0]["grammar"] == gbnf(NAMES)
    with actor_on(Plan("llamacpp"), free=True) as (actor, asked):
        said(actor)
        assert "grammar" not in asked[0]


def test_other_servers_get_turns_and_what_they_write_is_checked():
    pieces = ("<&tea&>Ha", "<&fl", "y&>", "!<&wav")
    with actor_on(Plan("library", pieces=pieces)) as (actor, asked):
        assert said(actor) == [Act("tea", 0), Say("Ha!"), "stop"]
        assert actor.dropped == {"unlisted": 1, "unclosed": 1}
        [one] = asked
        assert one["path"] == "/v1/chat/completions"
        assert [turn["role"] for turn in one["messages"]] == ["system", "user"]
        assert all(name in one["messages"][0]["content"] for name in NAMES)
        assert len(actor.engine.supports.losses(tuned=True)) == 3
    with actor_on(Plan("library", pieces=pieces), free=True) as (actor, asked):
        assert Fault("unlisted", "<&fly&>", 2) in said(actor)
        assert not actor.dropped


@pytest.mark.parametrize("failure", [0, 429, 500, 503])
def test_before_the_first_word_it_is_asked_again(failure):
    with actor_on(Plan(failures=[failure, failure])) as (actor, asked):
        assert said(actor)[-1] == "stop"
        assert len(asked) == 3


def test_a_stream_that_breaks_off_before_a_word_is_asked_again_and_at_last_given_up():
    with actor_on(Plan(pieces=("", None))) as (actor, asked):
        with pytest.raises(UserError, match="broke off"):
            said(actor)
        assert len(asked) == 4


def test_a_server_that_dies_amid_an_answer_ends_it_as_a_fault():
    with actor_on(Plan(pieces=("Te", "a. <&te", None))) as (actor, asked):
        assert [type(event) for event in said(actor)] == [Say, Fault, str]
        assert said(actor)[-1] == "interrupted"
        assert len(asked) == 2, "what was said cannot be taken back: it is not asked again"
    with actor_on(Plan(finish="abort")) as (actor, asked):
        assert "abort" in said(actor)[-2].raw


def test_what_it_refuses_is_told_in_its_words():
    with actor_on(Plan(refuses="prompt")) as (actor, _), pytest.raises(UserError, match="HTTP 400: no prompt"):
        said(actor)


def test_the_model_is_chosen():
    with actor_on(Plan(models=("base", "act")), model="act") as (actor, asked):
        said(actor)
        assert asked[0]["model"] == "act"
    with pytest.raises(UserError, match="base, act"), actor_on(Plan(models=("base", "act"))):
        pass
    with pytest.raises(UserError, match="--model fly"), actor_on(Plan(), model="fly"):
        pass


def test_another_vocabulary_is_seen_before_anything_is_asked():
    class Other:
        def decode(self, ids) -> str:
            return TOKENIZER.decode([id + 1 for id in ids])

    plan = Plan(vocabulary=Other())
    with pytest.raises(UserError, match="another vocabulary"), actor_on(plan):
        pass
    assert plan.asked == []


def test_a_server_that_is_away_is_named():
    with fake_server(Plan()) as url:
        pass
    with pytest.raises(UserError, match=url):
        connect(url, "", TOKENIZER, [STOP])
    with pytest.raises(UserError, match="--url"):
        connect("localhost:8000", "", TOKENIZER, [STOP])


def test_the_key_is_sent():
    plan = Plan()
    with actor_on(plan):
        assert plan.keys == ["Bearer secret"]


def test_many_answers_keep_their_order_and_failures_surface():
    with actor_on(Plan()) as (actor, _):
        requests = [actor.request("thirsty", NAMES, max_tokens=8 + index) for index in range(9)]
        answers = actor.engine.generate(requests, 4)
        assert answers == [[b"Tea. ", b"<&te", b"a&>", b" Done", STOP]] * 9
    with actor_on(Plan(pieces=("x", None))) as (actor, _), pytest.raises(EngineError):
        actor.engine.generate(requests, 4)


def test_a_dropped_answer_is_forgotten():
    with actor_on(Plan()) as (actor, _):
        batch = actor.engine.batch()
        ticket, other = batch.add(actor.request("a", NAMES)), batch.add(actor.request("b", NAMES))
        batch.drop(ticket)
        came = []
        while len(batch):
            came += batch.step()
        assert {ticket for ticket, _ in came} == {other}


def test_of_two_servers_the_living_one_answers_the_next_request_when_one_dies_in_the_middle():
    dying, living = Plan(pieces=("Tea. ", None), vocabulary=TOKENIZER), Plan(vocabulary=TOKENIZER)
    with fake_server(dying) as one, fake_server(living) as two:
        actor = Actor(connect(f"{one}, {two}/v1", "", TOKENIZER, [STOP]))
        events = list(merge(actor.events("thirsty", NAMES)))
        assert events[0] == Say("Tea. ")
        assert [type(event) for event in events[-2:]] == [Fault, Done]
        assert events[-2].kind == "model"
        assert said(actor) == [Say("Tea. "), Act("tea", 5), Say(" Done"), "stop"]
        assert (len(dying.asked), len(living.asked)) == (1, 1)


def test_a_server_that_is_away_from_the_start_is_passed_over():
    living = Plan(vocabulary=TOKENIZER)
    with fake_server(Plan()) as gone:
        pass
    with fake_server(living) as there:
        assert said(Actor(connect(f"{gone},{there}", "", TOKENIZER, [STOP])))[-1] == "stop"
