"""Events in order: the SSE stream, the WebSocket, sessions."""

from __future__ import annotations

import http.client
import json
import subprocess
import time
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from actune.data.rows import Turn
from actune.script.events import Act, Done, Say, from_json, merge
from actune.serve.answer import Answer, Asked
from actune.serve.sessions import Session, Sessions, performed
from serve_tools import FakeActor, server, sse

SCRIPT = "我来做饭。\n<&cook&>\n好了，吃吧。"
NAMES = ["cook", "wave"]
ACT = {"question": "饿了", "actions": NAMES}


@pytest.fixture(scope="module")
def served():
    with server(FakeActor(SCRIPT)) as started:
        yield started


@pytest.fixture
def slow():
    with server(FakeActor(SCRIPT * 8, pause=0.001), names=NAMES) as started:
        yield started


def socket(served, **options):
    return connect(served.url.replace("http", "ws") + "/ws", **options)


def until_done(ws) -> list[dict]:
    got = [json.loads(ws.recv(5))]
    while got[-1]["type"] not in ("done", "refused"):
        got.append(json.loads(ws.recv(5)))
    return got


def test_sse_gives_events_in_order(served):
    status, headers, text = served.post("/act", ACT)
    events = sse(text)
    assert (status, headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
    assert [event["seq"] for event in events] == list(range(len(events)))
    assert events[-1]["prevented"] == 0
    *said, done = merge(map(from_json, events))
    assert said == [Say("我来做饭。\n"), Act("cook", 6), Say("\n好了，吃吧。")]
    assert done.reason == "stop"
    assert done.ttft_ms > 0


def test_sentences(served):
    *said, _ = map(from_json, sse(served.post("/act", ACT | {"chunk": "sentence"})[2]))
    assert said == [Say("我来做饭。"), Say("\n"), Act("cook", 6), Say("\n好了，吃吧。")]


def test_curl_reads_it(served):
    command = ["curl", "-sN", f"{served.url}/act", "-H", "Content-Type: application/json", "-d", json.dumps(ACT)]
    text = subprocess.run(command, capture_output=True, text=True, check=True, encoding="utf-8").stdout
    assert text.startswith("id: ")
    assert sse(text)[-1]["finish_reason"] == "stop"


def lose(served, body: dict, after: int) -> tuple[str, list[dict]]:
    """Read some events, then lose the connection; returns the last id and what came."""
    connection = http.client.HTTPConnection(urlsplit(served.url).netloc)
    connection.request("POST", "/act", json.dumps(body), {"Content-Type": "application/json"})
    response, id, events = connection.getresponse(), "", []
    while len(events) < after:
        line = response.readline().decode().strip()
        id = line.removeprefix("id: ") if line.startswith("id: ") else id
        events += sse(line)
    response.close()
    connection.close()
    return id, events


@pytest.mark.parametrize("chunk", ["delta", "sentence"])
def test_lost_stream_is_taken_up_where_it_was(slow, chunk):
    body = ACT | {"resume": True, "chunk": chunk, "max_tokens": 4000}
    whole = sse(slow.post("/act", body)[2])
    id, first = lose(slow, body, 5)
    for resumed in (slow.get("/act/resume", {"Last-Event-ID": id}), slow.post("/act", body, {"Last-Event-ID": id})):
        assert [event | {"ttft_ms": 0} for event in first + sse(resumed[2])] == [e | {"ttft_ms": 0} for e in whole]


def test_stream_that_is_not_to_be_resumed_ends_with_its_reader(slow):
    id, _ = lose(slow, ACT | {"max_tokens": 4000}, 5)
    assert slow.cut() == 1
    for wrong in (id, "x.1", "x", f"{id}x"):
        assert slow.get("/act/resume", {"Last-Event-ID": wrong})[0] == 404


def test_session_remembers_what_was_heard(slow):
    asked = slow.actor.asked
    slow.post("/act", ACT | {"session": "s", "max_tokens": 4000})
    slow.post("/act", {"question": "然后？", "session": "s", "heard": "我来做饭。 好了"})
    # The list of the session goes on as well.
    assert asked[-1][:3] == (
        "然后？",
        tuple(NAMES),
        (Turn("user", "饿了"), Turn("assistant", "我来做饭。\n<&cook&>\n好了")),
    )
    slow.post("/act", {"question": "?", "session": "other", "history": [{"role": "user", "text": "a"}]})
    assert asked[-1][2] == (Turn("user", "a"),)


def test_websocket_asks_interrupts_and_asks_again(slow):
    with socket(slow) as ws:
        ws.send(json.dumps({"type": "ask", "max_tokens": 4000} | ACT))
        for _ in range(12):
            ws.recv(5)
        ws.send(json.dumps({"type": "interrupt", "heard": "我来做饭。"}))
        end = until_done(ws)
        assert end[-1]["finish_reason"] == "interrupted"
        assert slow.cut() == 1
        ws.send(json.dumps({"type": "ask", "question": "为什么？", "max_tokens": 10}))
        assert until_done(ws)[0]["seq"] == 0
        assert slow.actor.asked[-1][2] == (Turn("user", "饿了"), Turn("assistant", "我来做饭。\n<&cook&>"))
        ws.send('{"type": "reset"}')
        ws.send(json.dumps({"type": "ask", "question": "?", "max_tokens": 10}))
        until_done(ws)
        assert slow.actor.asked[-1][2] == ()
        ws.send('{"type": "ping"}')
        assert json.loads(ws.recv(5)) == {"type": "pong"}


def test_new_question_cuts_the_old_answer(slow):
    with socket(slow) as ws:
        for budget in (4000, 20):
            ws.send(json.dumps({"type": "ask", "max_tokens": budget} | ACT))
            if budget == 4000:
                ws.recv(5)
        first, second = until_done(ws), until_done(ws)
        assert (first[-1]["finish_reason"], second[-1]["finish_reason"]) == ("interrupted", "length")


def test_websocket_mistakes_are_told_and_forgiven(served):
    with socket(served) as ws:
        for wrong in (
            "{",
            "[]",
            '{"type": "jump"}',
            '{"type": "ask"}',
            '{"type": "ask", "question": "?", "model": "x"}',
        ):
            ws.send(wrong)
            assert json.loads(ws.recv(5))["type"] == "refused"
        ws.send(json.dumps({"type": "ask"} | ACT))
        assert until_done(ws)[-1]["finish_reason"] == "stop"
        ws.send(b"\x00")
        with pytest.raises(ConnectionClosed):
            ws.recv(5)


def test_closed_websocket_frees_its_place(slow):
    with socket(slow) as ws:
        ws.send(json.dumps({"type": "ask", "max_tokens": 4000} | ACT))
        ws.recv(5)
    assert slow.cut() == 1


def test_reader_that_takes_nothing_blocks_nobody(slow):
    lazy = http.client.HTTPConnection(urlsplit(slow.url).netloc)
    lazy.request("POST", "/act", json.dumps(ACT | {"max_tokens": 4000}), {"Content-Type": "application/json"})
    begun = time.monotonic()
    assert sse(slow.post("/act", ACT | {"max_tokens": 10})[2])[-1]["type"] == "done"
    assert time.monotonic() - begun < 2
    lazy.close()


def events(*pieces) -> list:
    return [*pieces, Done()]


@pytest.mark.parametrize(
    ("heard", "kept"),
    [
        ("", []),
        ("我来", [Say("我来")]),
        ("我来做饭。", [Say("我来做饭。"), Act("a", 5)]),
        ("我来做饭。好", [Say("我来做饭。"), Act("a", 5), Say("\n好")]),
        (" 我来 做饭。\n好了", [Say("我来做饭。"), Act("a", 5), Say("\n好了"), Act("b", 8)]),
        ("我来做饭。吃", [Say("我来做饭。"), Act("a", 5)]),
    ],
)
def test_what_was_performed(heard, kept):
    answer = events(Say("我来做饭。"), Act("a", 5), Say("\n好了"), Act("b", 8))
    assert performed(answer, heard) == kept


def test_sessions_are_bounded_and_expire():
    sessions = Sessions(limit=2, seconds=0.05)
    first = sessions.get("a")
    assert sessions.get("a") is first
    sessions.get("b")
    sessions.get("c")
    assert len(sessions) == 2
    assert sessions.get("a") is not first
    time.sleep(0.06)
    sessions.get("d")
    assert len(sessions) == 1
    session = Session()
    for n in range(80):
        answer = Answer(Asked(str(n)))
        answer.extend([Say("x"), Done()])
        session.begin(answer)
    assert len(session.history()) <= 102
    assert session.history()[-2:] == (Turn("user", "79"), Turn("assistant", "x"))
    assert session.history()[0].role == "user"
