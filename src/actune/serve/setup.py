"""Load what a server serves."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from actune.errors import UserError, either
from actune.found import ADAPTER, base_of
from actune.say import MAX_TOKENS, How, load
from actune.script.dialects import Dialect
from actune.serve.house import Defaults, House
from actune.serve.metrics import Metrics
from actune.serve.scheduler import Scheduler
from actune.tune.run import read_manifest

if TYPE_CHECKING:
    from actune.actor import Actor
    from actune.serve.options import Load

BASE, TUNED = "base", "tuned"


def make_house(
    run: str, how: How, limits: Load, *, names: tuple[str, ...], dialect: Dialect, name: str, compare: bool
) -> House:
    """Load the actor, and its base where both shall be compared; see `command.serve`.

    Raises:
        UserError: See `actor.load_actor`; or there is no base to compare with.
    """
    known = name or Path(run).resolve().name
    if compare:
        if how.engine == "upstream":
            raise UserError(
                "--compare",
                "--engine upstream",
                either(
                    "an engine of our own: a server would answer with one model for both",
                    "本机引擎: 服务器上是同一个模型",
                ),
                either("use --engine local or llama_cpp", "用 --engine local 或 llama_cpp"),
            )
        if not (Path(run) / ADAPTER).is_file():
            raise UserError(
                "--compare",
                either(f"no adapter in {run}", f"{run} 中没有适配器"),
                either("a run, whose base is known", "基座已知的训练结果"),
                either("leave --compare out", "去掉 --compare"),
            )
        base = base_of(read_manifest(Path(run)), how.base)
    actors: dict[str, Actor] = {TUNED if compare and known == BASE else known: load(run, how)}
    if compare:
        # Whatever runs the tuned one, the base is a folder on this machine.
        actors[BASE] = load(str(base.path), replace(how, base=None, engine="local", url="", model=""))
    metrics = Metrics()
    dropped = "Tags that the engine's constraint did not prevent, and that were left out."
    metrics.watch("actune_dropped_tags", dropped, lambda: sum(actor.dropped.total() for actor in actors.values()))
    models = {
        key: Scheduler(actor, metrics, limits.max_batch, limits.max_queue, limits.timeout)
        for key, actor in actors.items()
    }
    defaults = Defaults(names, how.persona, dialect, how.max_tokens or MAX_TOKENS, how.temperature, how.top_p, how.seed)
    return House(models, defaults, metrics)
