"""A merged folder and its proof."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from actune.actor import load_actor
from actune.errors import UserError, either
from actune.export.case import Case
from actune.export.folder import write_configs, write_rest
from actune.export.frame import read_frame
from actune.export.parity import EXACT, ROUNDED, Parity, compare, look, show
from actune.export.shards import merge_shards, shards_of
from actune.tune.run import write_manifest


def make(case: Case, staged: Path, dtype: torch.dtype | None, out: Path) -> None:
    """Write the merged folder, compare it with base and adapter kept apart, and note how equal it is.

    Args:
        case: What is merged.
        staged: Where to write.
        dtype: Of the weights; None keeps the base's.
        out: The folder to name in an error.

    Raises:
        UserError: It is not equal enough (exit code 3), or cannot be merged.
    """
    wanted = look(case.apart(), case.rows)
    grid = case.quantize if case.onto == "trained" else None
    frame = read_frame(case.source.path, case.folder, grid, case.dtype, case.trust_remote_code)
    kinds = merge_shards(case.source.path, staged, frame, dtype)
    write_configs(case.source.path, staged, wanted.stops, dtype, frame.parts_ways, grid)
    write_rest(case.top, case.source.path, staged, case.manifest, case.tokenizer(), case.trust_remote_code)
    merged: dict[str, Any] = {"onto": case.onto, "quantize": case.quantize, "adapter": case.folder.name}
    write_manifest(staged, replace(case.manifest, merged=merged))
    del frame
    actor = load_actor(staged, device=case.device, dtype="fp32", free=True, trust_remote_code=case.trust_remote_code)
    got = look(actor, case.rows)
    del actor
    parity = compare(wanted, got)
    measures: dict[str, Parity] = {either("base + adapter, apart, in float", "基座 + 独立适配器, 浮点"): parity}
    merged |= {"dtype": sorted(str(kind).removeprefix("torch.") for kind in kinds), "parity": parity.to_dict()}
    if case.quantize:
        # Its rounding of activations and weights cannot be merged; that is no fault.
        live = compare(look(case.live(), case.rows), got)
        measures[either(f"the {case.quantize} model as it was trained", f"训练时的 {case.quantize} 模型")] = live
        merged["live"] = live.to_dict()
    show(measures)
    sizes = [sum(file.stat().st_size for file in shards_of(where)) / 1e6 for where in (case.source.path, staged)]
    print(f"{sizes[0]:.0f} MB -> {sizes[1]:.0f} MB")
    if problems := parity.faults(EXACT if kinds == {torch.float32} else ROUNDED):
        raise UserError(
            str(out),
            "; ".join(problems),
            either("the same as base and adapter kept apart", "与基座加独立适配器相同"),
            either("it was deleted; keep the adapter apart (--unmerged) and report this", "已删除; 请保持分离并报告"),
            exit_code=3,
        )
    write_manifest(staged, replace(case.manifest, merged=merged))
