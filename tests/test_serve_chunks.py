from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from actune.script.events import Act, Done, Say, merge
from actune.serve.chunks import sentences
from actune.serve.stops import Stops


def pieces(text: str) -> list[str]:
    return [event.text for event in sentences([Say(text), Done()]) if isinstance(event, Say)]


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("我来做饭。好了！", ["我来做饭。", "好了！"]),
        ("好的，我来，做饭。好了，吃吧。", ["好的，", "我来，做饭。", "好了，吃吧。"]),
        ("他说：“好。”然后走了。", ["他说：", "“好。”", "然后走了。"]),
        ("Pi is 3.14, e.g. here. Yes!? No", ["Pi is 3.14,", " e.g.", " here.", " Yes!?", " No"]),
        ("one\ntwo\n\nthree", ["one\n", "two\n\n", "three"]),
        ("\n  Hi. there", ["\n  Hi.", " there"]),
    ],
)
def test_cuts_are_at_the_ends_of_sentences(text, wanted):
    assert pieces(text) == wanted


def test_words_before_an_action_come_before_it():
    events = [Say("我来"), Act("a", 2), Say("做"), Say("饭。好"), Act("b", 6), Done()]
    assert sentences(events) == [Say("我来"), Act("a", 2), Say("做饭。"), Say("好"), Act("b", 6), Done()]


events = st.lists(st.text("a好。.,，”! \n", max_size=6).map(Say) | st.just(Act("x")), max_size=12)


@given(events)
def test_nothing_is_lost_doubled_or_moved(stream):
    assert list(merge(sentences([*stream, Done()]))) == list(merge([*stream, Done()]))


@given(events, st.lists(st.text("a好。 ", min_size=1, max_size=3), max_size=3))
def test_stop_words_cut_at_the_first_one_however_the_stream_is_cut(stream, words):
    def cut(stream) -> list:
        stops = Stops(words)
        return list(merge([*stops.feed(stream), *stops.close()]))

    assert cut(stream) == cut(list(merge(stream)))
    assert not any(word in event.text for event in cut(stream) if isinstance(event, Say) for word in words)
    if not any(word in event.text for event in merge(stream) if isinstance(event, Say) for word in words):
        assert cut(stream) == list(merge(stream))
