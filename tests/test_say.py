from __future__ import annotations

import io
import json
import subprocess
import sys
from collections import Counter

import pytest

from actune import say as room
from actune.data.rows import Turn
from actune.errors import UserError
from actune.script.events import Act, Done, Fault, Say, from_json

EVENTS = [Say("好😀，"), Say("来了。\n"), Act("做饭-炒冬瓜", 7), Say("\n[x] 吃吧"), Done("stop", 1.5, 9)]


class Stub:
    """Answers with fixed events and remembers what it was asked."""

    def __init__(self, events=EVENTS):
        self.answer, self.asked, self.dropped = events, [], Counter()

    def events(self, question, catalogue, history=(), *rest):
        self.asked.append((question, tuple(catalogue), tuple(history), *rest))
        return iter(self.answer)


@pytest.fixture
def actor(monkeypatch) -> Stub:
    stub = Stub()
    monkeypatch.setattr(room, "load", lambda *args: stub)
    return stub


def test_words_and_marked_actions(actor, capsys):
    assert room.say("RUN", "饿了", actions="做饭-炒冬瓜、tea", how=room.How(temperature=0.5, seed=4)) == 0
    assert capsys.readouterr().out == "好😀，来了。\n[做饭-炒冬瓜]\n[x] 吃吧\n"
    assert actor.asked == [("饿了", ("做饭-炒冬瓜", "tea"), (), "", 256, 0.5, 1.0, 4)]


def test_raw_is_the_script(actor, capsys):
    room.say("RUN", "饿了", raw=True)
    assert capsys.readouterr().out == "好😀，来了。\n<&做饭-炒冬瓜&>\n[x] 吃吧\n"


def test_json_lines_are_the_events(actor, capsys):
    room.say("RUN", "饿了", json=True)
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["seq"] for line in lines] == list(range(len(EVENTS)))
    assert [from_json(line) for line in lines] == EVENTS


def test_failed_model_gives_status_1(actor, capsys):
    actor.answer = [Fault("model", "no numbers"), Done("interrupted")]
    assert room.say("RUN", "x") == 1
    assert "no numbers" in capsys.readouterr().out


def test_words_come_as_they_are_made(actor, capsys):
    stream = room.show(EVENTS)
    next(stream)
    assert capsys.readouterr().out == "好😀，"


def test_actions_from_a_file(tmp_path):
    file = tmp_path / "动作 list.txt"
    file.write_text("\ufefftea\r\n\r\n 做饭-炒冬瓜 \nread, slowly\n", encoding="utf-8")
    assert room.read_actions(f"@{file}") == ("tea", "做饭-炒冬瓜", "read, slowly")
    assert room.read_actions("") == room.read_actions("无") == ()


@pytest.mark.parametrize("text", ["a、a", "a<&b", "@/no/such/file", "a、、b"])
def test_wrong_actions_are_an_error(text):
    with pytest.raises(UserError, match="--actions"):
        room.read_actions(text)


def test_chat_keeps_turns_changes_actions_and_forgets(actor, capsys, monkeypatch):
    lines = iter(["hi", "/actions", "/actions a、a", "/actions tea", "again", "", "/reset", "new", "/quit", "never"])
    monkeypatch.setattr("builtins.input", lambda mark: next(lines))
    assert room.chat("RUN", actions="做饭-炒冬瓜") == 0
    turns = (Turn("user", "hi"), Turn("assistant", "好😀，来了。\n<&做饭-炒冬瓜&>\n[x] 吃吧"))
    assert [asked[:3] for asked in actor.asked] == [
        ("hi", ("做饭-炒冬瓜",), ()),
        ("again", ("tea",), turns),
        ("new", ("tea",), ()),
    ]
    assert "twice" in capsys.readouterr().out


def test_chat_ends_with_its_input(actor, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO("hi\n"))
    assert room.chat("RUN") == 0
    assert len(actor.asked) == 1


@pytest.mark.parametrize("flags", ["", "raw=True", "json=True"])
def test_survives_a_gbk_terminal(flags):
    code = (
        "from actune import say\nfrom actune.script.events import *\n"
        "class A:\n    dropped = {}\n    def events(self, *a): return iter([Say('好😀'), Act('做饭'), Done()])\n"
        f"say.load = lambda *a: A()\nraise SystemExit(say.say('R', 'q', {flags}))"
    )
    env = {"PYTHONIOENCODING": "gbk", "PATH": "/usr/bin", "LANG": "C.UTF-8"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=env, check=False)
    assert done.returncode == 0, done.stderr.decode("utf-8", "replace")
    out = done.stdout.decode("gbk")
    if "json" in flags:
        assert json.loads(out.splitlines()[0])["text"] == "好😀"
    else:
        assert out.startswith("好?")
        assert "做饭" in out


def test_needs_no_torch_to_import():
    code = "import sys, actune.say, actune.prompt; raise SystemExit(bool({'torch', 'transformers'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_impossible_numbers_are_all_named():
    with pytest.raises(UserError, match=r"--max-tokens, --temperature, --top-p") as caught:
        room.say("RUN", "x", how=room.How(max_tokens=0, temperature=-1, top_p=0))
    assert "0, -1, 0" in str(caught.value)
