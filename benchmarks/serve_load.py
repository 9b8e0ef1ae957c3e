"""What a server bears: `python benchmarks/serve_load.py MODEL [--clients 32] [--requests 20] [--against]`.

MODEL is whatever `actune serve` takes. Clients of three kinds (/act, /v1/chat/completions, /ws) ask at once; of each
nine requests one disconnects, one reads slowly and one interrupts. Each answer is compared with the one the same
question got alone, in fp32: what is lost, doubled, reordered or mixed up differs. Memory is the server process's.
`--against`: throughput of the same weights and prompts under `transformers serve --continuous-batching` as well.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import AsyncIterator
from pathlib import Path
from urllib.parse import urlsplit

from websockets.asyncio.client import connect

from actune.prompt import SYSTEM
from actune.script.events import Act, Done, Event, Fault, Say, from_json, write
from actune.script.parser import parse

ACTIONS = ("cook-fry winter melon", "cup-pour water", "clothes-dress", "cut-watermelon", "wave-both hands", "light-dim")
FEELINGS = ("hungry", "thirsty", "cold", "hot")
QUESTIONS = [f"I am {what}, number {n}. What will you do?" for n in range(5) for what in FEELINGS]
BUDGET = 24
ROUNDS = 4


class Tally:
    """What was seen."""

    def __init__(self) -> None:
        self.count: Counter[str] = Counter()
        self.first: list[float] = []
        self.tokens = 0


async def lines(url: str, path: str, body: dict, slow: float = 0.0) -> AsyncIterator[str]:
    """Post JSON and yield the data of a server-sent event stream; closing it early closes the connection."""
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    try:
        data = json.dumps(body).encode()
        head = f"POST {path} HTTP/1.1\r\nHost: {place.netloc}\r\nContent-Type: application/json\r\n"
        writer.write(f"{head}Content-Length: {len(data)}\r\nConnection: close\r\n\r\n".encode() + data)
        status = (await reader.readline()).decode()
        if " 200 " not in status:
            raise RuntimeError(f"{status} {(await reader.read()).decode()[-300:]}")
        while line := await reader.readline():
            if line.startswith(b"data: ") and not line.startswith(b"data: [DONE]"):
                yield line[6:].decode()
                await asyncio.sleep(slow)
    finally:
        writer.close()


async def act(url: str, question: str, slow: float = 0.0) -> AsyncIterator[Event]:
    seq = 0
    async for line in lines(url, "/act", {"question": question, "max_tokens": BUDGET}, slow):
        data = json.loads(line)
        assert data["seq"] == seq, f"{data['seq']} came for {seq}"
        seq += 1
        yield from_json(data)


async def chat(url: str, question: str, slow: float = 0.0) -> AsyncIterator[Event]:
    """The chat route, its text parsed back to events."""
    body = {"messages": [{"role": "user", "content": question}], "max_tokens": BUDGET, "stream": True}
    async for line in lines(url, "/v1/chat/completions", body, slow):
        choice = json.loads(line)["choices"][0]
        if text := choice["delta"].get("content"):
            yield Say(text)
        if choice["finish_reason"]:
            yield Done(choice["finish_reason"])


async def ws(url: str, question: str, slow: float = 0.0, interrupt: int = 0) -> AsyncIterator[Event]:
    async with connect(url.replace("http", "ws") + "/ws") as socket:
        await socket.send(json.dumps({"type": "ask", "question": question, "max_tokens": BUDGET}))
        seq, event = 0, None
        while not isinstance(event, Done):
            data = json.loads(await socket.recv())
            assert data["seq"] == seq, f"{data['seq']} came for {seq}"
            seq, event = seq + 1, from_json(data)
            yield event
            await asyncio.sleep(slow)
            if interrupt and seq == interrupt:
                await socket.send('{"type": "interrupt"}')


async def one(url: str, number: int, kind: str, wanted: dict[str, str], tally: Tally) -> None:
    question, mode = QUESTIONS[number % len(QUESTIONS)], number % 9
    slow = 0.05 if mode == 4 else 0.0
    begun, seen, first = time.perf_counter(), [], None
    routes = {"act": act, "chat": chat, "ws": ws}
    stream = ws(url, question, interrupt=5) if mode == 7 else routes[kind](url, question, slow)
    async for event in stream:
        if first is None and isinstance(event, Say | Act):
            first = time.perf_counter() - begun
        seen.append(event)
        if mode == 1 and len(seen) == 5:
            await stream.aclose()
            break
    tally.first += [first] if first is not None else []
    got, whole = write(seen), wanted[question]
    cut = mode in (1, 7)
    tally.count["asked"] += 1
    tally.count["disconnected"] += mode == 1
    tally.count["slow"] += mode == 4
    tally.count["interrupted"] += mode == 7
    # A tag that was cut is no event, so that a prefix of words may end before it.
    same = whole.startswith(got) if cut else got == whole
    tally.count["wrong (lost, doubled or reordered)"] += not same
    if not same:
        print(f"WRONG {kind} {mode}: {got!r} for {whole!r}")
    events = parse(got)
    tally.count["actions"] += sum(isinstance(event, Act) for event in events)
    tally.count["unlisted"] += sum(isinstance(event, Act) and event.name not in ACTIONS for event in events)
    tally.count["faults"] += sum(isinstance(event, Fault) for event in [*seen, *([] if cut else events)])


def memory(pid: int) -> float:
    """Resident memory of a process in 10^6 bytes."""
    return int(re.search(r"VmRSS:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(encoding="utf-8"))[1]) * 1024 / 1e6


async def load(url: str, pid: int, clients: int, requests: int) -> None:
    wanted, alone = {}, []
    for question in QUESTIONS:
        begun, seen = time.perf_counter(), []
        async for event in act(url, question):
            alone += [] if seen else [time.perf_counter() - begun]
            seen.append(event)
        wanted[question] = write(seen)
    print(f"alone: first event cold {alone[0]:.3f} s, with a known list {statistics.median(alone[1:]):.3f} s (median)")
    print(f"memory before {memory(pid):.0f} MB")
    for turn in range(ROUNDS):
        tally, begun = Tally(), time.perf_counter()

        async def client(number: int, tally: Tally = tally) -> None:
            for n in range(requests // ROUNDS):
                await one(url, number * 7 + n, ("act", "chat", "ws")[number % 3], wanted, tally)

        await asyncio.gather(*(client(number) for number in range(clients)))
        seconds = time.perf_counter() - begun
        first = sorted(tally.first)
        p50, p95 = statistics.median(first), first[int(0.95 * len(first))]
        print(f"round {turn + 1}: {dict(tally.count)} in {seconds:.1f} s")
        print(f"  first event p50 {p50:.2f} s, p95 {p95:.2f} s; memory {memory(pid):.0f} MB")
    async for line in lines_of(url, "/metrics"):
        if re.match(r"actune_(answers|tokens|refused|prevented|running|waiting|faults)\S* ", line):
            print(" ", line)


async def lines_of(url: str, path: str) -> AsyncIterator[str]:
    place = urlsplit(url)
    reader, writer = await asyncio.open_connection(place.hostname, place.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: {place.netloc}\r\nConnection: close\r\n\r\n".encode())
    while line := await reader.readline():
        yield line.decode().strip()
    writer.close()


async def throughput(url: str, model: str, clients: int, requests: int) -> None:
    """The same chat prompts to any server; each piece of a stream is a token or more."""
    listed = "\n".join(f"- {name}" for name in ACTIONS)
    system = SYSTEM["en"].replace("{actions}", listed)
    first: list[float] = []
    pieces = 0

    async def client(number: int) -> None:
        nonlocal pieces
        for n in range(requests):
            question = QUESTIONS[(number * 7 + n) % len(QUESTIONS)]
            messages = [{"role": "system", "content": system}, {"role": "user", "content": question}]
            body = {"model": model, "messages": messages, "max_tokens": BUDGET, "stream": True, "temperature": 0.0}
            begun, started = time.perf_counter(), False
            async for line in lines(url, "/v1/chat/completions", body):
                if not (data := json.loads(line)).get("choices") or not data["choices"][0]["delta"].get("content"):
                    continue
                first.extend([] if started else [time.perf_counter() - begun])
                started, pieces = True, pieces + 1

        return None

    await client(0)
    first.clear()
    pieces, begun = 0, time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(clients)))
    seconds = time.perf_counter() - begun
    first.sort()
    print(
        f"{model}: {clients} clients x {requests}: {pieces / seconds:.1f} pieces/s, first p50 "
        f"{statistics.median(first):.2f} s, p95 {first[int(0.95 * len(first))]:.2f} s"
    )


def start(command: list[str], ready: str) -> tuple[subprocess.Popen, str]:
    """Start a server and wait for the line that tells its address."""
    env = os.environ | {"PYTHONUNBUFFERED": "1", "ACTUNE_LANG": "en"}
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)
    for line in process.stdout:
        if found := re.search(ready, line):
            return process, found[1]
    raise SystemExit("the server did not start")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("model")
    parser.add_argument("--clients", type=int, default=32)
    parser.add_argument("--requests", type=int, default=20)
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--against", action="store_true")
    parser.add_argument("--only-throughput", action="store_true")
    wants = parser.parse_args()
    if wants.requests < ROUNDS:
        parser.error(f"--requests: at least {ROUNDS}, one for each round")
    command = [sys.executable, "-m", "actune", "serve", wants.model, "--port", "0", "--name", "it"]
    command += ["--dtype", wants.dtype, "--actions", "、".join(ACTIONS), "--timeout", "600"]
    process, url = start(command, r"(http://127\.0\.0\.1:\d+)")
    try:
        if not wants.only_throughput:
            asyncio.run(load(url, process.pid, wants.clients, wants.requests))
        if wants.against:
            asyncio.run(throughput(url, "it", wants.clients, 2))
    finally:
        process.terminate()
        process.wait()
    if wants.against:
        dtype = {"fp32": "float32", "bf16": "bfloat16"}[wants.dtype]
        command = [str(Path(sys.executable).with_name("transformers")), "serve", wants.model, "--port", "8991"]
        command += ["--host", "127.0.0.1", "--dtype", dtype, "--device", "cpu", "--continuous-batching"]
        command += ["--log-level", "info"]  # else it does not say that it listens
        process, url = start(command, r"Uvicorn running on (http://\S+)")
        try:
            asyncio.run(throughput(url, wants.model, wants.clients, 2))
        finally:
            process.terminate()
            process.wait()


if __name__ == "__main__":
    main()
