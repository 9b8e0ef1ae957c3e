"""The OpenAI protocol, spoken by OpenAI's own client."""

from __future__ import annotations

import asyncio
import json
import time

import openai
import pytest

from actune.data.rows import Turn
from serve_tools import FakeActor, server

SCRIPT = "我来做饭。\n<&做饭-炒冬瓜&>\n好了，<&表情-joy&>吃吧。"
NAMES = ["做饭-炒冬瓜", "表情-joy"]
ASK = [{"role": "user", "content": "饿了"}]
TOOLS = [{"type": "function", "function": {"name": name, "parameters": {}}} for name in NAMES]


@pytest.fixture(scope="module")
def served():
    with server(FakeActor(SCRIPT), names=NAMES, persona="You are Mei.") as started:
        yield started


@pytest.fixture(scope="module")
def client(served):
    with openai.OpenAI(base_url=f"{served.url}/v1", api_key="-", max_retries=0) as client:
        yield client


def ask(client, **options):
    return client.chat.completions.create(model="tiny", messages=options.pop("messages", ASK), **options)


def test_models(client):
    assert [model.id for model in client.models.list()] == ["tiny"]
    assert client.models.retrieve("tiny").object == "model"
    with pytest.raises(openai.NotFoundError, match="does not exist"):
        client.models.retrieve("gpt-4")


def test_whole_answer(client, served):
    answer = ask(client)
    [choice] = answer.choices
    assert (choice.message.content, choice.finish_reason) == (SCRIPT, "stop")
    assert answer.usage.prompt_tokens == len("饿了".encode())
    assert answer.usage.completion_tokens == len(SCRIPT.encode()) + 1
    assert answer.usage.total_tokens == answer.usage.prompt_tokens + answer.usage.completion_tokens
    question, names, history, persona, *_ = served.actor.asked[-1]
    assert (question, list(names), history, persona) == ("饿了", NAMES, (), "You are Mei.")


def test_stream_is_the_whole_in_pieces(client):
    chunks = list(ask(client, stream=True, stream_options={"include_usage": True}))
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices) == SCRIPT
    assert [chunk.choices[0].finish_reason for chunk in chunks if chunk.choices][-1] == "stop"
    assert chunks[-1].usage.completion_tokens == len(SCRIPT.encode()) + 1
    assert len({chunk.id for chunk in chunks}) == 1
    # Words come as they are made: far more than one piece.
    assert len(chunks) > 15


def test_async_clients_share_the_batch(served):
    async def main() -> None:
        async with openai.AsyncOpenAI(base_url=f"{served.url}/v1", api_key="-") as client:
            answers = await asyncio.gather(*(ask(client) for _ in range(12)))
            assert {answer.choices[0].message.content for answer in answers} == {SCRIPT}
            stream = await ask(client, stream=True)
            assert "".join([chunk.choices[0].delta.content or "" async for chunk in stream]) == SCRIPT

    asyncio.run(main())


def test_actions_as_tools_keep_their_order_and_come_back(client, served):
    pieces = []
    for chunk in ask(client, tools=TOOLS, stream=True):
        delta = chunk.choices[0].delta
        pieces += [delta.content] if delta.content else []
        pieces += [call.function for call in delta.tool_calls or []]
        finish = chunk.choices[0].finish_reason
    words = "".join(piece if isinstance(piece, str) else f"<&{piece.name}&>" for piece in pieces)
    assert (words, finish) == (SCRIPT, "tool_calls")
    message = ask(client, tools=TOOLS).choices[0].message
    assert message.content == "我来做饭。\n\n好了，吃吧。"
    assert [json.loads(call.function.arguments) for call in message.tool_calls] == [{}, {}]
    results = [{"role": "tool", "tool_call_id": call.id, "content": "ok"} for call in message.tool_calls]
    history = [*ASK, message.model_dump(exclude_none=True), *results]
    # A client that runs tools comes back with their results: all was said, so that its loop ends.
    again = ask(client, tools=TOOLS, messages=history).choices[0]
    assert (again.message.content, again.message.tool_calls, again.finish_reason) == ("", None, "stop")
    assert list(ask(client, tools=TOOLS, messages=history, stream=True))[-1].choices[0].finish_reason == "stop"
    new = ask(client, tools=TOOLS, messages=[*history, {"role": "user", "content": "谢谢"}]).choices[0].message
    assert served.actor.asked[-1][2] == (Turn("user", "饿了"), Turn("assistant", SCRIPT))
    # Ids stay different over the whole dialogue.
    assert not {call.id for call in new.tool_calls} & {call.id for call in message.tool_calls}


def test_tool_choice_narrows_the_list(client, served):
    ask(client, tools=TOOLS, tool_choice="none")
    assert served.actor.asked[-1][1] == ()
    ask(client, tools=TOOLS, tool_choice={"type": "function", "function": {"name": NAMES[1]}})
    assert served.actor.asked[-1][1] == (NAMES[1],)
    with pytest.raises(openai.BadRequestError, match="tool_choice"):
        ask(client, tools=TOOLS, tool_choice={"type": "function", "function": {"name": "fly"}})


def test_dialects_by_extra_body(client, served):
    def content(dialect: str):
        return ask(client, extra_body={"actions": NAMES, "dialect": dialect}).choices[0].message

    assert content("aiavatarkit").content == "我来做饭。\n[animation:做饭_炒冬瓜]\n好了，[face:joy]吃吧。"
    assert content("airi").content.startswith('我来做饭。\n<|CALL ["做饭-炒冬瓜"]|>')
    none = content("none")
    assert none.content == "我来做饭。\n\n好了，吃吧。"
    assert none.model_extra["actions"] == [
        {"name": NAMES[0], "at": {"char": 6}},
        {"name": NAMES[1], "at": {"char": 10}},
    ]
    said = {"role": "assistant", "content": content("aiavatarkit").content}
    ask(client, messages=[*ASK, said, *ASK], extra_body={"actions": NAMES, "dialect": "aiavatarkit"})
    assert served.actor.asked[-1][2][1].text == SCRIPT


