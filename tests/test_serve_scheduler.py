from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
import torch

from actune.engine.protocol import End
from actune.script.acting import Acting
from actune.script.events import Act, Done, Fault, Say, merge, write
from actune.serve.answer import Asked
from actune.serve.job import Watch
from actune.serve.metrics import Metrics
from actune.serve.scheduler import FORCE, Busy, Scheduler, Stopping
from serve_tools import FakeActor, run

ECHO = "你好，<&wave&>好"


@contextlib.asynccontextmanager
async def scheduler(actor: FakeActor, **options) -> AsyncIterator[Scheduler]:
    started = Scheduler(actor, Metrics(), **options)
    started.start()
    yield started
    await started.stop(0.2)


def echo(request) -> str:
    return bytes(request.prompt).decode()


def test_many_answers_come_whole_in_order_and_each_to_its_own():
    actor = FakeActor(echo)

    async def one(served: Scheduler, number: int) -> None:
        script = f"{number}: 我来<&a{number}&>好了<&b&>" * (number % 5 + 1)
        answer = await served.ask(Asked(script, (f"a{number}", "b"), max_tokens=4096))
        *events, done = await answer.whole()
        assert write(events) == script
        assert not [event for event in events if isinstance(event, Fault)]
        assert done.reason == "stop"

    async def main() -> None:
        async with scheduler(actor, max_batch=7) as served:
            await asyncio.gather(*(one(served, number) for number in range(40)))
            assert (served.waiting, served.running, served._jobs) == (0, 0, {})

    run(main())
    assert actor.batches[0].largest == 7


def test_followers_read_at_their_own_pace_and_from_the_start():
    async def main() -> None:
        async with scheduler(FakeActor(echo, 0.001)) as served:
            answer = await served.ask(Asked(ECHO, ("wave",)))
            slow = [event async for event in answer.follow() if not await asyncio.sleep(0.002)]
            assert slow == answer.events == await answer.whole()
            assert list(merge(slow[:-1])) == [Say("你好，"), Act("wave", 3), Say("好")]
            assert answer.first_word_ms < answer.first_act_ms

    run(main())


def test_dropped_answer_leaves_before_the_next_step():
    actor = FakeActor("x" * 5000, 0.005)

    async def main() -> None:
        async with scheduler(actor) as served:
            gone, kept = [await served.ask(Asked("?", max_tokens=2000)) for _ in range(2)]
            while not gone.events:
                await asyncio.sleep(0.001)
            served.drop(gone)
            events = await gone.whole()
            assert events[-1].reason == "interrupted"
            # One step may have been under way.
            assert len(gone.events) <= len(kept.events) + 2
            assert list(actor.batches[0].rows) == [2]
            served.drop(kept)
            served.drop(gone)

    run(main())


def test_waiting_answer_can_be_dropped():
    actor = FakeActor("x" * 5000, 0.002)

    async def main() -> None:
        async with scheduler(actor, max_batch=1) as served:
            first = await served.ask(Asked("?", max_tokens=3000))
            second = await served.ask(Asked("?"))
            served.drop(second)
            assert await second.whole() == [Done("interrupted", None, 0)]
            served.drop(first)
        assert actor.batches[0].added == 1

    run(main())


def test_full_queue_is_refused_and_says_when_to_come_back():
    async def main() -> None:
        async with scheduler(FakeActor("x" * 5000, 0.002), max_batch=1, max_queue=2) as served:
            answers = [await served.ask(Asked("?", max_tokens=3000))]
            while not served.running:
                await asyncio.sleep(0.001)
            answers += [await served.ask(Asked("?")) for _ in range(2)]
            with pytest.raises(Busy) as busy:
                await served.ask(Asked("?"))
            assert busy.value.retry_after >= 1
            for answer in answers:
                served.drop(answer)

    run(main())


def test_late_answer_is_cut():
    async def main() -> None:
        async with scheduler(FakeActor("x" * 5000, 0.002), timeout=0.05) as served:
            *_, fault, done = await (await served.ask(Asked("?", max_tokens=3000))).whole()
            assert (fault, done.reason) == (Fault("model", "timeout"), "interrupted")

    run(main())


