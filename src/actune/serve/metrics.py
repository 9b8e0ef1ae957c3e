"""What the server counts, for Prometheus."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from actune.script.events import Act, Event, Fault
from actune.serve.answer import Answer

_SECONDS = (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 60)


class Metrics:
    """One server's numbers."""

    def __init__(self) -> None:
        self.registry = registry = CollectorRegistry()
        self.answers = Counter("actune_answers", "Answers that have ended.", ["finish_reason"], registry=registry)
        self.refused = Counter("actune_refused", "Questions refused because the queue was full.", registry=registry)
        self.tokens = Counter("actune_tokens", "Tokens of the answers.", registry=registry)
        self.prompt_tokens = Counter("actune_prompt_tokens", "Tokens of the prompts.", registry=registry)
        self.actions = Counter("actune_actions", "Actions performed.", registry=registry)
        self.faults = Counter("actune_faults", "Pieces of answers that are no script.", ["kind"], registry=registry)
        self.prevented = Counter(
            "actune_prevented_actions", "Times a model would have left the list of actions.", registry=registry
        )
        self.word = Histogram(
            "actune_first_word_seconds", "From question to first word.", registry=registry, buckets=_SECONDS
        )
        self.act = Histogram(
            "actune_first_action_seconds", "From question to first action.", registry=registry, buckets=_SECONDS
        )
        self.rate = Gauge("actune_tokens_per_second", "Speed of the last answer.", registry=registry)

    def watch(self, name: str, text: str, value: Callable[[], float]) -> None:
        """Report a number that is asked for when it is read."""
        Gauge(name, text, registry=self.registry).set_function(value)

    def count(self, events: Iterable[Event]) -> None:
        """Count what came."""
        for event in events:
            if isinstance(event, Act):
                self.actions.inc()
            elif isinstance(event, Fault):
                self.faults.labels(event.kind).inc()

    def end(self, answer: Answer, seconds: float) -> None:
        """Count an answer that has ended after so many seconds."""
        done = answer.done
        if done is None:
            return
        self.answers.labels(done.reason).inc()
        self.tokens.inc(done.tokens or 0)
        self.prompt_tokens.inc(answer.prompt_tokens)
        self.prevented.inc(answer.prevented)
        if answer.first_word_ms is not None:
            self.word.observe(answer.first_word_ms / 1000)
        if answer.first_act_ms is not None:
            self.act.observe(answer.first_act_ms / 1000)
        if done.tokens and seconds > 0:
            self.rate.set(done.tokens / seconds)

    def text(self) -> bytes:
        """Return all in Prometheus' text format."""
        return generate_latest(self.registry)
