from __future__ import annotations

import pytest

from actune.data.rows import Turn
from actune.script.dialects import Spelling
from actune.serve.messages import call_id, read_messages

NATIVE = Spelling("native", ())


def call(name: str, id: str) -> dict:
    return {"id": id, "type": "function", "function": {"name": name, "arguments": "{}"}}


def test_persona_history_and_question():
    read = read_messages(
        [
            {"role": "system", "content": "You are Mei."},
            {"role": "assistant", "content": "Welcome!"},
            {"role": "user", "content": "早"},
            {"role": "assistant", "content": "早呀[animation:wave]"},
            {"role": "developer", "content": [{"type": "text", "text": "Be "}, {"type": "text", "text": "brief."}]},
            {"role": "user", "content": "饿了"},
            {"role": "user", "content": "快"},
        ],
        Spelling("aiavatarkit", ["wave"]),
    )
    assert read.persona == "You are Mei.\n\nBe brief."
    assert read.history == (Turn("user", "早"), Turn("assistant", "早呀<&wave&>"))
    assert read.question == "饿了\n快"


def test_calls_go_back_between_the_words():
    calls = [call("b", call_id(4, 2)), call("a", call_id(3, 2)), call("c", call_id(5, 4)), call("d", "call_of_another")]
    messages = [
        {"role": "user", "content": "?"},
        {"role": "assistant", "content": "好的没问题", "tool_calls": calls},
        {"role": "tool", "tool_call_id": calls[0]["id"], "content": "done"},
    ]
    read = read_messages([*messages, {"role": "user", "content": "!"}], NATIVE)
    assert read.history[1].text == "好的<&a&><&b&>没问<&c&>题<&d&>"
    assert read.calls == 4
    # A client that runs tools comes back with their results: there is nothing to add.
    assert read_messages(messages, NATIVE).question is None
    assert read_messages([messages[0], messages[1] | {"content": None}], NATIVE).history[1].text == (
        "<&a&><&b&><&c&><&d&>"
    )


def test_what_cannot_be_read_is_refused():
    with pytest.raises(ValueError, match="image_url"):
        read_messages([{"role": "user", "content": [{"type": "image_url"}]}], NATIVE)
    with pytest.raises(ValueError, match="user"):
        read_messages([{"role": "system", "content": "x"}], NATIVE)
