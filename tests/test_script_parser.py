import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actune.script.events import Act, Done, Event, Fault, Say, from_json, merge, to_json, write
from actune.script.parser import MAX_NAME, Parser, parse

# Pieces that meet at every border of the language, and any text at all.
PIECES = st.sampled_from(["<", "&", ">", "<&", "&>", "<<&", "a", "炒冬瓜", "😀", " ", "\n", "<&a&>", "<&a<&>", "\x00"])
SCRIPTS = st.lists(PIECES | st.text(max_size=3), max_size=25).map("".join)
LONG = st.integers(MAX_NAME - 4, MAX_NAME + 4).map(lambda n: "x" * n)
LONG_SCRIPTS = st.tuples(SCRIPTS, st.just("<&"), LONG, SCRIPTS).map("".join)


def events_of(chunks: list[str | bytes], names: tuple[str, ...] | None = None) -> list[Event]:
    parser = Parser(names)
    events = [event for chunk in chunks for event in parser.feed(chunk)]
    return list(merge(events + parser.close()))


def cut(whole: str | bytes, places: list[int]) -> list[str | bytes]:
    borders = [0, *sorted(place % (len(whole) + 1) for place in places), len(whole)]
    return [whole[a:b] for a, b in itertools.pairwise(borders)]


def test_example_is_read() -> None:
    script = "我来做饭。\n<&做饭-炒冬瓜&>\n炒冬瓜香喷四溢。"
    assert parse(script) == [Say("我来做饭。\n"), Act("做饭-炒冬瓜", 6), Say("\n炒冬瓜香喷四溢。")]


@pytest.mark.parametrize(
    ("script", "wanted"),
    [
        ("", []),
        ("<", [Say("<")]),
        ("a < b & c &> d", [Say("a < b & c &> d")]),
        ("<<&a&>", [Say("<"), Act("a", 1)]),
        ("<&&>", [Fault("empty", "<&&>")]),
        ("<& &>", [Fault("empty", "<& &>")]),
        ("<& a&>", [Fault("name", "<& a&>")]),
        ("<&a\nb&>", [Fault("name", "<&a\nb&>")]),
        ("<&a", [Fault("unclosed", "<&a")]),
        ("<&a&", [Fault("unclosed", "<&a&")]),
        ("<&a<&", [Fault("unclosed", "<&a<&")]),
        ("<&a<&b&>", [Fault("nested", "<&a"), Act("b")]),
        ("<&a<&>", [Act("a<")]),
        ("<&a<&>b&>", [Act("a<"), Say("b&>")]),
        ("<&a&&>", [Act("a&")]),
        ("<&>a&>", [Act(">a")]),
        ("x<&no&>", [Say("x"), Fault("unlisted", "<&no&>", 1)]),
    ],
)
def test_borders_of_the_language(script: str, wanted: list[Event]) -> None:
    names = ("a", "b", "a<", "a&", ">a")
    assert parse(script, names) == wanted
    assert events_of(list(script), names) == wanted


@given(SCRIPTS | LONG_SCRIPTS, st.lists(st.integers(0, 10_000), max_size=8))
def test_events_do_not_depend_on_the_cuts(script: str, places: list[int]) -> None:
    wanted = parse(script, ("a", "炒冬瓜"))
    assert events_of(list(script), ("a", "炒冬瓜")) == wanted
    assert events_of(cut(script, places), ("a", "炒冬瓜")) == wanted
    try:
        data = script.encode()
    except UnicodeEncodeError:
        return
    assert events_of([bytes((byte,)) for byte in data], ("a", "炒冬瓜")) == wanted
    assert events_of(cut(data, places), ("a", "炒冬瓜")) == wanted


@given(
    st.lists(
        st.sampled_from([b"<&", b"&>", b"a", b"\xe7", b"\x82", b"\x92", b"\xff", b"\xf0\x9f", b"\xed", b"\xa0"])
    ).map(b"".join)
)
def test_broken_bytes_do_not_depend_on_the_cuts(data: bytes) -> None:
    assert events_of([bytes((byte,)) for byte in data]) == events_of([data])
    assert write(events_of([data])) == data.decode("utf-8", "replace")


@pytest.mark.parametrize("extra", range(-3, 4))
@pytest.mark.parametrize("tail", ["&>", "<&b&>", "<&>", "&", "<", ""])
def test_length_limit_does_not_depend_on_the_cuts(extra: int, tail: str) -> None:
    script = "<&" + "x" * (MAX_NAME + extra) + tail
    whole = parse(script)
    assert events_of(list(script)) == whole
    assert write(whole) == script
    if tail == "&>":
        assert (whole[0] == Act("x" * (MAX_NAME + extra))) == (extra <= 0)


@given(SCRIPTS | LONG_SCRIPTS | st.text())
def test_writing_what_was_read_gives_it_back(script: str) -> None:
    assert write(parse(script)) == script
    assert write(parse(script, ())) == script


@given(SCRIPTS)
def test_positions_count_the_characters_said(script: str) -> None:
    said = 0
    for event in parse(script):
        if isinstance(event, Say):
            said += len(event.text)
        else:
            assert not isinstance(event, Done)
            assert event.char == said


def test_words_are_not_held_back() -> None:
    parser = Parser()
    assert parser.feed("你好 <") == [Say("你好 ")]
    assert parser.feed("3") == [Say("<3")]
    assert parser.feed("炒".encode()[:2]) == []
    assert parser.feed("炒".encode()[2:]) == [Say("炒")]
    assert parser.feed("<&a&>") == [Act("a", 6)]


def test_endless_tag_does_not_hold_back_the_stream() -> None:
    parser = Parser()
    assert parser.feed("<&" + "x" * (MAX_NAME + 2)) == [Fault("unclosed", "<&" + "x" * MAX_NAME), Say("xx")]
    assert parser.feed("y") == [Say("y")]


def test_text_after_half_a_character_keeps_its_place() -> None:
    assert events_of([b"\xe7", "", b"\x82\x92", "b"]) == [Say("炒b")]
    assert events_of([b"\xe7", "b"]) == [Say("\ufffdb")]


NUMBERS = st.none() | st.floats(0, 1e9) | st.integers(0, 10**6).map(float)
EVENTS = st.one_of(
    st.builds(Say, st.text()),
    st.builds(Act, st.text(), st.integers(0)),
    st.builds(Fault, st.sampled_from(["unclosed", "empty", "nested", "name", "unlisted", "model"]), st.text()),
    st.builds(Done, st.sampled_from(["stop", "length", "interrupted"]), NUMBERS, st.none() | st.integers(0)),
)


@given(EVENTS, st.integers(0))
def test_json_round_trip(event: Event, seq: int) -> None:
    wire = json.loads(json.dumps(to_json(event, seq), ensure_ascii=False))
    assert from_json(wire) == event
    assert wire["seq"] == seq


def test_json_form_is_the_documented_one() -> None:
    assert to_json(Say("你"), 0) == {"seq": 0, "type": "text", "text": "你"}
    act = {"seq": 1, "type": "action", "name": "a", "args": None, "at": {"char": 1}}
    assert to_json(Act("a", 1), 1) == act
    done = {"seq": 2, "type": "done", "finish_reason": "stop", "ttft_ms": None, "tokens": 3}
    assert to_json(Done(tokens=3), 2) == done
    error = {"seq": 3, "type": "error", "kind": "empty", "raw": "<&&>", "at": {"char": 0}}
    assert to_json(Fault("empty", "<&&>"), 3) == error
    with pytest.raises(ValueError, match="unknown event type"):
        from_json({"type": "other"})
