"""Options of `train`: what a user may set, and the recipes that say the rest."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal

from cyclopts import Parameter

from actune.errors import UserError, either

LOGGERS = ("tensorboard", "wandb", "swanlab")


@Parameter(name="*")  # --epochs, not --options.epochs
@dataclass(frozen=True)
class TrainOptions:
    """What can be set for a training. Whatever is None comes from the recipe."""

    recipe: Literal["small", "origin"] | None = None
    """Named defaults: `small` (30-500 rows) or `origin` (the source recipe as it is)."""
    epochs: int | None = None
    """Passes over the rows [small 8, after a practice 4, origin 3]."""
    lr: float | None = None
    """Peak learning rate; it falls linearly to 0 [small 5e-4, after a practice 1.5e-4, origin 1e-4]."""
    rank: int | None = None
    """Rank of the adapter [small 16, origin 8]."""
    alpha: int | None = None
    """LoRA alpha; the adapter is scaled by alpha / rank [32]."""
    dropout: float | None = None
    """Dropout before the adapter; 0 is faster [small 0, origin 0.1]."""
    targets: str | None = None
    """Modules that get an adapter, separated by commas, or `all-linear`."""
    batch_size: int | None = None
    """Rows computed at once [4]."""
    grad_accum: int | None = None
    """Batches summed up before one step [small 2, origin 4]."""
    max_length: int | None = None
    """Most tokens of a row [what the base can take]."""
    drop_long: bool | None = None
    """Leave out rows that are longer instead of stopping."""
    valid: float | None = None
    """Share of rows kept for validation; at least 8 rows, none below 40 rows [small 0.15, origin 0]."""
    seed: int | None = None
    """Seed of adapter, order, shuffles and dropout [42]."""
    augment: Literal["on", "off"] | None = None
    """Add other rows' actions to a row's list and drop unused ones, anew each epoch [small on, origin off]."""
    practice: Literal["on", "off"] | None = None
    """Start from what the base learnt in `actune practice` [on if it has practised, else `small` rehearses ours]."""
    save_steps: int | None = None
    """Steps from one checkpoint to the next [an eighth of the run]."""
    loggers: str | None = None
    """Loggers to report to besides the run folder, separated by commas: tensorboard, wandb, swanlab [none]."""
    template: Path | None = None
    """Your own system text, a UTF-8 file with `{actions}` in it."""
    chat_template: str | None = None
    """Named chat template in place of the base's: chatml, gemma, llama-3."""
    device: str | None = None
    """cuda, mps or cpu [what the machine has]."""
    dtype: str | None = None
    """fp32, bf16 or fp16 for the base's weights [what the device does well]."""
    plain: bool | None = None
    """Compute as transformers and peft do: the same result, slower [off]."""
    quantize: Literal["8bit", "4bit"] | None = None
    """Hold the base in 8 or 4 bits (extra `quant`); the adapter stays in fp32 [off]."""


@dataclass(frozen=True)
class Settings:
    """All options with their values; the manifest holds them. `warmup` to `remember` are the recipe's alone."""

    recipe: str
    epochs: int
    lr: float
    rank: int
    alpha: int
    dropout: float
    targets: str
    batch_size: int
    grad_accum: int
    valid: float
    augment: str
    warmup: float
    """Share of the steps in which the learning rate rises."""
    checkpointing: bool
    """Recompute activations in the backward pass: less memory, a third more time."""
    fresh_shuffle: bool
    """Shuffle a row's list anew each epoch rather than once."""
    remember: bool = False
    """Hold the answers to general questions to those of the base."""
    seed: int = 42
    max_length: int | None = None
    drop_long: bool = False
    save_steps: int | None = None
    loggers: str = ""
    template: str | None = None
    chat_template: str | None = None
    device: str = "auto"
    dtype: str = "auto"
    quantize: str | None = None
    practice: str = "auto"
    plain: bool = False

    def to_dict(self) -> dict[str, Any]:
        """Give the form that the run's manifest holds."""
        return asdict(self)


ORIGIN_TARGETS = "q_proj,k_proj,v_proj,o_proj,gate_proj,up_proj,down_proj"
RECIPES = {
    "small": Settings("small", 8, 5e-4, 16, 32, 0.0, "all-linear", 4, 2, 0.15, "on", 0.1, False, True, True),
    "origin": Settings("origin", 3, 1e-4, 8, 32, 0.1, ORIGIN_TARGETS, 4, 4, 0.0, "off", 0.0, True, False, False),
}
LEAST = {"epochs": 1, "rank": 1, "alpha": 1, "batch_size": 1, "grad_accum": 1, "max_length": 16, "save_steps": 1}
KINDS: dict[str, tuple[type, ...]] = {
    **dict.fromkeys((*LEAST, "seed"), (int,)),
    **dict.fromkeys(("lr", "dropout", "valid"), (int, float)),
    **dict.fromkeys(("drop_long", "plain"), (bool,)),
}


