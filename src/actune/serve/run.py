"""Run the server until it is told to stop."""

from __future__ import annotations

import asyncio
import socket
from typing import TYPE_CHECKING

import uvicorn

from actune.errors import UserError, either
from actune.serve.app import build
from actune.serve.fay import Fay
from actune.serve.guard import is_loopback
from actune.serve.house import House
from actune.serve.livetalking import LiveTalking

if TYPE_CHECKING:
    from fastapi import FastAPI

    from actune.serve.options import Runtimes, Where
    from actune.serve.staging import Staging

# After Ctrl-C: answers may end, connections may close.
GRACE_SECONDS = 15


def run_server(house: House, where: Where, runtimes: Runtimes, staging: Staging) -> int:
    """Serve a house, and let the runtimes' bodies perform its answers.

    Returns:
        Exit status 0.

    Raises:
        UserError: The address cannot be listened at.
    """
    local = is_loopback(where.host)
    app = build(house, where.api_key, where.cors, local, staging)
    listener = listen(where.host, where.port)
    _connect(house, where, runtimes)
    host = f"[{where.host}]" if ":" in where.host else where.host
    url = f"http://{host}:{listener.getsockname()[1]}"
    print(either(f"OpenAI protocol: {url}/v1   events: {url}/act", f"OpenAI 协议: {url}/v1   事件: {url}/act"))
    print(either(f"stage: {url}/", f"舞台: {url}/"))
    run_app(app, listener)
    return 0


def run_app(app: FastAPI, listener: socket.socket) -> None:
    """Serve an app until Ctrl-C."""
    config = uvicorn.Config(
        app, log_level="warning", timeout_graceful_shutdown=GRACE_SECONDS, ws_max_size=4_000_000, server_header=False
    )
    print(either("Ctrl-C ends it.", "Ctrl-C 结束。"), flush=True)
    asyncio.run(uvicorn.Server(config).serve([listener]))


def _connect(house: House, where: Where, runtimes: Runtimes) -> None:
    """Let other runtimes' bodies perform."""
    if runtimes.livetalking:
        house.bodies.append(LiveTalking(runtimes.livetalking, runtimes.numbers()).perform)
    if runtimes.fay:
        host, port = runtimes.fay_address(where.host)
        fay = Fay()
        house.bodies.append(fay.perform)
        listener = listen(host, port)
        house.beside.append(lambda: fay.serve(listener, where.cors))


def listen(host: str, port: int) -> socket.socket:
    """Open a listening socket.

    Raises:
        UserError: The address is taken, or is none of this machine.
    """
    try:
        return socket.create_server((host, port), family=socket.AF_INET6 if ":" in host else socket.AF_INET)
    except OSError as error:
        raise UserError(
            f"--host {host} --port {port}",
            str(error),
            either("a free address of this machine", "本机的空闲地址"),
            either("choose another --port", "换一个 --port"),
        ) from error
