"""The command itself, with a real (tiny, random) model, in a process of its own."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import openai
import pytest

from serve_tools import sse

NAMES = ("做饭-炒冬瓜", "wave")


@pytest.fixture(scope="module")
def process(tiny_base: Path, tmp_path_factory):
    actions = tmp_path_factory.mktemp("list") / "动作.txt"
    actions.write_text("\n".join(NAMES), encoding="utf-8")
    command = [sys.executable, "-m", "actune", "serve", str(tiny_base), "--port", "0", "--name", "mei"]
    command += ["--actions", f"@{actions}", "--dtype", "fp32", "--temperature", "1"]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=os.environ | {"PYTHONUTF8": "1"}
    )
    yield process
    process.kill()
    process.communicate()


@pytest.fixture(scope="module")
def url(process) -> str:
    line = process.stdout.readline()
    found = re.search(r"http://127\.0\.0\.1:\d+", line)
    assert found, line + process.stderr.read()
    return found[0]


def test_real_model_answers_both_protocols(url):
    with openai.OpenAI(base_url=f"{url}/v1", api_key="-") as client:
        whole = client.chat.completions.create(
            model="mei", messages=[{"role": "user", "content": "饿了"}], seed=3, max_tokens=30
        )
        assert whole.choices[0].finish_reason in ("stop", "length")
        pieces = client.chat.completions.create(
            model="mei", messages=[{"role": "user", "content": "饿了"}], seed=3, max_tokens=30, stream=True
        )
        text = "".join(chunk.choices[0].delta.content or "" for chunk in pieces)
        assert text == whole.choices[0].message.content != ""
        with pytest.raises(openai.BadRequestError) as error:
            client.chat.completions.create(model="mei", messages=[{"role": "user", "content": "饿了" * 4000}])
        assert error.value.code == "context_length_exceeded"
    body = json.dumps({"question": "饿了", "seed": 3, "max_tokens": 30}).encode()
    request = urllib.request.Request(f"{url}/act", body, {"Content-Type": "application/json"})
    events = sse(urllib.request.urlopen(request, timeout=30).read().decode())
    assert not [event for event in events if event["type"] == "error"]
    assert {event["name"] for event in events if event["type"] == "action"} <= set(NAMES)


def test_the_snippets_of_the_docs_run(url, capsys):
    page = (Path(__file__).parent.parent / "docs/serve.md").read_text(encoding="utf-8")
    snippets = [body for body in re.findall(r"^```python\n(.*?)^```", page, re.M | re.S) if "from openai" in body]
    assert len(snippets) == 2
    for snippet in snippets:
        assert "http://127.0.0.1:8765" in snippet
        exec(snippet.replace("http://127.0.0.1:8765", url), {})  # Ours; the page's reader runs the same lines.
        assert capsys.readouterr().out.strip()


def test_interrupt_signal_ends_it_in_order(url, process):
    body = json.dumps({"question": "饿了", "seed": 3, "max_tokens": 60}).encode()
    request = urllib.request.Request(f"{url}/act", body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(request, timeout=30) as response:
        response.readline()
        process.send_signal(signal.SIGINT)
        # What runs may end.
        assert sse(response.read().decode())[-1]["type"] == "done"
    assert process.wait(60) in (0, 130)
    assert "Traceback" not in process.stderr.read()
