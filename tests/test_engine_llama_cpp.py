"""llama.cpp for real, asked through its own server: it reads our prompts, and what it does is on the list."""

from __future__ import annotations

from pathlib import Path

import pytest

from actune.actor import Actor, load_actor
from actune.base.bundled import bundled
from actune.base.load import load_tokenizer
from actune.data.rows import Turn
from actune.engine.llama_cpp import start_llama
from actune.errors import UserError
from actune.export.cached import cached_gguf
from actune.found import find
from actune.script.events import Act, Done, Fault, Say

pytest.importorskip("xllamacpp")
pytestmark = [
    pytest.mark.slow,
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


@pytest.fixture(scope="module")
def engine():
    tokenizer = load_tokenizer(bundled("smollm2").folder)
    return start_llama(cached_gguf(find("smollm2"), dtype="f32"), tokenizer, [2])


def written(actor: Actor, turn: int, **how) -> list:
    """Events of an answer with nothing dropped, for wishes that tempt to write tags."""
    names = NAMES[turn % 4 :] if turn % 10 else ()
    request = actor.request(WISHES[turn % len(WISHES)], names, PAST, **how)
    reader = actor.reader(names, keep=True)
    return [event for token in actor.engine.stream(request) for event in reader.feed(token)] + reader.close()


def test_fifty_answers_hold_no_unlisted_action(engine) -> None:
    actor, free = Actor(engine), Actor(engine, free=True)
    acts, kinds, wild = 0, set(), 0
    for turn in range(50):
        how = {"max_tokens": 32, "temperature": 1.0, "seed": turn}
        events = written(actor, turn, **how)
        acts += sum(isinstance(event, Act) for event in events)
        kinds |= {event.kind for event in events if isinstance(event, Fault)}
        if turn % 5 == 2:  # the wish for a tag that is not listed
            wild += any(isinstance(event, Fault) and event.kind != "unclosed" for event in written(free, turn, **how))
    # A tag that the budget cuts off is not closed by llama.cpp; it is dropped.
    assert kinds <= {"unclosed"}
    assert acts > 0
    assert wild > 0, "else the test does not tempt it"


def test_it_writes_what_transformers_writes(engine) -> None:
    local = load_actor("smollm2", dtype="fp32")
    for turn in range(1, 6):
        texts = [
            "".join(event.text for event in written(actor, turn, max_tokens=24) if isinstance(event, Say))
            for actor in (local, Actor(engine))
        ]
        assert texts[0] == texts[1]


def test_many_at_once_are_the_same_as_one_after_the_other(engine) -> None:
    actor = Actor(engine)
    requests = [actor.request(wish, NAMES, max_tokens=12) for wish in WISHES]
    alone = [b"".join(token for token in engine.stream(one) if isinstance(token, bytes)) for one in requests]
    together = engine.generate(requests, 4)
    assert [b"".join(token for token in one if isinstance(token, bytes)) for one in together] == alone


def test_a_stop_is_a_stop(engine) -> None:
    *_, done = Actor(engine).events("Say just: yes", (), max_tokens=200)
    assert isinstance(done, Done)
    assert done.reason == "stop"


def test_a_file_that_is_no_gguf_is_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(b"no")
    with pytest.raises(UserError, match=r"bad\.gguf"):
        start_llama(bad, load_tokenizer(bundled("smollm2").folder), [2])
