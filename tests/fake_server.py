"""A server with the OpenAI protocol that says what a test wants, and remembers what it was asked.

As a process of its own, that can be killed: ``python fake_server.py NAME PAUSE``; it prints its address.
"""

from __future__ import annotations

import json
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass
class Plan:
    """What the fake does.

    Args:
        kind: `owned_by` of its models.
        models: Their names.
        pieces: The texts of an answer; None at an end: the connection dies there.
        finish: Why it ended.
        failures: Statuses of the first answers; 0 closes the connection without a word.
        vocabulary: Undoes the tokenizer in /detokenize.
        refuses: Requests with this word in them get status 400.
        pause: Seconds before each piece.
    """

    kind: str = "vllm"
    models: Sequence[str] = ("m",)
    pieces: Sequence[str | None] = ("Tea. ", "<&te", "a&>", " Done")
    finish: str = "stop"
    failures: list[int] = field(default_factory=list)
    vocabulary: Any = None
    refuses: str = ""
    pause: float = 0.0
    asked: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)


class Handler(BaseHTTPRequestHandler):
    plan: Plan
    protocol_version = "HTTP/1.1"

    def log_message(self, *args: object) -> None:
        pass

    def do_GET(self) -> None:
        cards = [{"id": name, "owned_by": self.plan.kind, "max_model_len": 2048} for name in self.plan.models]
        self.plan.keys.append(self.headers["Authorization"])
        self._send(200, {"data": cards})

    def do_POST(self) -> None:
        plan, text = self.plan, self.rfile.read(int(self.headers["Content-Length"])).decode()
        body = json.loads(text)
        if self.path == "/detokenize":
            return self._send(200, {"prompt": plan.vocabulary.decode(body["tokens"])})
        plan.asked.append({"path": self.path, **body})
        if plan.failures and (status := plan.failures.pop(0)) != 200:
            return self._send(status, {"error": {"message": "not now"}}) if status else self._die()
        if plan.refuses and plan.refuses in text:
            return self._send(400, {"error": {"message": f"no {plan.refuses}"}})
        self._stream(body)

    def _stream(self, body: dict[str, Any]) -> None:
        self.send_response(200)
        self.send_header("Content-Type", "text/event-stream")
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()
        for piece in self.plan.pieces:
            time.sleep(self.plan.pause)
            if piece is None:
                return self._die()
            self._event({"text": piece} if "prompt" in body else {"delta": {"content": piece}})
        self._event({"text": "", "finish_reason": self.plan.finish})
        self._chunk(b"data: [DONE]\n\n")
        self._chunk(b"")

    def _event(self, choice: dict[str, Any]) -> None:
        self._chunk(f"data: {json.dumps({'choices': [choice]}, ensure_ascii=False)}\n\n".encode())

    def _chunk(self, data: bytes) -> None:
        self.wfile.write(f"{len(data):x}\r\n".encode() + data + b"\r\n")
        self.wfile.flush()

    def _send(self, status: int, data: dict[str, Any]) -> None:
        body = json.dumps(data).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _die(self) -> None:
        self.close_connection = True


@contextmanager
def fake_server(plan: Plan) -> Iterator[str]:
    """Run the fake and give its address."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Planned", (Handler,), {"plan": plan}))
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


class Echo:
    """Undoes any tokenizer, of the one text that is asked for."""

    def decode(self, ids: list[int]) -> str:
        from actune.engine.upstream import PROBE

        return PROBE


if __name__ == "__main__":
    pieces = (f"Server {sys.argv[1]} ", "answers. ", "<&wa", "ve&>", " Then ", "it ", "goes ", "on.")
    with fake_server(Plan(pieces=pieces, vocabulary=Echo(), pause=float(sys.argv[2]))) as address:
        print(address, flush=True)
        threading.Event().wait()
