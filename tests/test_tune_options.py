from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest

from actune.errors import UserError
from actune.tune.options import RECIPES, Settings, TrainOptions, overlay, read_config, settings_from, settle


def test_the_origin_recipe_is_the_source_recipe() -> None:
    origin = settle(TrainOptions(recipe="origin"))
    assert (origin.rank, origin.alpha, origin.dropout) == (8, 32, 0.1)
    assert (origin.batch_size, origin.grad_accum, origin.lr, origin.epochs) == (4, 4, 1e-4, 3)
    assert set(origin.targets.split(",")) == {f"{name}_proj" for name in ["q", "k", "v", "o", "gate", "up", "down"]}
    assert (origin.valid, origin.augment, origin.fresh_shuffle, origin.checkpointing) == (0, "off", False, True)


def test_the_first_layer_wins_then_the_recipe() -> None:
    settings = settle(TrainOptions(epochs=2), TrainOptions(epochs=5, rank=4, recipe="origin"))
    assert (settings.epochs, settings.rank, settings.alpha, settings.recipe) == (2, 4, 32, "origin")


def test_what_is_not_given_stays_as_the_run_has_it() -> None:
    before = settle(TrainOptions(recipe="origin", epochs=9))
    assert overlay(before, TrainOptions()) == before
    assert overlay(before, TrainOptions(lr=1e-3)) != before


def test_settings_survive_the_manifest() -> None:
    settings = settle(TrainOptions(template=Path("a b/系统.txt"), loggers="tensorboard"))
    assert settings_from(settings.to_dict()) == settings


def test_every_option_has_a_value_in_the_settings_and_a_line_of_help() -> None:
    names = {field.name for field in fields(TrainOptions)}
    assert names <= {field.name for field in fields(Settings)}
    source = Path(TrainOptions.__module__.replace(".", "/") + ".py")
    text = (Path(__file__).parents[1] / "src" / source).read_text(encoding="utf-8")
    for name in names:
        assert text.partition(f"    {name}: ")[2].splitlines()[1].strip().startswith('"""'), name


def test_a_config_file_takes_the_same_names(tmp_path: Path) -> None:
    file = tmp_path / "run.yaml"
    file.write_text("lr: 5e-4\nbatch-size: 2\naugment: off\ntargets: [q_proj, v_proj]\nvalid: 0\n", encoding="utf-8")
    options = read_config(file)
    assert options == TrainOptions(lr=5e-4, batch_size=2, augment="off", targets="q_proj,v_proj", valid=0)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("epoch: 3", ["epoch", "did you mean epochs"]),
        ("learnrate_xyz: 3\nranks: 2", ["learnrate_xyz", "did you mean rank"]),
        ("rank: high", ["rank: int"]),
        ("rank: true", ["rank: int"]),
        ("rank: 0\nlr: -1", ["rank: >= 1", "lr: > 0"]),
        ("loggers: mlflow", ["tensorboard, wandb, swanlab"]),
        ("recipe: big", ["small | origin"]),
        ("- a", ["YAML file"]),
        ("a: [", ["YAML file"]),
    ],
)
def test_a_wrong_config_file_is_refused_with_all_its_faults(tmp_path: Path, text: str, words: list[str]) -> None:
    file = tmp_path / "run.yaml"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        read_config(file)
    assert all(word in str(error.value) for word in [*words, "run.yaml"]), str(error.value)


@pytest.mark.parametrize("options", [TrainOptions(dropout=1.0), TrainOptions(valid=-0.1), TrainOptions(epochs=0)])
def test_impossible_values_are_refused(options: TrainOptions) -> None:
    with pytest.raises(UserError):
        settle(options)


def test_recipes_name_themselves() -> None:
    assert all(settings.recipe == name for name, settings in RECIPES.items())
