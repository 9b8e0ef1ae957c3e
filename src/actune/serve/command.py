"""``actune serve``: put an actor behind HTTP. Needs no torch until it runs."""

from __future__ import annotations

import importlib.util
import os
from dataclasses import dataclass, replace

from cyclopts import Parameter

from actune.errors import UserError, either
from actune.say import How, read_actions
from actune.script.dialects import Dialect
from actune.terminal import survive

PACKAGES = ("fastapi", "uvicorn", "websockets", "prometheus_client")


@Parameter(name="*")
@dataclass(frozen=True)
class Where:
    """Where the server listens and who may use it."""

    host: str = "127.0.0.1"
    """Address to listen at; another one than this machine's own needs a key."""
    port: int = 8765
    """Port to listen at; 0 takes a free one."""
    api_key: str = ""
    """Key that clients must send; better in the variable ACTUNE_API_KEY, where other users do not see it."""
    open: bool = False
    """Let everybody in who can reach the address, without a key."""
    cors: tuple[str, ...] = ()
    """Web origins whose pages may call, such as https://example.org."""

    def checked(self) -> Where:
        """Return this with the key, if it may be served like that.

        Raises:
            UserError: Others could use it without a key, or the port is none.
        """
        from actune.serve.guard import is_loopback

        key = self.api_key or os.environ.get("ACTUNE_API_KEY", "")
        if not 0 <= self.port < 65536:
            raise UserError("--port", str(self.port), "0 .. 65535", either("choose another", "换一个"))
        if not is_loopback(self.host) and not key and not self.open:
            raise UserError(
                f"--host {self.host}",
                either("others can reach this address, and there is no key", "其他人可以访问此地址, 且没有密钥"),
                either("a key, or your word that everybody may", "设置密钥, 或明确允许所有人"),
                either("set ACTUNE_API_KEY, or add --open", "设置 ACTUNE_API_KEY, 或加 --open"),
            )
        return replace(self, api_key=key)


@Parameter(name="*")
@dataclass(frozen=True)
class Load:
    """How much the server takes on."""

    max_batch: int = 16
    """Answers written together."""
    max_queue: int = 64
    """Questions that may wait; one more is refused with 429."""
    timeout: float = 120.0
    """Seconds an answer may take, waiting included."""

    def checked(self) -> Load:
        """Return this if its numbers are possible.

        Raises:
            UserError: Some are not.
        """
        if self.max_batch < 1 or self.max_queue < 1 or not self.timeout > 0:
            got = f"{self.max_batch}, {self.max_queue}, {self.timeout}"
            raise UserError("--max-batch, --max-queue, --timeout", got, "> 0", either("change them", "修改它们"))
        return self


def serve(
    run: str,
    *,
    actions: str = "",
    dialect: Dialect = "native",
    name: str = "",
    compare: bool = False,
    where: Where | None = None,
    load: Load | None = None,
    how: How | None = None,
) -> int:
    """Serve an actor: OpenAI protocol (/v1), events in order (/act, /ws), the stage (/), until Ctrl-C.

    Args:
        run: A run, a checkpoint, a merged folder, or a base.
        actions: What can be done where a client offers nothing: names joined by 、 or @FILE with one a line.
        dialect: How actions are spelled in the text for clients that do not say.
        name: The model's name for clients; the run's folder name if left out.
        compare: Serve the untuned base as well, under the name "base".
        where: Where it listens.
        load: How much it takes on.
        how: How it is loaded and speaks.

    Returns:
        Exit status 0.

    Raises:
        UserError: A package is missing, or see `read_actions`, `Where`, `Load`, `How` and `actor.load_actor`.
    """
    survive()
    need_packages()
    names, how = read_actions(actions), (how or How()).checked()
    where, load = (where or Where()).checked(), (load or Load()).checked()
    from actune.serve.run import run_server
    from actune.serve.setup import make_house

    house = make_house(run, how, load, names=names, dialect=dialect, name=name, compare=compare)
    return run_server(house, where)


def need_packages() -> None:
    """Make sure that the extra ``serve`` is installed.

    Raises:
        UserError: It is not.
    """
    missing = [package for package in PACKAGES if importlib.util.find_spec(package) is None]
    if missing:
        raise UserError(
            "actune serve",
            either(f"not installed: {', '.join(missing)}", f"未安装: {', '.join(missing)}"),
            either("the packages of the extra `serve`", "扩展 `serve` 的软件包"),
            "pip install 'actune[serve]'",
        )
