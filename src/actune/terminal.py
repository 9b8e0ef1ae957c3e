"""What every command owes the terminal it runs in."""

from __future__ import annotations

import io
import logging
import sys
import warnings


def survive() -> None:
    """Let output show what the terminal's encoding lacks (GBK has no emoji) as ``?`` instead of failing half-way."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")
    # peft imports bitsandbytes if it is there, and that warns of a kernel on a hub; nobody can act on it here.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    # transformers 5.24 renames an argument that models with code of their own know by its old name only; peft still
    # reads an attribute that is renamed.
    for old in ("past_key_values", "is_gradient_checkpointing"):
        warnings.filterwarnings("ignore", message=f"`{old}` is deprecated", category=FutureWarning)
