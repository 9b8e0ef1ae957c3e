"""actune: a spreadsheet of dialogues becomes a language model that acts.

Importing the package needs no torch; ``actune.load`` brings it in when called.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from actune.actor import Actor

__version__ = "0.1.0"

# Where it is installed, peft imports bitsandbytes, which on CPUs with AVX512-BF16 asks for a package that would fetch
# code from a hub: a kernel for repacked weights, and `base.quantize.disarm` keeps them from being repacked.
logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)


def load(run: str | Path, **options: object) -> Actor:
    """Load something that acts: a run, a checkpoint, a merged folder or a bare base.

    Args:
        run: Folder or base name, see `actune.actor.load_actor`.
        **options: The keyword arguments of `actune.actor.load_actor`.

    Returns:
        An actor; ``actor.events(question, catalogue, history=...)`` streams what it says and does.
    """
    from actune.actor import load_actor

    return load_actor(run, **options)  # type: ignore[arg-type]
