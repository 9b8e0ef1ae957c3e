"""What is scored: a run, a merged folder or a base, alone or beside another."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

from peft import PeftModel

from actune.actor import Actor, fold
from actune.engine.local import LocalEngine
from actune.engine.prefix import PrefixStore
from actune.errors import UserError, either
from actune.found import base_of
from actune.prompt import PromptFormat
from actune.say import How, load
from actune.tune.run import MANIFEST, read_manifest

if TYPE_CHECKING:
    from actune.tune.run import Manifest

# Room for some prompts: all of a language begin alike.
PREFIX_MB = 64

Kind = Literal["base", "adapter", "merged"]


@dataclass
class System:
    """Something that is scored.

    Args:
        name: `base`, `tuned`, or the second run's.
        given: What the user named.
        actor: What answers; two systems may share it.
        kind: What it is.
        shared: It is the base within an actor that has an adapter.
    """

    name: str
    given: str
    actor: Actor
    kind: Kind
    shared: bool = False

    def on(self) -> AbstractContextManager[object]:
        """Make the actor's engine this system's for a while."""
        engine = self.actor.engine
        if isinstance(engine, LocalEngine):
            # Keys and values that another system has computed in the same engine are wrong for this one.
            engine.prefixes = PrefixStore(PREFIX_MB)
        if not self.shared:
            return nullcontext()
        model: Any = self.actor.local.model
        return cast(AbstractContextManager[object], model.disable_adapter())

    def fold(self) -> None:
        """Fold the adapter into the weights; systems that share the actor are of no more use."""
        engine = self.actor.engine
        if isinstance(engine, LocalEngine) and isinstance(engine.model, PeftModel):
            engine.model = fold(engine.model)


def load_systems(run: str, against: str | None, how: How) -> list[System]:
    """Load what is scored.

    Args:
        run: A run, a checkpoint, a merged folder or a base.
        against: `base`, another of these, or None.
        how: How it is loaded. Adapters stay apart for now.

    Returns:
        The first system, and the second if there is one. `base` shares the model of a run that has its adapter apart.

    Raises:
        UserError: Something cannot be loaded, or a base has no base to be compared with.
    """
    first = _load(run, "tuned", how)
    if against is None:
        return [first]
    if how.engine == "upstream":
        raise UserError(
            "--against",
            f"--engine upstream --model {how.model}".rstrip(),
            either("one model at a time: both would be asked from the same one", "一次一个模型: 两者会来自同一模型"),
            either("evaluate each by itself", "分别评测"),
        )
    if against != "base":
        name = Path(against).name
        return [first, _load(against, name if name != first.name else f"{name}-2", how)]
    return [first, _base_beside(first, how)]


def base_within(system: System) -> System | None:
    """Return the base of a system whose adapter is apart."""
    if system.kind != "adapter":
        return None
    manifest = read_manifest(Path(system.given))
    return replace(system, name="base", given=str(manifest.base["id"]), kind="base", shared=True)


def manifest_of(given: str) -> Manifest | None:
    """Read the manifest of what the user named; a base has none."""
    folder = Path(given)
    there = any((place / MANIFEST).is_file() for place in (folder, folder.parent))
    return read_manifest(folder) if folder.is_dir() and there else None


def _load(given: str, name: str, how: How) -> System:
    local = how.engine == "local"
    actor = load(given, replace(how, unmerged=local, free=False))
    if local and isinstance(actor.local.model, PeftModel):
        return System(name, given, actor, "adapter")
    if manifest_of(given) is not None:
        return System(name, given, actor, "merged")
    return System("base" if name == "tuned" else name, given, actor, "base")


def _base_beside(system: System, how: How) -> System:
    if within := base_within(system):
        return within
    manifest = manifest_of(system.given)
    if manifest is None:
        raise UserError(
            "--against base",
            either(f"{system.given} is a base itself", f"{system.given} 本身就是基座"),
            either("a run or a merged folder to compare with its base", "训练结果或合并后的文件夹"),
            either("leave it out", "不填即可"),
        )
    source = base_of(manifest, how.base)
    base = load(str(source.path), replace(how, base=None, free=False))
    # The same prompts for both: else the format would be compared, not the training.
    return System("base", str(source.path), Actor(base.engine, PromptFormat.from_dict(manifest.prompt)), "base")
