"""Who may come in, how big, and what is told to whom."""

from __future__ import annotations

import http.client
import json
import socket as sockets
from urllib.parse import urlsplit

import pytest
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from actune.errors import UserError
from actune.serve.command import need_packages
from actune.serve.options import Load, Where
from serve_tools import FakeActor, server

ACT = {"question": "?"}


@pytest.fixture(scope="module")
def free():
    with server(FakeActor("hi<&a&>"), origins=["https://good.example"], names=["a"]) as started:
        yield started


@pytest.fixture(scope="module")
def locked():
    with server(FakeActor("hi"), key="sesame") as started:
        yield started


def test_key_is_asked_for_everywhere_but_for_health(locked):
    for path in ("/v1/models", "/metrics", "/openapi.json", "/nowhere"):
        assert locked.get(path)[0] == 401
    assert locked.post("/act", ACT)[0] == 401
    assert locked.post("/act", ACT, {"Authorization": "Bearer sesam"})[0] == 401
    status, headers, text = locked.post("/act", ACT, {"Authorization": "Basic sesame"})
    assert (status, headers["www-authenticate"]) == (401, "Bearer")
    assert json.loads(text)["error"]["type"] == "authentication_error"
    assert locked.get("/healthz")[0] == 200
    assert locked.post("/act", ACT, {"Authorization": "Bearer sesame"})[0] == 200


def test_key_on_websockets(locked):
    url = locked.url.replace("http", "ws") + "/ws"
    with pytest.raises(InvalidStatus):
        connect(url)
    with connect(url, additional_headers={"Authorization": "Bearer sesame"}):
        pass
    # A page's script cannot set headers.
    with connect(url, subprotocols=["actune", "bearer.sesame"]) as ws:
        assert ws.subprotocol == "actune"


@pytest.mark.parametrize("origin", ["https://evil.example", "null", "http://localhost:1"])
def test_pages_from_elsewhere_are_kept_out(free, origin):
    assert free.post("/act", ACT, {"Origin": origin})[0] == 403
    with pytest.raises(InvalidStatus):
        connect(free.url.replace("http", "ws") + "/ws", origin=origin)


def test_named_and_own_origins_may_call(free):
    for origin in ("https://good.example", free.url):
        assert free.post("/act", ACT, {"Origin": origin})[0] == 200
        with connect(free.url.replace("http", "ws") + "/ws", origin=origin):
            pass
    assert free.get("/healthz", {"Origin": "https://good.example"})[1]["access-control-allow-origin"]
    assert "access-control-allow-origin" not in free.get("/healthz")[1]


def test_other_host_names_are_a_trick(free):
    assert free.get("/v1/models", {"Host": "evil.example"})[0] == 403
    assert free.get("/v1/models", {"Host": "localhost:99"})[0] == 200


def test_simple_form_posts_run_nothing(free):
    # What a foreign page may send without asking first is no JSON type.
    assert free.post("/act", ACT, {"Content-Type": "text/plain"})[0] == 400


def test_long_bodies_are_refused(free):
    declared = http.client.HTTPConnection(urlsplit(free.url).netloc)
    declared.putrequest("POST", "/act")
    declared.putheader("Content-Type", "application/json")
    declared.putheader("Content-Length", "4000001")
    declared.endheaders()
    assert declared.getresponse().status == 413
    connection = http.client.HTTPConnection(urlsplit(free.url).netloc)
    chunks = (b'"' + b"x" * 100_000 for _ in range(60))
    connection.request("POST", "/act", chunks, {"Content-Type": "application/json"}, encode_chunked=True)
    assert connection.getresponse().status == 413
    assert free.post("/act", {"question": "x" * 200_001})[0] == 400


def test_errors_tell_no_secrets(free):
    for answer in (free.get("/nowhere"), free.post("/act", b"{"), free.get("/act/resume"), free.post("/healthz", {})):
        assert 400 <= answer[0] < 500
        assert set(json.loads(answer[2])) == {"error"}
        assert "Traceback" not in answer[2]
        assert "/src/" not in answer[2]
    free.actor.request, kept = None, free.actor.request
    status, _, text = free.post("/act", ACT)
    free.actor.request = kept
    assert (status, json.loads(text)["error"]["message"]) == (500, "internal error")
    assert free.post("/act", ACT)[0] == 200


def test_every_answer_is_marked(free):
    headers = free.get("/healthz")[1]
    assert "default-src 'none'" in headers["content-security-policy"]
    assert headers["cache-control"] == "no-store"
    assert headers["x-content-type-options"] == "nosniff"


def test_numbers(free):
    free.post("/act", ACT)
    text = free.get("/metrics")[2]
    for line in ('actune_answers_total{finish_reason="stop"}', "actune_actions_total", "actune_waiting 0.0"):
        assert line in text
    assert "actune_first_word_seconds_count" in text


def test_other_addresses_need_a_key(monkeypatch):
    monkeypatch.delenv("ACTUNE_API_KEY", raising=False)
    for host in ("0.0.0.0", "::", "192.168.1.2", "example.org"):
        with pytest.raises(UserError, match="--open"):
            Where(host=host).checked()
        assert Where(host=host, open=True).checked()
        assert Where(host=host, api_key="k").checked()
    for host in ("127.0.0.1", "localhost", "::1", "127.8.8.8"):
        assert Where(host=host).checked()
    monkeypatch.setenv("ACTUNE_API_KEY", "k")
    assert Where(host="0.0.0.0").checked().api_key == "k"
    with pytest.raises(UserError, match="--port"):
        Where(port=70000).checked()
    with pytest.raises(UserError, match="--max-queue"):
        Load(max_queue=0).checked()


def test_missing_packages_are_named(monkeypatch):
    need_packages()
    monkeypatch.setattr("actune.serve.command.PACKAGES", ("fastapi", "no_such_thing"))
    with pytest.raises(UserError, match=r"no_such_thing[\s\S]*pip install"):
        need_packages()


def test_taken_port_is_an_error():
    from actune.serve.run import listen

    with sockets.create_server(("127.0.0.1", 0)) as taken, pytest.raises(UserError, match="--port"):
        listen("127.0.0.1", taken.getsockname()[1])
