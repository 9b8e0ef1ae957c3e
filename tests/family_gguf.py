"""What llama.cpp makes of a tiny base of a family: its converter, and then the program itself."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from unittest.mock import patch

from actune.actor import load_actor
from actune.base.source import resolve
from actune.errors import UserError
from actune.export import gguf, llama, parity
from actune.export.gguf import make_gguf
from conftest import make_rows
from families import Family
from family_trial import YES, make_base

# Random models have ties, so that what is liked best says less than all likelihoods together. Bases that llama.cpp
# computes as transformers does were within 2e-6; those with another pattern of layers, 2e-5 apart and more.
EQUAL = parity.Limits(greedy=True, kl=1e-5)


def converted(family: Family, work: Path) -> str:
    """Tell whether llama.cpp's converter takes a base of a family, and whether llama.cpp then says the same.

    Args:
        family: The family.
        work: A folder to work in.
    """
    # The converter knows tokenizers by their words, and those of the bundled bases it knows. From some families it
    # wants another kind: they get one beside it.
    base = make_base(family, resolve("gemma3" if family.kind.startswith("gemma") else "smollm2").path, work / "base")
    if family.pieces:
        _add_pieces(base)
    return told(lambda: _heard(family, base, make_gguf(base, work / "model.gguf", "f32")))


def _heard(family: Family, base: Path, file: Path) -> str:
    """Compare a file with the base it was made from, in llama.cpp."""
    actor = load_actor(str(base), device="cpu", dtype="fp32", free=True, trust_remote_code=bool(family.code))
    rows = make_rows(2)
    with patch.object(llama, "_prompts", lambda *_: ([], [])) if family.pieces else nullcontext():
        ours, theirs = llama.compare_looks(file, actor, parity.look(actor, rows), rows)
    if family.pieces:
        theirs = replace(theirs, prompts=ours.prompts, templated=ours.prompts, stops=ours.stops)
    found = parity.compare(ours, theirs)
    if replace(found, prompts=1.0).faults(EQUAL):
        return "no: llama.cpp answers otherwise"  # without the numbers, which differ from machine to machine
    if ours.prompts != theirs.prompts:
        return "no: prompt ids differ"
    if family.pieces:
        return f"{YES}, words not tried"
    return YES if ours.prompts == theirs.templated else f"{YES}, by ids; its prompt of messages differs"


def _add_pieces(base: Path) -> None:
    """Train a small SentencePiece model, by the library that the converter brings."""
    lines = [text for row in make_rows(40) for text in (*row.actions, row.question, *row.script.splitlines())]
    (base.parent / "lines.txt").write_text("\n".join(lines), encoding="utf-8")
    code = (
        "import sys, sentencepiece; sentencepiece.SentencePieceTrainer.train("
        "input=sys.argv[1], model_prefix=sys.argv[2], vocab_size=400, byte_fallback=True, hard_vocab_limit=False)"
    )
    command = [sys.executable, "-c", code, str(base.parent / "lines.txt"), str(base / "tokenizer")]
    subprocess.run(command, env={**os.environ, "PYTHONPATH": str(gguf._converter())}, check=True, capture_output=True)


def told(look: Callable[[], str]) -> str:
    """Return what a look finds, or why there is nothing to see."""
    try:
        return look()
    except UserError as error:
        return f"no: {_brief(error)}"


def _brief(error: UserError) -> str:
    """Say in a few words what a command says at length."""
    known = {
        "is not supported": "the converter does not know it",
        "AttributeError: DSPARK": "this version of the converter fails of itself",
    }
    return next((brief for part, brief in known.items() if part in error.got), error.got.splitlines()[0])
