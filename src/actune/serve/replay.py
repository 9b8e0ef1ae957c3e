"""``actune stage``: the stage without a model; recorded answers are performed as if they came now."""

from __future__ import annotations

from pathlib import Path

from actune.errors import UserError, either
from actune.serve.command import need_packages
from actune.terminal import survive

SHIPPED = Path(__file__).parent / "replay.jsonl"


def stage(*, replay: Path = SHIPPED, stage: Path | None = None, port: int = 8766) -> int:
    """Open the stage without a model: a puppet performs recorded answers, until Ctrl-C.

    Args:
        replay: A recording: what the stage saved, or `actune say --json` printed; ours, written by hand, if left out.
        stage: A stage.yaml that says how actions are shown.
        port: Port to listen at, on this machine only; 0 takes a free one.

    Returns:
        Exit status 0.

    Raises:
        UserError: A package is missing, a file cannot be read, or the port cannot be had.
    """
    survive()
    need_packages()
    from actune.serve.playback import build_replay
    from actune.serve.recording import read_recording
    from actune.serve.run import listen, run_app
    from actune.serve.staging import read_staging

    if not 0 <= port < 65536:
        raise UserError("--port", str(port), "0 .. 65535", either("choose another", "换一个"))
    app = build_replay(read_recording(replay), read_staging(stage))
    listener = listen("127.0.0.1", port)
    url = f"http://127.0.0.1:{listener.getsockname()[1]}/"
    print(either(f"stage: {url}", f"舞台: {url}"))
    run_app(app, listener)
    return 0
