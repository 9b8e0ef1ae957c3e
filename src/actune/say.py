"""Commands that let an actor speak: one question, or a chat. Needs no torch until they run."""

from __future__ import annotations

import json as json_module
import math
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.text import Text

from actune.data.rows import Turn
from actune.errors import UserError, either
from actune.script.catalogue import SEPARATOR, catalogue, split_names
from actune.script.events import Act, Done, Event, Fault, Say, to_json, write
from actune.terminal import survive

if TYPE_CHECKING:
    from actune.actor import Actor

MAX_TOKENS = 256


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


@Parameter(name="*")  # --free, not --how.free
@dataclass(frozen=True)
class How:
    """How an actor is loaded and speaks."""

    persona: str = ""
    """Text put before the system text."""
    free: bool = False
    """Lift the constraint; unlisted actions are then shown as faults. (eval: score both ways.)"""
    unmerged: bool = False
    """Keep the adapter apart instead of folding it into the weights."""
    base: str | None = None
    """Where the run's base is now, if it moved; its hash is checked."""
    device: str = "auto"
    """cuda, mps or cpu."""
    dtype: str = "auto"
    """fp32, bf16 or fp16 for the weights."""
    quantize: Literal["auto", "off", "8bit", "4bit"] = "auto"
    """Hold the base in 8 or 4 bits (extra `quant`); auto: as the run was trained."""
    engine: Literal["local", "llama_cpp", "upstream"] = "local"
    """transformers; llama.cpp (extra `llama`; a q8_0 file is made once); or a server with the OpenAI protocol."""
    url: str = ""
    """Address of the server, for --engine upstream; with commas: others take over. Key: ACTUNE_UPSTREAM_KEY."""
    model: str = ""
    """The server's name for the model, where it has several."""
    trust_remote_code: bool = False
    """Run Python code that comes with the base."""
    max_tokens: int | None = None
    """Budget of an answer, in tokens [256, eval 96]."""
    temperature: float = 0.0
    """0 is greedy."""
    top_p: float = 1.0
    """Share of the probability that sampling may choose from."""
    seed: int = 0
    """Of the sampling (eval: and of the choice of rows)."""

    def checked(self) -> How:
        """Return this if its numbers are possible.

        Raises:
            UserError: Some are not; all of them are named.
        """
        wanted = {
            "max_tokens": (">= 1", self.max_tokens is None or self.max_tokens >= 1),
            "temperature": (">= 0", 0 <= self.temperature < math.inf),
            "top_p": ("0 < top_p <= 1", 0 < self.top_p <= 1),
        }
        wrong = {name: span for name, (span, good) in wanted.items() if not good}
        if wrong:
            raise UserError(
                ", ".join(f"--{name.replace('_', '-')}" for name in wrong),
                ", ".join(str(getattr(self, name)) for name in wrong),
                ", ".join(wrong.values()),
                either("change it, or leave it out", "修改它, 或不填"),
            )
        return self


def say(
    run: str, question: str, *, actions: str = "", json: bool = False, raw: bool = False, how: How | None = None
) -> int:
    """Ask one question and print the words as they come, with the actions marked.

    Args:
        run: A run, a checkpoint, a merged folder, or a base.
        question: What you say.
        actions: What can be done now: names joined by 、 or @FILE with one a line.
        json: Print events, one JSON object a line.
        raw: Print the script as the model wrote it.
        how: How it is loaded and speaks.

    Returns:
        Exit status: 0, or 1 if the model failed.

    Raises:
        UserError: See `read_actions`, `How.checked` and `actor.load_actor`.
    """
    survive()
    names, how = read_actions(actions), (how or How()).checked()
    actor = load(run, how)
    seen = list(show(_answer(actor, question, names, (), how), json=json, raw=raw))
    tell_dropped(actor)
    return int(any(isinstance(event, Fault) and event.kind == "model" for event in seen))


def chat(run: str, *, actions: str = "", how: How | None = None) -> int:
    """Talk for several turns. /actions shows or changes the list, /reset forgets the turns, /quit ends.

    Args:
        run: A run, a checkpoint, a merged folder, or a base.
        actions: What can be done now: names joined by 、 or @FILE with one a line.
        how: How it is loaded and speaks.

    Returns:
        Exit status 0.

    Raises:
        UserError: See `read_actions`, `How.checked` and `actor.load_actor`.
    """
    survive()
    names, how = read_actions(actions), (how or How()).checked()
    actor = load(run, how)
    print(either("/actions [LIST]  /reset  /quit", "/actions [列表]  /reset  /quit"))
    _talk(actor, names, how)
    return 0


def _answer(actor: Actor, question: str, names: tuple[str, ...], history: Sequence[Turn], how: How) -> Iterator[Event]:
    budget = how.max_tokens or MAX_TOKENS
    return actor.events(question, names, history, how.persona, budget, how.temperature, how.top_p, how.seed)


def _talk(actor: Actor, names: tuple[str, ...], how: How) -> None:
    """Take turns until the user ends it."""
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
                script = write(list(show(_answer(actor, line, names, history, how))))
                tell_dropped(actor)
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


def load(run: str, how: How) -> Actor:
    """Load an actor as the options say; see `actor.load_actor` and `engines.load_elsewhere`."""
    if how.engine != "local":
        from actune.engines import load_elsewhere

        return load_elsewhere(run, how)
    from actune.actor import load_actor

    return load_actor(
        run,
        base=how.base,
        device=how.device,
        dtype=how.dtype,
        free=how.free,
        unmerged=how.unmerged,
        quantize=how.quantize,
        trust_remote_code=how.trust_remote_code,
    )


def tell_dropped(actor: Actor) -> None:
    """Say on stderr what the engine's constraint did not prevent, and forget it."""
    if actor.dropped:
        listed = ", ".join(f"{kind} {count}" for kind, count in actor.dropped.items())
        print(either(f"tags left out: {listed}", f"去掉的标记: {listed}"), file=sys.stderr)
        actor.dropped.clear()


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
