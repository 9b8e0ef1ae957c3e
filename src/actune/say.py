"""Commands that let an actor speak: one question, or a chat. Needs no torch until they run."""

from __future__ import annotations

import io
import json as json_module
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.text import Text

from actune.data.rows import Turn
from actune.errors import UserError, either
from actune.script.catalogue import SEPARATOR, catalogue, split_names
from actune.script.events import Act, Done, Event, Fault, Say, to_json, write

if TYPE_CHECKING:
    from actune.actor import Actor


def read_actions(actions: str) -> tuple[str, ...]:
    """Read a catalogue as commands take it.

    Args:
        actions: Names joined by ``、``, or ``@FILE`` with one name a line.

    Raises:
        UserError: The file cannot be read, or a name is not allowed.
    """
    names = split_names(actions)
    if actions.startswith("@"):
        try:
            text = Path(actions[1:]).read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            fix = either("check the path, save it as UTF-8", "检查路径, 另存为 UTF-8")
            raise UserError(
                "--actions", str(error), either("a file, one action a line", "文件, 每行一个动作"), fix
            ) from error
        names = [line.strip() for line in text.splitlines() if line.strip()]
    try:
        return catalogue(names)
    except ValueError as error:
        wanted = either("different names without <&, &> and line breaks", "互不相同的名称, 不含 <&, &> 和换行")
        raise UserError("--actions", str(error), wanted, either("correct the list", "修改列表")) from error


def say(
    run: str,
    question: str,
    *,
    actions: str = "",
    persona: str = "",
    json: bool = False,
    raw: bool = False,
    free: bool = False,
    unmerged: bool = False,
    base: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    max_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> int:
    """Ask one question and print the words as they come, with the actions marked.

    Args:
        run: A run, a checkpoint, a merged folder, or a base.
        question: What you say.
        actions: What can be done now: names joined by 、 or @FILE with one a line.
        persona: Text put before the system text.
        json: Print events, one JSON object a line.
        raw: Print the script as the model wrote it.
        free: Lift the constraint.
        unmerged: Keep the adapter apart.
        base: Where the run's base is now, if it moved.
        device: Where to run.
        dtype: Number format of the weights.
        max_tokens: Budget of the answer.
        temperature: 0 is greedy.
        top_p: Share of the probability that sampling may choose from.
        seed: Of the sampling.

    Returns:
        Exit status: 0, or 1 if the model failed.

    Raises:
        UserError: See `read_actions` and `actor.load_actor`.
    """
    names = read_actions(actions)
    survive(sys.stdout)
    actor = _load(run, base, device, dtype, free, unmerged)
    events = actor.events(question, names, (), persona, max_tokens, temperature, top_p, seed)
    seen = list(show(events, json=json, raw=raw))
    return int(any(isinstance(event, Fault) and event.kind == "model" for event in seen))


def chat(
    run: str,
    *,
    actions: str = "",
    persona: str = "",
    free: bool = False,
    unmerged: bool = False,
    base: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    max_tokens: int = 256,
    temperature: float = 0.0,
    top_p: float = 1.0,
    seed: int = 0,
) -> int:
    """Talk for several turns. /actions shows or changes the list, /reset forgets the turns, /quit ends.

    Args:
        run: A run, a checkpoint, a merged folder, or a base.
        actions: What can be done now: names joined by 、 or @FILE with one a line.
        persona: Text put before the system text.
        free: Lift the constraint.
        unmerged: Keep the adapter apart.
        base: Where the run's base is now, if it moved.
        device: Where to run.
        dtype: Number format of the weights.
        max_tokens: Budget of an answer.
        temperature: 0 is greedy.
        top_p: Share of the probability that sampling may choose from.
        seed: Of the sampling.

    Returns:
        Exit status 0.

    Raises:
        UserError: See `read_actions` and `actor.load_actor`.
    """
    names = read_actions(actions)
    survive(sys.stdout)
    actor = _load(run, base, device, dtype, free, unmerged)
    print(either("/actions [LIST]  /reset  /quit", "/actions [列表]  /reset  /quit"))
    _talk(actor, names, persona, max_tokens, temperature, top_p, seed)
    return 0


def _talk(actor: Actor, names: tuple[str, ...], persona: str, *sampling: Any) -> None:
    """Take turns until the user ends it; `sampling` goes to `Actor.events` as it is."""
    history: list[Turn] = []
    for line in _lines():
        command, _, rest = line.partition(" ")
        try:
            if command == "/quit":
                break
            if command == "/reset":
                history.clear()
            elif command == "/actions":
                names = read_actions(rest.strip()) if rest.strip() else names
                print(SEPARATOR.join(names) or either("(none)", "（无）"))
            else:
                script = write(list(show(actor.events(line, names, history, persona, *sampling))))
                history += [Turn("user", line), Turn("assistant", script)]
        except UserError as error:
            # A slip in one turn must not cost the dialogue.
            print(error)
        except KeyboardInterrupt:
            # Ctrl-C cuts the answer short; the turn is not remembered.
            print()


def show(events: Iterable[Event], *, json: bool = False, raw: bool = False) -> Iterator[Event]:
    """Print events as they come and pass them on."""
    console = Console(highlight=False, soft_wrap=True)
    lossless = (sys.stdout.encoding or "").lower().replace("-", "").startswith("utf")
    for seq, event in enumerate(events):
        if json:
            # Escapes carry what the terminal's encoding cannot.
            print(json_module.dumps(to_json(event, seq), ensure_ascii=not lossless), flush=True)
        elif isinstance(event, Done):
            print(flush=True)
        elif raw:
            print(write([event]), end="", flush=True)
        else:
            console.print(_styled(event), end="")
        yield event


def _styled(event: Event) -> Text:
    match event:
        case Say(text=text):
            return Text(text)
        case Act(name=name):
            return Text(f"[{name}]", style="bold green")
        case Fault(kind=kind, raw=raw):
            return Text(f"[! {kind}: {raw}]", style="bold red")
        case Done():
            return Text("")


def survive(stream: object) -> None:
    """Let a stream print what its encoding lacks as ``?`` instead of failing in the middle of an answer."""
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="replace")


def _load(run: str, base: str | None, device: str, dtype: str, free: bool, unmerged: bool) -> Actor:
    from actune.actor import load_actor

    return load_actor(run, base=base, device=device, dtype=dtype, free=free, unmerged=unmerged)


def _lines() -> Iterator[str]:
    """Yield what the user types; Ctrl-C and the end of input end it."""
    while True:
        try:
            line = input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            print()
            return
        if line:
            yield line
