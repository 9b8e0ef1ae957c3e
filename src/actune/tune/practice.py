"""Practice: a base learns to act on rows of our own, once; later trainings on it start from there.

The adapter that a training ends with is the one that practised, trained further: one plain adapter on the original
base. So nothing that loads, merges or exports an adapter has to know of practice.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from actune.base.cache import cache_folder
from actune.data.augment import LIFTS
from actune.errors import UserError, either
from actune.tune import several
from actune.tune.corpus import corpus_for, joins
from actune.tune.options import RECIPES, Settings, TrainOptions

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

    from actune.base.source import Source
    from actune.data.rows import Row

SETTINGS = replace(RECIPES["small"], recipe="practice", epochs=1, valid=0.03, practice="off")
# What the practised adapter depends on; where and how fast it is computed does not count.
DECISIVE = [
    "epochs",
    "lr",
    "rank",
    "alpha",
    "dropout",
    "targets",
    "batch_size",
    "grad_accum",
    "valid",
    "augment",
    "warmup",
    "fresh_shuffle",
    "remember",
    "seed",
]
SHARED = ("rank", "alpha", "targets")
# What has practised needs less to learn a user's rows, and more of it undoes the practice.
AFTERWARDS = TrainOptions(epochs=4, lr=1.5e-4)


def folder_for(source: Source, rows: list[Row], settings: Settings = SETTINGS) -> Path:
    """Return the folder of a practice in the user's cache: its name tells all that it hangs on."""
    from actune.tune import hold
    from actune.tune.run import rows_hash

    values = settings.to_dict()
    held = {"remembered": [hold.EACH, hold.WEIGHT], "told": hold.TOLD}
    text = json.dumps({**{key: values[key] for key in DECISIVE}, "lifts": sorted(LIFTS), **held}, sort_keys=True)
    key = f"{source.sha256[:16]}-{rows_hash(rows)[:12]}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"
    return cache_folder() / "practice" / key


def practice(
    *,
    base: str,
    language: Literal["en", "zh"] | None = None,
    source: str = "hub",
    trust_remote_code: bool = False,
) -> int:
    """Let a base practise acting on rows that come with actune; later trainings on it start from there.

    This is done once a base and kept in the cache; `actune train --practice off` does without.

    Args:
        base: The base: a folder, a hub id or a bundled name.
        language: Practise in one language only, in about half the time: tables in the other start from the bare base.
        source: Where hub ids are looked up: hub or modelscope.
        trust_remote_code: Run Python code that comes with the base.

    Returns:
        Exit code: 0, or 130 if the user interrupted the practice; the same command then goes on.

    Raises:
        UserError: The base cannot be used, or a guard stopped the practice.
    """
    import time

    from rich.console import Console

    from actune.base.load import load_tokenizer
    from actune.base.source import resolve
    from actune.data.load import load_rows
    from actune.tune.command import WRITTEN_LAST, run_in
    from actune.tune.run import MANIFEST

    found = resolve(base, source)
    files = corpus_for(load_tokenizer(found.path, trust_remote_code), language)
    rows = load_rows(files)
    out = folder_for(found, rows)
    console = Console(quiet=not several.is_main(), highlight=False, soft_wrap=True)
    if (out / WRITTEN_LAST).is_file():
        console.print(either(f"{base} has practised already: {out}", f"{base} 已经练习过: {out}"), markup=False)
        return 0
    passes = SETTINGS.epochs * len(rows)
    console.print(
        either(
            f"{base} practises on {len(rows)} rows, {passes} row passes in all, once; the time left is shown below",
            f"{base} 在 {len(rows)} 行数据上练习, 共 {passes} 次, 只需一次; 剩余时间见下",
        ),
        markup=False,
    )
    begun = time.monotonic()
    # What is practised must not hang on the number of processes: the folder's name does not tell it.
    settings = several.shared_out(SETTINGS, 1)
    going = (out / MANIFEST).is_file()
    status = run_in(out, files, rows, found, settings, resume=going, trust=trust_remote_code, calibrate=False)
    minutes = (time.monotonic() - begun) / 60
    if status == 0:
        console.print(
            either(
                f"practised in {minutes:.1f} minutes; `actune train --base {base}` now starts from there",
                f"练习用时 {minutes:.1f} 分钟; 之后 `actune train --base {base}` 由此开始",
            ),
            markup=False,
        )
    return status


