"""Another engine by an option: what is loaded, what is said to be lost, and what never gets through."""

from __future__ import annotations

import asyncio
import json
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from actune import bench, contender, say
from actune.actor import load_actor
from actune.engines import load_elsewhere
from actune.errors import UserError
from actune.evaluate.command import evaluate
from actune.export import cached
from actune.found import find
from actune.say import How
from actune.script.events import Act, Fault
from actune.serve.answer import Asked
from actune.serve.options import Load
from actune.serve.setup import make_house
from fake_server import Plan, fake_server

WILD = ("Hot. <&做饭-", "炒冬瓜&><&fly-away&>", " Done<&wave")


@pytest.fixture
def wild(tiny_base: Path):
    """A server without a constraint whose model writes an action of the list, one that is not, and half a one."""
    plan = Plan("library", pieces=WILD, vocabulary=AutoTokenizer.from_pretrained(tiny_base))
    with fake_server(plan) as url:
        yield How(engine="upstream", url=url)


def test_say_performs_what_is_listed_and_tells_of_the_rest(wild: How, tiny_base: Path, capsys) -> None:
    assert say.say(str(tiny_base), "饿了", actions="做饭-炒冬瓜、wave", raw=True, how=wild) == 0
    out, err = capsys.readouterr()
    assert out == "Hot. <&做饭-炒冬瓜&> Done\n"
    assert "unlisted 1" in err
    assert "unclosed 1" in err
    assert "unlisted actions are possible" in err


def test_eval_counts_what_was_dropped_and_leaves_out_what_it_cannot_see(
    wild: How, tiny_base: Path, tmp_path: Path
) -> None:
    table = tmp_path / "rows.jsonl"
    row = {"actions": ["做饭-炒冬瓜", "wave"], "question": "饿了", "answer": "<&做饭-炒冬瓜&>"}
    table.write_text(json.dumps(row) + "\n", encoding="utf-8")
    evaluate(str(tiny_base), [table], out=tmp_path / "out", how=wild)
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["about"]["systems"]["base"]["dropped"] == {"unlisted": 1, "unclosed": 1}
    assert report["about"]["systems"]["base"]["lost"]
    scores = report["scores"]["base"]
    assert scores["exact_act"]["value"] == 1
    assert scores["ppl"]["value"] is None
    assert scores["prevented_count"]["value"] is None
    with pytest.raises(UserError, match="--against"):
        evaluate(str(tiny_base), [table], against=str(tiny_base), out=tmp_path / "two", how=wild)


def test_options_that_another_engine_cannot_follow_are_refused(tiny_base: Path) -> None:
    with pytest.raises(UserError, match="--unmerged, --dtype"):
        load_elsewhere(str(tiny_base), How(engine="llama_cpp", unmerged=True, dtype="bf16"))
    with pytest.raises(UserError, match="no --url"):
        load_elsewhere(str(tiny_base), How(engine="upstream"))


def test_a_gguf_is_made_once_for_the_same_weights(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def make(model: Path, out: Path, dtype: str) -> Path:
        made.append((model, dtype))
        out.write_bytes(b"GGUF")
        return out

    monkeypatch.setattr(cached, "make_gguf", make)
    monkeypatch.setenv("ACTUNE_CACHE", str(tmp_path))
    first = cached.cached_gguf(find(tiny_base))
    assert cached.cached_gguf(find(tiny_base)) == first
    assert made == [(tiny_base, "q8_0")]
    other = shutil.copytree(tiny_base, tmp_path / "other")
    weights = (other / "model.safetensors").read_bytes()
    (other / "model.safetensors").write_bytes(weights[:-1] + bytes([weights[-1] ^ 1]))
    assert cached.cached_gguf(find(other)) != first


def test_bench_gives_medians_and_ratios_within_a_round() -> None:
    figures = {
        "base": {"tokens_per_s": [10.0, 20.0, 40.0], "cold_ms": [100.0, 200.0, 50.0], "warm_ms": [10.0, 20.0, 10.0]},
        "apart": {"tokens_per_s": [8.0, 16.0, 20.0], "cold_ms": [100.0, 100.0, 100.0], "warm_ms": [50.0, 50.0, 25.0]},
    }
    rows = bench.summary(figures)
    assert rows["base"]["of_first"] == 1
    assert rows["apart"] == {"tokens_per_s": 16.0, "cold_ms": 100.0, "warm_ms": 50.0, "of_first": 0.8, "sooner": 2.0}
    assert rows["base"]["sooner"] == 10.0


def test_bench_counts_every_token_of_transformers_own_loop(tiny_base: Path) -> None:
    actor = load_actor(tiny_base)
    request = actor.request("饿了", ("a-b",), max_tokens=7)
    came = contender.generated(actor.local.model, request)
    assert len(came) == 7
    assert came == sorted(came)


def test_bench_measures_every_way_to_run_it(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setattr(bench.importlib.util, "find_spec", lambda name: None)
    bench.bench(str(tiny_base), rounds=2, tokens=5, out=tmp_path / "bench.json")
    report = json.loads((tmp_path / "bench.json").read_text(encoding="utf-8"))
    assert list(report["figures"]) == ["base", "generate"]
    assert all(len(each) == 2 and min(each) > 0 for one in report["figures"].values() for each in one.values())
    about = report["about"]
    assert about["dtype"] == "float32"
    assert 0 < about["prefix_tokens"] < about["prompt_tokens"]
    assert "tokens/s" in capsys.readouterr().out
    with pytest.raises(UserError, match="--rounds"):
        bench.bench(str(tiny_base), rounds=0)


@pytest.mark.parametrize(
    ("pieces", "finish", "end"),
    [(WILD, "stop", ["stop"]), (WILD, "length", ["length"]), ((*WILD, None), "stop", ["model", "interrupted"])],
)
def test_serve_ends_answers_of_another_engine(pieces, finish: str, end: list[str], tiny_base: Path) -> None:
    plan = Plan("library", pieces=pieces, finish=finish, vocabulary=AutoTokenizer.from_pretrained(tiny_base))

    async def asked(url: str) -> list:
        how = How(engine="upstream", url=url)
        house = make_house(str(tiny_base), how, Load(), names=(), dialect="native", name="mei", compare=False)
        [scheduler] = house.models.values()
        scheduler.start()
        answers = [await scheduler.ask(Asked("饿了", ("做饭-炒冬瓜", "wave"))) for _ in range(3)]
        events = [await answer.whole() for answer in answers]
        await scheduler.stop(1)
        assert b"actune_dropped_tags 6.0" in house.metrics.text() or end[0] == "model"
        return events

    with fake_server(plan) as url:
        for events in asyncio.run(asked(url)):
            assert [event.name for event in events if isinstance(event, Act)] == ["做饭-炒冬瓜"]
            assert [event.kind for event in events if isinstance(event, Fault)] + [events[-1].reason] == end
