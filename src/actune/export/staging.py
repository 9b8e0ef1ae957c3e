"""A folder that appears whole or not at all."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from actune.tune.resume import STAGING, check_unused, clear_staging


@contextmanager
def staging(out: Path) -> Iterator[Path]:
    """Give a folder to write in; what is in it at the end moves to `out`, and after an error nothing is left.

    Args:
        out: New or empty.

    Raises:
        UserError: It is not.
    """
    check_unused(out, resume=False)
    new = not out.exists()
    clear_staging(out)
    staged = out / STAGING / "new"
    staged.mkdir(parents=True)
    try:
        yield staged
        # The config comes last: a model folder with one on top has all of it.
        for file in sorted(staged.iterdir(), key=lambda file: file.name == "config.json"):
            file.replace(out / file.name)
        shutil.rmtree(out / STAGING)
    except BaseException:
        shutil.rmtree(out if new else out / STAGING)
        raise