def start_of(base: Source, tokenizer: Any, settings: Settings, rows: Sequence[Row]) -> dict[str, Any]:
    """Find the practice that a new training starts from: in all languages of the base, or else in its own.

    Args:
        base: The base.
        tokenizer: Its tokenizer.
        settings: The training's.
        rows: All of the training.

    Returns:
        What the manifest holds as ``practice``: ``folder`` and ``sha256`` of the adapter; empty if it goes without.

    Raises:
        UserError: `--practice on`, and there is none or it has another shape.
    """
    from actune.prompt_format import language_of

    if settings.practice == "off":
        return {}
    ours, theirs = SETTINGS.to_dict(), settings.to_dict()
    apart = [key for key in SHARED if ours[key] != theirs[key]]
    own = corpus_for(tokenizer, language_of(row.question for row in rows))
    if not apart and (found := _practised(base, corpus_for(tokenizer)) or _practised(base, own)):
        return found
    if settings.practice == "on":
        raise UserError(
            "--practice on",
            either(f"another adapter: {', '.join(apart)}", f"适配器不同: {', '.join(apart)}")
            if apart
            else either(f"{base.id} has not practised", f"{base.id} 尚未练习"),
            ", ".join(f"{key} {ours[key]}" for key in SHARED),
            either("leave these options out", "不填这些选项") if apart else f"actune practice --base {base.id}",
        )
    return {}


def _practised(base: Source, files: list[Path]) -> dict[str, Any]:
    """Return what the manifest holds of the practice of a base on these files; empty if there is none."""
    from actune.data.table import read_table
    from actune.tune.command import WRITTEN_LAST

    rows = [row for file in files for row in read_table(file).rows]
    weights = folder_for(base, rows) / WRITTEN_LAST
    if not weights.is_file():
        return {}
    return {"folder": str(weights.parent), "rows": len(rows), "sha256": _sha256(weights)}


def defaults(base: Source, settings: Settings, rows: Sequence[Row], trust: bool) -> TrainOptions:
    """Return what a new training that starts from a practice sets otherwise than its recipe, unless the user says so.

    Args:
        base: The base.
        settings: As they are without a practice.
        rows: All of the training.
        trust: Run the base's own code.
    """
    from actune.base.load import load_tokenizer

    made = (cache_folder() / "practice").glob(f"{base.sha256[:16]}-*")
    if settings.recipe != "small" or settings.practice == "off" or not any(made):
        return TrainOptions()
    return AFTERWARDS if start_of(base, load_tokenizer(base.path, trust), settings, rows) else TrainOptions()


def tell(console: Console, start: dict[str, Any], settings: Settings, base: str) -> None:
    """Print where the adapter starts from, and what a practice would need."""
    if start:
        line = either(f"start    from practice on {start['rows']} rows", f"起点   已在 {start['rows']} 行上练习")
    else:
        line = either("start    from the bare base", "起点   未练习的基座")
        if joins(settings):
            line += either(", rows of ours rehearsed beside yours", ", 同时温习我们的数据")
        ours, theirs = SETTINGS.to_dict(), settings.to_dict()
        apart = ", ".join(f"{key} {ours[key]}" for key in SHARED if ours[key] != theirs[key])
        if settings.practice == "off":
            pass
        elif apart:
            line += either(f" (practice needs {apart})", f" (练习需要 {apart})")
        else:
            command = f"actune practice --base {base}"
            line += either(f" ({command} once, and it acts better)", f" (先运行一次 {command}, 行动会更准)")
    console.print(line, markup=False, highlight=False, soft_wrap=True)


def load_into(model: Any, start: dict[str, Any]) -> None:
    """Give a fresh adapter the weights of the practice.

    Args:
        model: The base with its adapter.
        start: As `start_of` gave it.

    Raises:
        UserError: The practice is not there any more, or is another one.
    """
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    from actune.tune.command import WRITTEN_LAST

    weights = Path(start["folder"]) / WRITTEN_LAST
    if not weights.is_file() or _sha256(weights) != start["sha256"]:
        raise UserError(
            str(weights),
            either("gone, or another one than at the start", "已不存在, 或与开始时不同"),
            either("the practice that this run started from", "本次训练开始时所用的练习"),
            either("start anew with another --out", "换一个 --out 重新开始"),
        )
    missing = set_peft_model_state_dict(model, load_file(weights)).missing_keys
    unset = [name for name in missing if "lora_" in name]
    if unset:
        raise RuntimeError(f"the practice lacks {unset[:3]}")


def _sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
