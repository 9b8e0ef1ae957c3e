"""Bodies of other runtimes: Fay's clients, LiveTalking, games with the Neuro SDK."""

from __future__ import annotations

import json
import queue
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from actune.errors import UserError
from actune.serve.fay import Fay
from actune.serve.livetalking import LiveTalking
from actune.serve.options import Runtimes, Where
from actune.serve.run import listen
from serve_tools import FakeActor, server

SCRIPT = "我来做饭。\n<&做饭-炒冬瓜&>\n好了，吃吧。<&wave&>"
ACT = {"question": "饿了", "actions": ["做饭-炒冬瓜", "wave"]}


@pytest.fixture
def fay():
    body, listener = Fay(), listen("127.0.0.1", 0)
    with server(FakeActor(SCRIPT), bodies=[body.perform], beside=[lambda: body.serve(listener, ())]) as started:
        yield started, f"ws://127.0.0.1:{listener.getsockname()[1]}/"


def frames(ws) -> list[dict]:
    got = []
    while not got or got[-1]["Data"]["Key"] != "audio" or not got[-1]["Data"]["IsEnd"]:
        got.append(json.loads(ws.recv(5)))
    return got


def test_fay_bodies_get_words_and_actions_in_order(fay):
    served, url = fay
    with connect(url) as body, connect(url) as other:
        other.send('{"Username": "Anna", "Output": true}')
        time.sleep(0.1)
        served.post("/act", ACT)
        got = frames(body)
        assert {frame["Topic"] for frame in got} == {"human"}
        assert {frame["Username"] for frame in got} == {"User"}
        audio = [frame["Data"] for frame in got if frame["Data"]["Key"] == "audio"]
        order = [data["Action"]["code"] if "Action" in data else data["Text"] for data in audio]
        assert order == ["我来做饭。", "做饭-炒冬瓜", "好了，吃吧。", "wave", ""]
        assert [data["IsFirst"] for data in audio] == [1, 0, 0, 0, 0]
        assert [data["CONV_MSG_NO"] for data in audio] == list(range(5))
        assert len({data["CONV_ID"] for data in audio}) == 1
        words = [frame["Data"]["Value"] for frame in got if frame["Data"]["Key"] == "text"]
        assert words == ["我来做饭。", "好了，吃吧。", ""]
        # Another user's body gets that user's answers, by either protocol.
        served.post("/v1/chat/completions", {"messages": [{"role": "user", "content": "?"}], "user": "Anna"})
        assert json.loads(other.recv(5))["Username"] == "Anna"


def test_pages_may_not_listen_to_fay(fay):
    with pytest.raises(InvalidStatus):
        connect(fay[1], origin="https://evil.example")


class Talking(BaseHTTPRequestHandler):
    """LiveTalking as `server/routes.py` has it: words queue, an action takes effect at once."""

    log: ClassVar[list] = []
    ends: ClassVar[list] = []
    words: ClassVar[queue.Queue] = queue.Queue()

    def do_POST(self):
        data = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path == "/human":
            self.words.put(data["text"])
        elif self.path == "/set_audiotype":
            self.log.append(data["audiotype"])
        else:
            self.log.append(self.path)
        answer = {"code": 0, "msg": "ok"} if data["sessionid"] == "s" else {"code": -1, "msg": "session not found"}
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps(answer).encode())

    @classmethod
    def say(cls) -> None:
        while text := cls.words.get():
            time.sleep(0.05)
            cls.log.append(text)
            cls.ends.append(text)

    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.end_headers()
        told = 0
        while True:
            while told < len(self.ends):
                for status in ("start", "end"):
                    self.wfile.write(b"data: " + json.dumps({"status": status}).encode() + b"\n\n")
                told += 1
            time.sleep(0.005)
            self.wfile.write(b": \n\n")
            self.wfile.flush()

    def log_message(self, *_):
        pass


