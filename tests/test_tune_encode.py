from __future__ import annotations

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from actune import prompt
from actune.data.augment import Stock, used_actions
from actune.data.rows import Row
from actune.prompt import PromptFormat
from actune.tune.dataset import RowDataset, View, collate, shortened
from actune.tune.encode import IGNORE, encode
from actune.tune.options import TrainOptions, settle
from actune.tune.split import split


@pytest.fixture(scope="module")
def tokenizer(tiny_base: Path) -> PreTrainedTokenizerBase:
    return AutoTokenizer.from_pretrained(tiny_base)


@pytest.fixture(scope="module")
def fmt(tokenizer: PreTrainedTokenizerBase, rows: list[Row]) -> PromptFormat:
    return PromptFormat.for_rows(rows, tokenizer)


def view(**changes: object) -> View:
    values = {
        "stock": Stock(("x-y", "z"), {}, ()),
        "seed": 1,
        "distractors": True,
        "fresh": True,
        "max_length": 1000,
        "window": 8,
        **changes,
    }
    return View(**values)  # type: ignore[arg-type]


def test_the_prompt_is_that_of_use_and_only_the_answer_is_trained(
    tokenizer: PreTrainedTokenizerBase, fmt: PromptFormat, rows: list[Row]
) -> None:
    for row in rows:
        example = encode(row, tokenizer, fmt)
        used = prompt.render_ids(tokenizer, fmt, row.question, row.actions, row.history, row.system)
        assert example.input_ids[: len(used)] == used
        assert example.labels[: len(used)] == [IGNORE] * len(used)
        assert example.labels[len(used) :] == example.input_ids[len(used) :]
        trained = [label for label in example.labels if label != IGNORE]
        assert tokenizer.decode(trained) == row.script + "<|im_end|>"
        assert example.trained == len(trained)


def test_every_epoch_has_its_own_order_and_lists_and_they_can_be_had_again(
    tokenizer: PreTrainedTokenizerBase, fmt: PromptFormat, rows: list[Row]
) -> None:
    one, two = (RowDataset(rows, tokenizer, fmt, view()) for _ in range(2))
    epochs = []
    for epoch in range(3):
        one.set_epoch(epoch)
        epochs.append([one[place] for place in range(len(one))])
        assert sorted(item["rows"] for item in epochs[-1]) == list(range(len(rows)))
    assert epochs[0] != epochs[1] != epochs[2]
    two.set_epoch(2)  # without the epochs before
    assert [two[place] for place in range(len(two))] == epochs[2]


def test_the_rows_of_a_step_stand_by_length_and_steps_stay_mixed(
    tokenizer: PreTrainedTokenizerBase, fmt: PromptFormat, rows: list[Row]
) -> None:
    data = RowDataset(rows, tokenizer, fmt, view(window=8))
    lengths = [len(data[place]["input_ids"]) for place in range(len(data))]
    shorter = sum(lengths[:4]) + sum(lengths[8:12])
    assert shorter < sum(lengths) - shorter
    mixed = RowDataset(rows, tokenizer, fmt, view(window=1))
    assert set(mixed.order[:8]) == set(data.order[:8])


def test_one_shuffle_for_all_epochs(tokenizer: PreTrainedTokenizerBase, fmt: PromptFormat, rows: list[Row]) -> None:
    data = RowDataset(rows, tokenizer, fmt, view(distractors=False, fresh=False))
    first = [data.example(index) for index in range(len(rows))]
    data.set_epoch(5)
    assert [data.example(index) for index in range(len(rows))] == first
    assert first != [encode(row, tokenizer, fmt) for row in rows]


def test_without_a_view_rows_stay_as_written(
    tokenizer: PreTrainedTokenizerBase, fmt: PromptFormat, rows: list[Row]
) -> None:
    data = RowDataset(rows, tokenizer, fmt, None)
    data.set_epoch(3)
    assert [data[place]["input_ids"] for place in range(len(rows))] == [
        encode(row, tokenizer, fmt).input_ids for row in rows
    ]


def test_added_actions_never_make_a_row_too_long(
    tokenizer: PreTrainedTokenizerBase, fmt: PromptFormat, rows: list[Row]
) -> None:
    most = max(len(encode(row, tokenizer, fmt).input_ids) for row in rows)
    data = RowDataset(
        rows,
        tokenizer,
        fmt,
        view(stock=Stock(tuple(f"long name number {i}" for i in range(9)), {}, ()), max_length=most),
    )
    for epoch in range(5):
        data.set_epoch(epoch)
        assert all(len(data[place]["input_ids"]) <= most for place in range(len(data)))


def test_a_batch_is_padded_right_and_masked_by_length() -> None:
    items = [
        {"input_ids": [0, 5, 0], "labels": [IGNORE, 5, 0], "rows": 7},
        {"input_ids": [3], "labels": [IGNORE], "rows": 1},
    ]
    batch = collate(items)
    assert batch["input_ids"].tolist() == [[0, 5, 0], [3, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert batch["labels"].tolist() == [[IGNORE, 5, 0], [IGNORE] * 3]
    assert batch["rows"].tolist() == [7, 1]


def test_the_shorter_limit_counts() -> None:
    assert shortened(settle(TrainOptions(max_length=100)), 50) == 50
    assert shortened(settle(TrainOptions(max_length=100)), 500) == 100
    assert shortened(settle(TrainOptions()), 500) == 500


def many(count: int) -> list[Row]:
    scripts = ("No.", "<&a&>", "<&a&> and <&b&>", "<&a&><&b&><&c&>", "<&a&><&b&><&c&><&d&>")
    return [Row(("a", "b", "c", "d"), f"q{i}", scripts[min(i % 7, 4)]) for i in range(count)]


@pytest.mark.parametrize(("count", "wanted"), [(1, 0), (39, 0), (40, 8), (60, 9), (500, 75)])
def test_how_many_rows_are_kept_for_validation(count: int, wanted: int) -> None:
    rows = many(count)
    train, valid = split(rows, 0.15, 42)
    assert len(valid) == wanted
    assert sorted([*train, *valid], key=rows.index) == rows


def test_each_kind_of_row_is_validated_by_its_share() -> None:
    train, valid = split(many(700), 0.15, 42)

    def shares(part: list[Row]) -> list[float]:
        kinds = [min(3, len(used_actions(row))) for row in part]
        return [kinds.count(kind) / len(part) for kind in range(4)]

    assert shares(valid) == pytest.approx(shares(train), abs=0.01)
    assert split(many(700), 0.15, 42) == (train, valid)
    assert split(many(700), 0.15, 43) != (train, valid)
    assert split(many(700), 0.0, 42)[1] == []