def read_config(file: Path) -> TrainOptions:
    """Read a YAML file whose keys are the fields of `TrainOptions`, with `-` or `_`.

    Raises:
        UserError: The file cannot be read, is no mapping, or has unknown keys or values of the wrong kind.
    """
    import yaml

    wanted = either("a YAML file with one `option: value` a line", "YAML 文件, 每行一个 `选项: 值`")
    try:
        data = yaml.safe_load(file.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise UserError(f"--config {file}", str(error), wanted, either("mend the file", "修正该文件")) from error
    data = {} if data is None else data
    if not isinstance(data, dict):
        raise UserError(f"--config {file}", repr(data), wanted, either("mend the file", "修正该文件"))
    values = {str(key).replace("-", "_"): _from_yaml(str(key), value) for key, value in data.items()}
    known = [field.name for field in fields(TrainOptions)]
    unknown = [key for key in values if key not in known]
    if unknown:
        raise UserError(
            f"--config {file}",
            either("unknown: ", "未知选项: ") + ", ".join(unknown),
            ", ".join(known),
            "; ".join(_did_you_mean(key, known) for key in unknown),
        )
    options = TrainOptions(**values)
    _check(_given(options), f"--config {file}")
    return options


def _from_yaml(key: str, value: Any) -> Any:
    if value is None:
        return None
    if key == "lr" and isinstance(value, str):
        try:
            return float(value)  # YAML 1.1 reads 5e-4 (no dot) as a text.
        except ValueError:
            return value
    if isinstance(value, bool) and key in ("augment", "practice"):
        return "on" if value else "off"  # YAML 1.1 reads on and off as booleans.
    if isinstance(value, list) and key in ("targets", "loggers"):
        return ",".join(map(str, value))
    return Path(value) if key == "template" else value


def _did_you_mean(key: str, known: list[str]) -> str:
    near = difflib.get_close_matches(key, known, n=1, cutoff=0.5)
    if near:
        return either(f"did you mean {near[0]} for {key}?", f"{key} 是否应为 {near[0]}?")
    return either(f"remove {key}", f"删除 {key}")


def settle(*layers: TrainOptions) -> Settings:
    """Give every option its value: the first layer that sets it wins, then the recipe.

    Raises:
        UserError: A value is not possible; all such values are named.
    """
    given = merged(layers)
    return replace(RECIPES[given.get("recipe", "small")], **given)


def overlay(settings: Settings, *layers: TrainOptions) -> Settings:
    """Put what the layers set over the settings of a run; the first layer that sets an option wins.

    Raises:
        UserError: A value is not possible.
    """
    return replace(settings, **merged(layers))


def merged(layers: Sequence[TrainOptions]) -> dict[str, Any]:
    """Give what the layers set; the first that sets an option wins. Raises a UserError as `settle` does."""
    given: dict[str, Any] = {}
    for layer in layers:
        given = {**_given(layer), **given}
    _check(given, either("options", "选项"))
    return given


def _given(options: TrainOptions) -> dict[str, Any]:
    values = {key: value for key, value in asdict(options).items() if value is not None}
    return {key: str(value) if isinstance(value, Path) else value for key, value in values.items()}


def _check(values: dict[str, Any], where: str) -> None:
    """Raise one error for all values that are not possible."""
    problems = [text for key, value in values.items() if (text := _problem(key, value))]
    if problems:
        raise UserError(
            where,
            "; ".join(f"{key}={values[key]}" for key in (text.partition(":")[0] for text in problems)),
            "; ".join(problems),
            either("change them", "修改这些值"),
        )


def _problem(key: str, value: Any) -> str:
    kinds = KINDS.get(key, (str,))
    if type(value) not in kinds:  # isinstance would let True pass for 1
        return f"{key}: {'/'.join(kind.__name__ for kind in kinds)}"
    if key in LEAST and value < LEAST[key]:
        return f"{key}: >= {LEAST[key]}"
    if key == "lr" and not value > 0:
        return f"{key}: > 0"
    if key in ("dropout", "valid") and not 0 <= value < 1:
        return f"{key}: 0 <= {key} < 1"
    switch = ("on", "off")
    words = {"recipe": tuple(RECIPES), "augment": switch, "practice": switch, "quantize": ("8bit", "4bit")}
    choices = words.get(key, ())
    if choices and value not in choices:
        return f"{key}: {' | '.join(choices)}"
    if key == "loggers" and any(name not in LOGGERS for name in names_of(value)):
        return f"{key}: {', '.join(LOGGERS)}"
    return ""


def names_of(text: str) -> list[str]:
    """Split a list of names at its commas."""
    return [name.strip() for name in text.split(",") if name.strip()]


def settings_from(data: dict[str, Any]) -> Settings:
    """Read back what `Settings.to_dict` gave."""
    return Settings(**data)