@pytest.fixture
def talking():
    Talking.log, Talking.ends, Talking.words = [], [], queue.Queue()
    threading.Thread(target=Talking.say, daemon=True).start()
    web = ThreadingHTTPServer(("127.0.0.1", 0), Talking)
    web.daemon_threads = True
    threading.Thread(target=web.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{web.server_port}"
    web.shutdown()
    Talking.words.put("")


def test_livetalking_acts_after_the_words_before_were_said(talking):
    body = LiveTalking(talking, {"做饭-炒冬瓜": 2, "wave": 3})
    with server(FakeActor(SCRIPT), bodies=[body.perform]) as served:
        served.post("/act", ACT | {"session": "s"})
        deadline = time.monotonic() + 5
        while 3 not in Talking.log and time.monotonic() < deadline:
            time.sleep(0.01)
    assert Talking.log == ["我来做饭。", 2, "好了，吃吧。", 3]


def test_livetalking_is_silenced_by_an_interruption(talking):
    body = LiveTalking(talking, {})
    with server(FakeActor(SCRIPT * 20, pause=0.002), bodies=[body.perform]) as served:
        with connect(served.url.replace("http", "ws") + "/ws") as ws:
            ws.send(json.dumps({"type": "ask", "session": "s", "max_tokens": 4000} | ACT))
            ws.recv(5)
        deadline = time.monotonic() + 5
        while "/interrupt_talk" not in Talking.log and time.monotonic() < deadline:
            time.sleep(0.01)
        assert "/interrupt_talk" in Talking.log
        # A session that LiveTalking does not know disturbs nobody here.
        assert served.post("/act", ACT | {"session": "unknown", "max_tokens": 30})[0] == 200


class Game:
    """A game that follows the Neuro SDK's specification message by message."""

    def __init__(self, ws, name: str = "Kitchen") -> None:
        self.ws, self.name = ws, name

    def send(self, command: str, **data) -> None:
        self.ws.send(json.dumps({"command": command, "game": self.name} | ({"data": data} if data else {})))

    def register(self, *actions: dict) -> None:
        self.send("actions/register", actions=list(actions))

    def force(self, *names: str, **more) -> None:
        self.send("actions/force", query="Your turn.", action_names=list(names), **more)

    def action(self) -> dict:
        message = json.loads(self.ws.recv(5))
        assert message["command"] == "action"
        assert set(message["data"]) <= {"id", "name", "data"}
        return message["data"]

    def result(self, id: str, success: bool, message: str = "") -> None:
        self.send("action/result", id=id, success=success, message=message)

    def quiet(self) -> bool:
        try:
            self.ws.recv(0.15)
        except TimeoutError:
            return True
        return False


TEA, WAVE = {"name": "pour_tea", "description": "Pour tea."}, {"name": "wave", "description": "", "schema": {}}


@pytest.fixture
def neuro():
    """The actor does what its question names, else it only speaks."""

    def script(request) -> str:
        question = bytes(request.prompt).decode()
        wanted = [name for name in request.names if name in question]
        return "Fine. " + "".join(f"<&{name}&>" for name in wanted)

    with server(FakeActor(script)) as served, connect(served.url.replace("http", "ws") + "/neuro") as ws:
        game = Game(ws)
        game.send("startup")
        game.register(TEA, WAVE)
        yield game, served.actor


def test_game_forces_an_action(neuro):
    game, actor = neuro
    game.force("pour_tea", "wave", state="Please wave now.")
    act = game.action()
    assert act["name"] == "wave"
    assert actor.asked[0][0] == "Please wave now.\n\nYour turn."
    assert actor.asked[0][1] == ("pour_tea", "wave")
    assert "Pour tea." in actor.asked[0][3]
    game.result(act["id"], True, "They wave back.")
    # It is remembered, with what the game told about it.
    game.force("pour_tea")
    second = game.action()
    assert second["name"] == "pour_tea"
    question, names, history, *_ = actor.asked[1]
    assert (question, names) == ("They wave back.\nYour turn.", ("pour_tea",))
    assert [turn.text for turn in history] == ["Please wave now.\n\nYour turn.", "<&wave&>"]
    game.result(second["id"], True)


def test_failed_force_is_retried_until_it_succeeds(neuro):
    game, actor = neuro
    game.force("pour_tea", "wave", ephemeral_context=True)
    seen = []
    for success in (False, False, False, True):
        act = game.action()
        seen.append(act["name"])
        game.result(act["id"], success, "" if success else "Not now.")
    # Both were tried before one was tried again, by ids of their own.
    assert set(seen[:2]) == {"pour_tea", "wave"}
    assert "Not now." in actor.asked[1][0]
    assert game.quiet()
    game.force("wave")
    game.action()
    assert actor.asked[-1][2] == (), "an ephemeral force is forgotten"


def test_forces_wait_for_one_another(neuro):
    game, _ = neuro
    game.force("wave")
    game.force("pour_tea")
    first = game.action()
    assert game.quiet()
    game.result(first["id"], True)
    assert (first["name"], game.action()["name"]) == ("wave", "pour_tea")


def test_context_is_heard_silently_or_answered(neuro):
    game, actor = neuro
    game.send("context", message="It rains.", silent=True)
    assert game.quiet()
    assert actor.asked == []
    game.send("context", message="Someone waits for a wave.", silent=False)
    act = game.action()
    assert act["name"] == "wave"
    assert actor.asked[0][0] == "It rains.\nSomeone waits for a wave."
    game.result(act["id"], True)
    game.send("context", message="Nothing happens.", silent=False)
    assert game.quiet()


def test_actions_come_and_go(neuro, caplog):
    game, actor = neuro
    game.register({"name": "wave", "description": "Another text is ignored."})
    move = {"name": "move", "description": "", "schema": {"type": "object", "required": ["x"], "properties": {"x": {}}}}
    game.register(move)
    game.send("actions/unregister", action_names=["pour_tea", "never_there"])
    game.force("pour_tea", "move")
    assert game.quiet()
    assert "'move' is refused" in caplog.text
    game.force("pour_tea", "wave")
    assert game.action()["name"] == "wave"
    assert actor.asked[0][1] == ("wave",)
    assert "Another" not in actor.asked[0][3]


def test_startup_forgets_and_nonsense_is_ignored(neuro):
    game, _ = neuro
    game.ws.send("{")
    game.ws.send('{"command": 1}')
    game.send("dance")
    game.result("no-such-id", True)
    game.send("startup")
    game.force("wave")
    assert game.quiet()
    game.register(WAVE)
    game.force("wave")
    assert game.action()["name"] == "wave"


def test_options_are_checked():
    assert Runtimes(clips="a=2、b-c=3").numbers() == {"a": 2, "b-c": 3}
    assert Runtimes(fay=":10002").fay_address("127.0.0.1") == ("127.0.0.1", 10002)
    assert Runtimes(fay="[::1]:10002").fay_address("127.0.0.1") == ("::1", 10002)
    for wrong in (Runtimes(clips="a"), Runtimes(fay="x"), Runtimes(livetalking="x"), Runtimes(fay="0.0.0.0:10002")):
        with pytest.raises(UserError):
            wrong.checked(Where())
