"""What is to be merged, and the models that it is compared with."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from peft import PeftModel

from actune import prompt
from actune.actor import Actor, load_actor
from actune.base.load import DTYPES, load_model, load_tokenizer, pick_device, stop_ids
from actune.base.quantize import quantized_on_disk
from actune.base.source import Source
from actune.data.load import load_rows
from actune.data.rows import Row
from actune.engine.local import LocalEngine
from actune.errors import UserError, either
from actune.found import ADAPTER, base_of, find
from actune.prompt import PromptFormat
from actune.tune.run import PARITY, Manifest, read_manifest


@dataclass(frozen=True)
class Case:
    """A run, seen as something to merge.

    Args:
        folder: The adapter's folder: the run, or a checkpoint in it.
        top: The run's folder.
        manifest: The run's.
        source: Its base.
        rows: Those that every comparison is made on.
        onto: ``trained`` or ``original``.
        device: Where comparisons are computed.
        trust_remote_code: Run the base's own code.
    """

    folder: Path
    top: Path
    manifest: Manifest
    source: Source
    rows: list[Row]
    onto: str
    device: str
    trust_remote_code: bool

    @property
    def quantize(self) -> str | None:
        """How the base was quantised in training: ``8bit``, ``4bit``, or None."""
        kind: str | None = self.manifest.options.get("quantize")
        return kind

    @property
    def dtype(self) -> torch.dtype:
        """The base's dtype in training: what was quantised then was first cast to it."""
        return DTYPES[self.manifest.probe["dtype"]]

    def tokenizer(self) -> Any:
        """Load the run's tokenizer."""
        return load_tokenizer(find(self.folder).tokenizer(str(self.source.path)), self.trust_remote_code)

    def apart(self) -> Actor:
        """Load base and adapter kept apart, in fp32: what a merge must equal."""
        if self.quantize and self.onto == "trained":
            kind = self.manifest.probe["dtype"]
            # On the CPU, as the merge does: other devices may round a few weights to the next step.
            model = load_model(self.source.path, "cpu", kind, self.trust_remote_code, self.quantize)
            model = model.dequantize().float().to(pick_device(self.device))
        else:
            model = load_model(self.source.path, self.device, "fp32", self.trust_remote_code)
        tokenizer, fmt = self.tokenizer(), PromptFormat.from_dict(self.manifest.prompt)
        ends = {*stop_ids(model, tokenizer), prompt.stop_token(tokenizer, fmt)}
        tuned = PeftModel.from_pretrained(model, str(self.folder), torch_device=str(model.device)).eval()
        return Actor(LocalEngine(tuned, tokenizer, sorted(ends)), fmt, free=True)

    def live(self) -> Actor:
        """Load base and adapter as they were trained, quantised."""
        return load_actor(
            self.folder,
            base=str(self.source.path),
            device=self.device,
            dtype=self.manifest.probe["dtype"],
            free=True,
            unmerged=True,
            trust_remote_code=self.trust_remote_code,
        )


def read_case(run: Path, onto: str, base: str | None, device: str, trust_remote_code: bool) -> Case:
    """Find all that a merge needs.

    Raises:
        UserError: There is no adapter, its base is not there or not in float, or the rows for the comparison are gone.
    """
    if not (run / ADAPTER).is_file():
        raise UserError(
            str(run),
            either(f"no {ADAPTER} in it", f"其中没有 {ADAPTER}"),
            either("a run that has ended, or a checkpoint", "已完成的训练结果, 或检查点"),
            either("check the path; finish a training with --resume", "检查路径; 用 --resume 完成训练"),
        )
    manifest = read_manifest(run)
    top = next((place for place in (run, run.parent) if (place / PARITY).is_file()), None)
    if top is None:
        raise UserError(
            str(run),
            either(f"no {PARITY}", f"没有 {PARITY}"),
            either("the rows that a merge is compared on", "用于比对的数据行"),
            either("take the whole folder of the run", "请使用完整的训练结果文件夹"),
        )
    source = base_of(manifest, base)
    if quantized_on_disk(source.path):
        raise UserError(
            str(source.path),
            either("its weights are quantised", "其权重已量化"),
            either("a base in floating point", "浮点权重的基座"),
            either(
                "train on the original base with --quantize; that can be merged", "请在原始基座上用 --quantize 训练"
            ),
        )
    return Case(run, top, manifest, source, load_rows([top / PARITY]), onto, device, trust_remote_code)
