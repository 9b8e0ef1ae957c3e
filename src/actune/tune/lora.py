"""The adapter."""

from __future__ import annotations

import logging
import warnings
from typing import Any

from peft import LoraConfig, get_peft_model
from transformers import PreTrainedModel, set_seed

from actune.errors import UserError, either
from actune.tune.options import Settings, names_of
from actune.tune.targets import find_targets

log = logging.getLogger(__name__)


def add_lora(model: PreTrainedModel, settings: Settings) -> Any:
    """Put a fresh adapter on a base; only the adapter can be trained then.

    Raises:
        UserError: None of the targets is in the base.
    """
    targets = find_targets(model, names_of(settings.targets), settings.dropout)
    if targets.frozen:
        _say_frozen(targets.frozen)
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=settings.rank,
        lora_alpha=settings.alpha,
        lora_dropout=settings.dropout,
        target_modules=targets.modules,
        target_parameters=targets.parameters or None,
        bias="none",
    )
    # The adapter's first values are random: a seed set any later leaves them to chance.
    set_seed(settings.seed)
    # peft 0.21 asks transformers 5.23 by the old name; nobody can act on it here.
    warnings.filterwarnings("ignore", message="`is_gradient_checkpointing`", category=FutureWarning)
    try:
        tuned = get_peft_model(model, config)
    except ValueError as error:
        raise UserError(
            f"--targets {settings.targets}",
            str(error),
            either("names of linear modules in the base", "基座中线性模块的名称"),
            "--targets all-linear",
        ) from error
    return tuned


def _say_frozen(names: list[str]) -> None:
    some = f"{names[0]} ... ({len(names)})"
    log.warning(
        either(
            "these stay as they are, the rest is tuned; "
            f"with --dropout or --quantize peft has no adapter for them: {some}",
            f"这些权重保持不变, 其余照常训练; 使用 --dropout 或 --quantize 时 peft 无法为其加适配器: {some}",
        )
    )