def test_budget_context_and_stop_words_end_an_answer():
    async def main() -> None:
        async with scheduler(FakeActor("one two three", context=12)) as served:
            for asked, text, reason in [
                (Asked("?", max_tokens=4), "one ", "length"),
                (Asked("?" * 5), "one two", "length"),
                (Asked("?" * 12), "", "length"),
                (Asked("?", stop=("two", "xx")), "one ", "stop"),
                (Asked("?", stop=("two!",), max_tokens=6), "one tw", "length"),
            ]:
                *events, done = await (await served.ask(asked)).whole()
                assert (write(events), done.reason) == (text, reason)

    run(main())


def test_failing_engine_ends_its_answers_and_serves_the_next():
    actor = FakeActor("hello")

    async def main() -> None:
        async with scheduler(actor) as served:
            await (await served.ask(Asked("?"))).whole()
            actor.batches[0].fail.append(ArithmeticError("logits"))
            assert [type(event) for event in await (await served.ask(Asked("?"))).whole()] == [Fault, Done]
            assert write(await (await served.ask(Asked("?"))).whole()) == "hello"
            actor.batches[1].add = None  # not even the joining may hang an answer
            assert (await (await served.ask(Asked("?"))).whole())[0] == Fault("model", "TypeError")
            assert write(await (await served.ask(Asked("?"))).whole()) == "hello"

    run(main())


def test_stop_lets_answers_end_then_cuts_them():
    async def main() -> None:
        served = Scheduler(FakeActor(echo, 0.002), Metrics())
        served.start()
        short = await served.ask(Asked("short"))
        endless = await served.ask(Asked("x" * 5000, max_tokens=4000))
        await served.stop(0.3)
        assert (await short.whole())[-1].reason == "stop"
        assert (await endless.whole())[-1].reason == "interrupted"
        with pytest.raises(Stopping):
            await served.ask(Asked("?"))

    run(main())


def test_what_cannot_be_rendered_takes_no_place():
    actor = FakeActor("x")
    actor.request = lambda *_: (_ for _ in ()).throw(ValueError("no"))

    async def main() -> None:
        async with scheduler(actor, max_queue=1) as served:
            for _ in range(3):
                with pytest.raises(ValueError, match="no"):
                    await served.ask(Asked("?"))

    run(main())


def test_prevented_actions_are_counted_once_each():
    watch, free, tight = Watch(), torch.tensor([True, True]), torch.tensor([True, False])
    for allowed in (free, tight, tight, free):
        watch(torch.tensor([0.0, 1.0]), allowed)
    assert watch.count == 1
    watch.acted()
    watch(torch.tensor([0.0, 1.0]), tight)
    watch(torch.tensor([1.0, 0.0]), tight)
    assert watch.count == 2


def test_forced_answer_asks_the_engine_to_begin_with_an_action():
    seen = []
    actor = FakeActor(lambda request: seen.append(request) or "<&a&>")

    async def main() -> None:
        async with scheduler(actor) as served:
            for actor.tuned, force in ((True, True), (True, False), (False, True)):
                await (await served.ask(Asked("?", ("a",), force=force))).whole()

    run(main())
    assert [request.acting and request.acting.bias for request in seen] == [FORCE, None, None]


def test_what_is_forced_comes_through_a_gate():
    seen = []
    actor = FakeActor(lambda request: seen.append(request.acting) or "<&a&>")
    made = actor.request
    actor.request = lambda *args: replace(made(*args), acting=Acting(gate=9.0, most=1))

    async def main() -> None:
        async with scheduler(actor) as served:
            for force in (True, False):
                await (await served.ask(Asked("?", ("a",), force=force))).whole()

    run(main())
    assert seen == [Acting(bias=FORCE, most=1), Acting(gate=9.0, most=1)]


def test_engine_may_say_that_an_answer_has_ended():
    async def main() -> None:
        for error, wanted in [(None, Done("length", None, 0)), (OSError("/secret"), Fault("model", "OSError"))]:
            actor = FakeActor("hello")
            async with scheduler(actor) as served:
                await (await served.ask(Asked("?"))).whole()
                batch = actor.batches[0]
                batch.step = lambda batch=batch, error=error: [(batch.added, End(error))]
                assert (await (await served.ask(Asked("?"))).whole())[0] == wanted
                batch.rows.clear()

    run(main())
