from __future__ import annotations

import json
import re

import pytest

from actune.script.dialects import DIALECTS, Spelling
from actune.script.events import Act, Event, Fault, Say, merge
from actune.script.parser import parse

NAMES = ("做饭-炒冬瓜", "wave", "表情-joy", "face-happy", "odd|>[name]", "odd_name", "odd-name", "WAVE")
EVENTS: list[Event] = [
    Say("我来做饭"),
    Act("做饭-炒冬瓜", 4),
    Say("\n好了。"),
    Act("face-happy", 8),
    Act("odd-name", 8),
]


def spell(dialect, events, names=NAMES) -> str:
    spelling, text = Spelling(dialect, names), ""
    for event in events:
        text += spelling.write(event, text)
    return text


def test_spellings_are_the_runtimes_own():
    assert spell("native", EVENTS) == "我来做饭<&做饭-炒冬瓜&>\n好了。<&face-happy&><&odd-name&>"
    assert spell("aiavatarkit", EVENTS) == "我来做饭[animation:做饭_炒冬瓜]\n好了。[face:happy][animation:odd_name_2]"
    # The tag stands behind a sentence's end, else its sentence would be shown first.
    assert spell("olv", EVENTS) == "我来做饭\n[做饭-炒冬瓜]\n好了。[happy]\n[odd-name]"
    assert spell("airi", EVENTS) == (
        '我来做饭<|CALL ["做饭-炒冬瓜"]|>\n好了。<|ACT {"emotion":{"name":"happy","intensity":1}}|>'
        '<|CALL ["odd-name"]|>'
    )
    assert spell("none", EVENTS) == "我来做饭\n好了。"


@pytest.mark.parametrize("dialect", [dialect for dialect in DIALECTS if dialect != "none"])
def test_what_is_written_is_read_back(dialect):
    events = [*EVENTS, *(Act(name) for name in NAMES)]
    spelling = Spelling(dialect, NAMES)
    script = spelling.read(spell(dialect, events))
    acts = [event.name for event in parse(script, NAMES) if isinstance(event, Act)]
    assert acts == [event.name for event in events if isinstance(event, Act)]
    if dialect != "olv":  # It may have got line breaks.
        assert [e for e in parse(script) if isinstance(e, Say)] == [e for e in merge(events) if isinstance(e, Say)]


def test_every_tag_is_what_the_runtime_looks_for():
    kit = re.compile(r"\[(?:animation|face):(\w+)\]")  # aiavatar/adapter/base.py, control_tag_pattern
    tags = [Spelling("aiavatarkit", NAMES).tag(name) for name in NAMES]
    assert all(kit.fullmatch(tag) for tag in tags)
    assert len(set(tags)) == len(NAMES)
    assert Spelling("aiavatarkit", NAMES).aliases["做饭-炒冬瓜"] == "做饭_炒冬瓜"
    assert "wave" not in Spelling("aiavatarkit", NAMES).aliases
    [call] = json.loads(Spelling("airi", NAMES).tag("odd|>[name]").removeprefix("<|CALL ").removesuffix("|>"))
    assert call == "odd|>[name]"
    assert Spelling("airi", NAMES).tag("odd|>[name]").index("|>") == len(Spelling("airi", NAMES).tag("odd|>[name]")) - 2


def test_words_cannot_perform():
    words = Say("""[animation:fly] [wave] <animation name="fly"/> <|CALL ["fly"]|> <{'|'}ACT {}|>""")
    kit = spell("aiavatarkit", [words])
    assert "[" not in kit
    assert "<" not in kit
    assert "[" not in spell("olv", [words])
    assert "|" not in spell("airi", [words])


def test_fault_is_only_written_natively():
    fault = Fault("unlisted", "<&fly&>")
    assert [spell(dialect, [fault]) for dialect in DIALECTS] == ["<&fly&>", "", "", "", ""]


def test_history_with_other_names_is_read_where_it_can_be():
    assert Spelling("aiavatarkit", ()).read("好[animation:跳舞][face:joy][note:x]") == "好<&跳舞&><&joy&>[note:x]"
    assert Spelling("airi", ()).read('a<|CALL ["dance", {"k":1}]|>b<|DELAY 1|><|ACT:{"emotion":"sad"}|><|CALL x|>') == (
        "a<&dance&>b<&emotion-sad&><|CALL x|>"
    )
    assert Spelling("olv", ("wave",)).read("[note] [WAVE]") == "[note] <&wave&>"
    assert Spelling("none", ("wave",)).read("[wave]") == "[wave]"