def test_none_streams_actions_beside_the_words(client):
    deltas = [c.choices[0].delta for c in ask(client, stream=True, extra_body={"dialect": "none"})]
    order = [delta.model_extra["actions"][0]["name"] if delta.model_extra else delta.content for delta in deltas]
    assert "".join(part or "" for part in order) == SCRIPT.replace("<&", "").replace("&>", "")


def test_sampling_options_reach_the_engine(client, served):
    ask(client, temperature=0.5, top_p=0.9, seed=7, max_tokens=20)
    assert served.actor.asked[-1][4:] == (20, 0.5, 0.9, 7)
    ask(client, extra_body={"max_tokens": 20.0})
    assert served.actor.asked[-1][4] == 20
    ask(client, temperature=0.5)
    ask(client, temperature=0.5)
    assert served.actor.asked[-1][-1] != served.actor.asked[-2][-1]
    assert ask(client, max_completion_tokens=3).choices[0].finish_reason == "length"
    stopped = ask(client, stop=["好了"]).choices[0]
    assert (stopped.message.content, stopped.finish_reason) == ("我来做饭。\n<&做饭-炒冬瓜&>\n", "stop")


@pytest.mark.parametrize(
    ("wrong", "kind", "text"),
    [
        ({"model": "gpt-4"}, openai.NotFoundError, "gpt-4"),
        ({"messages": [{"role": "system", "content": "x"}]}, openai.BadRequestError, "user"),
        ({"messages": []}, openai.BadRequestError, "messages"),
        ({"n": 2}, openai.BadRequestError, "n:"),
        ({"temperature": 9}, openai.BadRequestError, "temperature"),
        ({"max_tokens": 100_000}, openai.BadRequestError, "max_tokens"),
        ({"tools": [TOOLS[0], TOOLS[0]]}, openai.BadRequestError, "twice"),
        ({"extra_body": {"actions": ["a&>b"]}}, openai.BadRequestError, "not allowed"),
        ({"extra_body": {"actions": [f"a{n}" for n in range(2001)]}}, openai.BadRequestError, "2000"),
        ({"extra_body": {"actions": [f"{n}" + "x" * 60_000 for n in range(5)]}}, openai.BadRequestError, "256000"),
        ({"extra_body": {"actions": ["a"]}, "tools": TOOLS}, openai.BadRequestError, "not both"),
        ({"extra_body": {"dialect": "klingon"}}, openai.BadRequestError, "dialect"),
    ],
)
def test_mistakes_get_openai_errors(client, wrong, kind, text):
    with pytest.raises(kind, match=text) as error:
        client.chat.completions.create(**({"model": "tiny", "messages": ASK} | wrong))
    assert error.value.body["type"] == "invalid_request_error"


def test_tool_that_needs_data_is_refused(client):
    tool = {"name": "move", "parameters": {"type": "object", "properties": {"x": {}}, "required": ["x"]}}
    with pytest.raises(openai.BadRequestError, match="move") as error:
        ask(client, tools=[{"type": "function", "function": tool}])
    assert error.value.code == "tool_needs_arguments"


def test_unknown_fields_are_ignored(client):
    assert ask(client, presence_penalty=0.5, logit_bias={}, extra_body={"best": 1}).choices[0].finish_reason == "stop"


def test_failing_model_is_a_server_error():
    with (
        server(FakeActor("hello")) as served,
        openai.OpenAI(base_url=f"{served.url}/v1", api_key="-", max_retries=0) as client,
    ):
        ask(client)
        served.actor.batches[0].fail.append(ArithmeticError("/secret/path: nan"))
        with pytest.raises(openai.InternalServerError) as error:
            ask(client)
        assert "secret" not in str(error.value)
        served.actor.batches[-1].fail.append(ArithmeticError("nan"))
        with pytest.raises(openai.APIError, match="failed"):
            list(ask(client, stream=True))
        assert ask(client).choices[0].message.content == "hello"


def test_client_that_leaves_frees_its_place():
    with (
        server(FakeActor("x" * 4000, pause=0.002), max_batch=1) as served,
        openai.OpenAI(base_url=f"{served.url}/v1", api_key="-", max_retries=0) as client,
    ):
        stream = ask(client, stream=True, max_tokens=4000)
        next(iter(stream))
        stream.close()
        assert served.cut() == 1
        with pytest.raises(openai.APITimeoutError):
            ask(client.with_options(timeout=0.2), max_tokens=4000)
        assert served.cut() == 2
        begun = time.monotonic()
        assert ask(client, max_tokens=5).choices[0].message.content == "xxxxx"
        assert time.monotonic() - begun < 4  # the answers before it would take eight


def test_full_queue_says_when_to_come_back():
    with (
        server(FakeActor("x" * 4000, pause=0.002), max_batch=1, max_queue=1) as served,
        openai.OpenAI(base_url=f"{served.url}/v1", api_key="-", max_retries=0) as client,
    ):
        speaks = ask(client, stream=True, max_tokens=4000)
        next(chunk for chunk in speaks if chunk.choices[0].delta.content)  # it has left the queue: one may wait
        streams = [speaks, ask(client, stream=True, max_tokens=4000)]
        with pytest.raises(openai.RateLimitError) as error:
            ask(client)
        assert int(error.value.response.headers["Retry-After"]) >= 1
        for stream in streams:
            stream.close()
        assert served.cut() == 2
