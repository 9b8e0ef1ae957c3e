"""pip as a subprocess, with its failure in the user's words."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Sequence

from actune.errors import UserError, either


def run_pip(verb: str, arguments: Sequence[str], where: str, wanted: str) -> None:
    """Run pip without dependencies, from wheels only.

    Args:
        verb: ``download`` or ``install``.
        arguments: What follows.
        where: The command to name in an error.
        wanted: The packages.

    Raises:
        UserError: pip failed; its last word is quoted.
    """
    command = [sys.executable, "-m", "pip", verb, "--no-deps", "--only-binary", ":all:", "--no-input"]
    command += ["--quiet", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, encoding="utf-8", errors="replace", check=False)
    if done.returncode == 0:
        return
    lines = done.stderr.strip().splitlines() or [either("no message", "无信息")]
    errors = [line for line in lines if line.startswith("ERROR")]
    raise UserError(
        where,
        either(f"pip could not {verb} it: {(errors or lines)[-1]}", f"pip {verb} 失败: {(errors or lines)[-1]}"),
        wanted,
        either(
            f"check the network and pip's settings (python -m pip {verb} must work), then try again",
            f"检查网络和 pip 设置 (python -m pip {verb} 须可用), 然后重试",
        ),
    )
