from __future__ import annotations

from actune.reader import Reader
from actune.script.events import Act, Done, Fault, Say

BYTES = [b" Tea", b"<&", b"te", b"a", b"&>", None, b" <"]
STOP = 5


def read(*tokens: int, blank: bool = False) -> list:
    reader = Reader(BYTES, [STOP], ("tea",), blank)
    return [event for token in tokens for event in reader.feed(token)]


def test_feed_gives_what_a_token_completes():
    assert read(0, 1, 2, 3) == [Say(" Tea")]
    assert read(0, 1, 2, 3, 4) == [Say(" Tea"), Act("tea", 4)]
    assert read(0, 0, blank=True) == [Say("Tea"), Say(" Tea")]


def test_nothing_is_read_beyond_a_stop():
    reader = Reader(BYTES, [STOP], (), False)
    assert [reader.feed(token) for token in (0, STOP, 0)] == [[Say(" Tea")], [], []]
    [done] = reader.close()
    assert (done.reason, done.tokens) == ("stop", 2)
    assert done.ttft_ms is not None


def test_close_gives_what_was_held_back_and_why_it_ended():
    def close(**why) -> list:
        reader = Reader(BYTES, [STOP], (), False)
        reader.feed(6)
        *events, done = reader.close(**why)
        return [*events, done.reason]

    assert close() == [Say("<"), "length"]
    assert close(interrupted=True) == [Say("<"), "interrupted"]
    assert close(failure="nan") == [Fault("model", "nan"), Say("<"), "interrupted"]
    assert Reader(BYTES, [STOP], (), False).close() == [Done("length", None, 0)]
