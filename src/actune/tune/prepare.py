"""From rows and a base to all that a training needs, checked; nothing long has begun yet."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch

from actune.base.load import load_config, load_model, load_tokenizer, pick_device, pick_dtype, word_of
from actune.base.rates import cpu_kind
from actune.base.source import Source
from actune.data.rows import Row
from actune.errors import UserError, either
from actune.prompt import PromptFormat
from actune.tune import corpus, guards, practice, several
from actune.tune.dataset import RowDataset, collate, shortened, view_of
from actune.tune.encode import Example, encode
from actune.tune.hold import Kept, Told
from actune.tune.memory import refuse_hopeless
from actune.tune.options import Settings
from actune.tune.plan import Plan, make_plan
from actune.tune.remember import check_memory, memories
from actune.tune.resume import check_machine, check_same
from actune.tune.run import Manifest, rows_hash, versions, write_kept_rows, write_manifest
from actune.tune.seen import read_seen, write_seen
from actune.tune.split import split


@dataclass(frozen=True)
class Prepared:
    """All that a training needs.

    Args:
        model: The base, without an adapter.
        tokenizer: The base's.
        train: Rows to train on.
        valid: Rows to validate on, or None.
        settings: The run's.
        manifest: Not yet written if the run is new.
        kept: What the training is held to; None with a recipe that does not ask for it.
        plan: What it will take.
    """

    model: Any
    tokenizer: Any
    train: RowDataset
    valid: RowDataset | None
    settings: Settings
    manifest: Manifest
    kept: Kept | None
    plan: Plan


def prepare(
    files: Sequence[Path],
    rows: Sequence[Row],
    source: Source,
    settings: Settings,
    previous: Manifest | None,
    trust_remote_code: bool = False,
) -> Prepared:
    """Load the base, encode and check every row, and part them.

    Args:
        files: Where the rows are from.
        rows: All rows.
        source: The base.
        settings: The run's.
        previous: Manifest of the run to resume; what it found out at its start is obeyed.
        trust_remote_code: Run the base's own code.

    Raises:
        UserError: A row cannot be trained on, or the resumed run would be another one.
    """
    if previous is not None:
        check_same(previous, settings.to_dict(), rows_hash(rows), source.sha256)
        check_machine(previous, cpu_kind())
        began = previous.probe.get("processes", several.processes())
        if began == several.processes():
            torch.set_num_threads(previous.probe["threads"])
        settings = several.shared_out(settings, began)
    some = read(rows, source.path, settings, previous, trust_remote_code)
    device, dtype = settings.device, settings.dtype
    if previous is not None:
        device = previous.probe["device"]
        if several.processes() > 1:
            device = torch.device(device).type  # each process has its own of them
        # On a CPU a run that was left the choice begins in fp32; `fast.proof` rounds the base later, then and now.
        dtype = dtype if dtype == "auto" and device == "cpu" else previous.probe["dtype"]
    several.refuse_sharded(pick_device(device))
    plan = _planned(some, settings, (device, dtype), trust_remote_code)
    model = load_model(source.path, device, dtype, trust_remote_code, settings.quantize)
    fmt, valid = some.train.fmt, some.valid
    _check(some, model)
    manifest = previous or replace(
        _new_manifest(files, rows, (len(some.train), len(valid)), source, settings, fmt, model),
        practice=practice.start_of(source, some.tokenizer, settings, rows),
    )
    held, memory = _held(model, some.train, source, manifest, settings) if settings.remember else (None, None)
    check_memory(manifest.probe.get("memory"), memory)
    manifest = replace(manifest, probe=manifest.probe | {"memory": memory})
    checked = RowDataset(valid, some.tokenizer, fmt, None) if valid else None
    return Prepared(model, some.tokenizer, some.train, checked, settings, manifest, held, plan)


@dataclass(frozen=True)
class Read:
    """Rows as a base reads them, before it is loaded.

    Args:
        tokenizer: The base's.
        config: The base's.
        kept: Rows that are used, and their encoded forms.
        train: Rows to train on.
        valid: Rows to validate on.
    """

    tokenizer: Any
    config: Any
    kept: tuple[list[Row], list[Example]]
    train: RowDataset
    valid: list[Row]


def read(rows: Sequence[Row], folder: Path, settings: Settings, previous: Manifest | None, trust: bool) -> Read:
    """Encode and part rows; of the base, configuration and tokenizer are enough.

    Args:
        rows: All rows.
        folder: The base's.
        settings: The run's.
        previous: Manifest of the run to resume.
        trust: Run the base's own code.

    Raises:
        UserError: A row has no answer or is too long.
    """
    _refuse_choice_rows(rows)
    tokenizer, config = load_tokenizer(folder, trust), load_config(folder, trust)
    fmt = _format(rows, tokenizer, settings) if previous is None else PromptFormat.from_dict(previous.prompt)
    most = shortened(settings, config.get_text_config().max_position_embeddings)
    kept = _fitting(rows, tokenizer, fmt, most, settings.drop_long)
    train, valid = split(kept[0], settings.valid, settings.seed)
    data = RowDataset(train, tokenizer, fmt, view_of(train, settings, most))
    return Read(tokenizer, config, kept, data, valid)


def _planned(some: Read, settings: Settings, where: tuple[str, str], trust: bool) -> Plan:
    """Plan a training, and refuse one that this machine has no room for."""
    device = pick_device(where[0])
    dtype = pick_dtype(device, where[1])
    plan = make_plan(some.train, len(some.valid), settings, some.config, device, dtype, several.processes(), trust)
    refuse_hopeless(plan.need, plan.spared, device)
    return plan


def _held(model: Any, train: RowDataset, source: Source, manifest: Manifest, settings: Settings) -> tuple[Kept, str]:
    """Gather what a training is held to, and its SHA-256."""
    tokenizer, fmt = train.tokenizer, train.fmt
    answers, memory = memories(model, tokenizer, fmt, source)
    rows = corpus.rehearsed(manifest.practice, fmt.language) if manifest.practice or corpus.joins(settings) else []
    held = Kept(answers, RowDataset(rows, tokenizer, fmt, None), Told([*train.rows, *rows], tokenizer))
    return held, hashlib.sha256(f"{memory} {rows_hash(rows)}".encode()).hexdigest()


def _format(rows: Sequence[Row], tokenizer: Any, settings: Settings) -> PromptFormat:
    template = Path(settings.template) if settings.template else None
    fmt = PromptFormat.for_rows(rows, tokenizer, template, settings.chat_template)
    # The corpus is in both languages; its users' rows are in one or the other.
    return replace(fmt, language="both") if settings.recipe == practice.SETTINGS.recipe else fmt


def _new_manifest(
    files: Sequence[Path],
    rows: Sequence[Row],
    parts: tuple[int, int],
    source: Source,
    settings: Settings,
    fmt: PromptFormat,
    model: Any,
) -> Manifest:
    return Manifest(
        base={"id": source.id, "path": str(source.path), "sha256": source.sha256},
        prompt=fmt.to_dict(),
        recipe=settings.recipe,
        options=settings.to_dict(),
        data={
            "files": [str(file) for file in files],
            "sha256": rows_hash(rows),
            "rows": len(rows),
            "train": parts[0],
            "valid": parts[1],
        },
        probe={
            "device": str(model.device),
            "dtype": word_of(model.dtype),
            "threads": torch.get_num_threads(),
            "cpu": cpu_kind(),
            "processes": several.processes(),
        },
        versions=versions(),
    )


def _refuse_choice_rows(rows: Sequence[Row]) -> None:
    bad = [row for row in rows if not row.script]
    if bad:
        raise UserError(
            either(f"{len(bad)} rows have no answer", f"{len(bad)} 行没有回答"),
            ", ".join(guards.place(row) for row in bad[: guards.MOST_SHOWN]),
            either("rows with an answer", "有回答的数据行"),
            either(
                "rows with `expected` are for evaluation only: leave them out", "带 expected 的行只用于评测: 请去掉"
            ),
        )
    if not rows:
        wanted = either("at least one row", "至少一行")
        raise UserError(either("data", "数据"), either("no rows", "没有数据行"), wanted, "actune check")


def _fitting(
    rows: Sequence[Row], tokenizer: Any, fmt: PromptFormat, most: int, drop_long: bool
) -> tuple[list[Row], list[Example]]:
    """Encode all rows as written; return those to use."""
    examples = [encode(row, tokenizer, fmt) for row in rows]
    keep = guards.check_lengths(rows, examples, most, drop_long)
    return [rows[index] for index in keep], [examples[index] for index in keep]


def _check(some: Read, model: Any) -> None:
    """Run the guards over encoded rows."""
    rows, examples = some.kept
    named = model.generation_config.eos_token_id
    ends = set(named) if isinstance(named, list) else {named}
    guards.check_encoding(rows, examples, some.tokenizer, some.train.fmt, ends)
    first = examples[:2]
    items = [{"input_ids": one.input_ids, "labels": one.labels, "rows": 0} for one in first]
    guards.check_batch(collate(items), first)


def write_start(run: Path, prepared: Prepared) -> None:
    """Write what a new run keeps from its start. The manifest comes last: with it the run can be resumed."""
    prepared.tokenizer.save_pretrained(run)
    valid = prepared.valid.rows if prepared.valid else ()
    write_kept_rows(run, prepared.train.rows, valid)
    start = prepared.manifest.practice
    write_seen(run, prepared.train.rows, read_seen(Path(start["folder"])) if start else None)
    write_manifest(run, prepared.manifest)
