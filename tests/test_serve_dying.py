"""Servers that die in the middle of an answer, all as processes: what a client of ours sees of it, on each protocol."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from websockets.sync.client import connect

pytestmark = pytest.mark.slow
ASKED = {"question": "Hello?", "actions": ["wave"]}
WHOLE = "Server {} answers.  Then it goes on."


def start(*words: str) -> subprocess.Popen[str]:
    environment = os.environ | {"PYTHONUTF8": "1"}
    streams: dict[str, Any] = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    return subprocess.Popen([sys.executable, *words], env=environment, **streams)


@pytest.fixture(scope="module")
def upstream() -> Iterator[dict[str, subprocess.Popen[str]]]:
    script = str(Path(__file__).parent / "fake_server.py")
    servers = {name: start(script, name, "0.15") for name in "ABCD"}
    yield servers
    for server in servers.values():
        server.kill()
        server.communicate()


@pytest.fixture(scope="module")
def url(upstream: dict[str, subprocess.Popen[str]], tiny_base: Path) -> Iterator[str]:
    urls = [server.stdout.readline().strip() for server in upstream.values() if server.stdout]
    ours = start(
        *("-m", "actune", "serve", str(tiny_base), "--engine", "upstream", "--url", ",".join(urls)),
        *("--port", "0", "--name", "mei"),
    )
    assert ours.stdout
    line = ours.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+", line)
    assert found, line + ours.communicate()[1]
    yield found[0]
    ours.send_signal(signal.SIGINT)
    errors = ours.communicate(timeout=60)[1]
    assert "EngineError" in errors  # the reason stands in the log; clients do not get addresses


def post(url: str, body: dict[str, Any], heard: Callable[[str], None] = lambda line: None) -> list[dict[str, Any]]:
    """Read a stream of events to its end; `heard` is called with each."""
    request = urllib.request.Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"})
    found = []
    with urllib.request.urlopen(request, timeout=30) as response:
        for raw in response:
            line = raw.decode().strip()
            if line.startswith("data: {"):
                heard(line)
                found.append(json.loads(line.removeprefix("data: ")))
    return found


def kill_at(server: subprocess.Popen[str], word: str) -> Callable[[str], None]:
    def heard(line: str) -> None:
        if word in line:
            server.send_signal(signal.SIGKILL)

    return heard


def text(events: list[dict[str, Any]]) -> str:
    return "".join(event["text"] for event in events if event["type"] == "text")


def test_one_after_the_other_dies_and_the_next_request_is_answered(
    url: str, upstream: dict[str, subprocess.Popen[str]]
) -> None:
    # Events: an error, the end, and the stream is closed; the next question is answered by B.
    events = post(f"{url}/act", ASKED, kill_at(upstream["A"], '"action"'))
    assert text(events).startswith("Server A answers.")
    assert [event["type"] for event in events[-2:]] == ["error", "done"]
    assert events[-2]["kind"] == "model"
    assert events[-1]["finish_reason"] == "interrupted"
    assert text(post(f"{url}/act", ASKED)) == WHOLE.format("B")

    # OpenAI's protocol: an error in place of a last chunk, as its own clients expect it.
    chat = {"model": "mei", "stream": True, "messages": [{"role": "user", "content": "Hello?"}]}
    chunks = post(f"{url}/v1/chat/completions", chat, kill_at(upstream["B"], "answers"))
    assert chunks[-1]["error"]["type"] == "server_error"
    assert "127.0.0.1" not in json.dumps(chunks)

    # A WebSocket stays open, and its next question is answered.
    with connect(url.replace("http", "ws") + "/ws") as socket:

        def ask(heard: Callable[[str], None] = lambda line: None) -> list[dict[str, Any]]:
            socket.send(json.dumps({"type": "ask", **ASKED}))
            found: list[dict[str, Any]] = []
            while not found or found[-1]["type"] != "done":
                line = str(socket.recv(timeout=30))
                heard(line)
                found.append(json.loads(line))
            return found

        events = ask(kill_at(upstream["C"], '"action"'))
        assert text(events).startswith("Server C answers.")
        assert [event["type"] for event in events[-2:]] == ["error", "done"]
        assert text(ask()) == WHOLE.format("D")
