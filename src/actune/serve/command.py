"""``actune serve``: put an actor behind HTTP. Needs no torch until it runs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from actune.errors import UserError, either
from actune.say import How, read_actions
from actune.script.dialects import Dialect
from actune.serve.options import Load, Runtimes, Where
from actune.terminal import survive

PACKAGES = ("fastapi", "uvicorn", "websockets", "prometheus_client")


def serve(
    run: str,
    *,
    actions: str = "",
    dialect: Dialect = "native",
    name: str = "",
    compare: bool = False,
    stage: Path | None = None,
    where: Where | None = None,
    load: Load | None = None,
    runtimes: Runtimes | None = None,
    how: How | None = None,
) -> int:
    """Serve an actor: OpenAI protocol (/v1), events in order (/act, /ws), the stage (/), until Ctrl-C.

    Args:
        run: A run, a checkpoint, a merged folder, or a base.
        actions: What can be done where a client offers nothing: names joined by 、 or @FILE with one a line.
        dialect: How actions are spelled in the text for clients that do not say.
        name: The model's name for clients; the run's folder name if left out.
        compare: Serve the untuned base as well, under the name "base".
        stage: A stage.yaml that says how the page shows actions.
        where: Where it listens.
        load: How much it takes on.
        runtimes: Whose bodies perform its answers.
        how: How it is loaded and speaks.

    Returns:
        Exit status 0.

    Raises:
        UserError: A package is missing, or see `read_actions`, `options`, `How`,
            `staging.read_staging` and `actor.load_actor`.
    """
    survive()
    need_packages()
    names, how = read_actions(actions), (how or How()).checked()
    where, load = (where or Where()).checked(), (load or Load()).checked()
    runtimes = (runtimes or Runtimes()).checked(where)
    from actune.serve.run import run_server
    from actune.serve.setup import make_house
    from actune.serve.staging import read_staging

    staging = read_staging(stage)
    house = make_house(run, how, load, names=names, dialect=dialect, name=name, compare=compare)
    return run_server(house, where, runtimes, staging)


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
