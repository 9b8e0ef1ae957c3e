import json
from dataclasses import replace
from pathlib import Path

import openpyxl
import pytest

from actune.data.check import check_rows
from actune.data.load import load_rows
from actune.data.rows import Row, Turn
from actune.data.table import read_table
from actune.errors import UserError

EXAMPLES = Path(__file__).parent.parent / "examples"


def bare(rows: list[Row]) -> list[Row]:
    return [replace(row, file="", sheet="", line=0) for row in rows]


@pytest.mark.parametrize("name", ["actions_zh.xlsx", "actions_zh_gb18030.csv"])
def test_the_examples_hold_the_same_rows_in_every_format(name: str) -> None:
    assert bare(load_rows([EXAMPLES / name])) == bare(load_rows([EXAMPLES / "actions_zh.csv"]))


@pytest.mark.parametrize("name", ["actions_zh.csv", "actions_en.csv", "actions_zh.xlsx", "actions_zh_gb18030.csv"])
def test_the_examples_are_clean(name: str) -> None:
    report = check_rows([read_table(EXAMPLES / name)])
    assert report.findings == ()
    assert report.summary.rows == 60
    assert dict(report.summary.uses) == {"0": 12, "1": 27, "2": 15, "3+": 6}


def test_columns_by_name_in_any_order_with_persona_and_others_ignored(tmp_path: Path) -> None:
    file = tmp_path / "a b 中文.csv"
    file.write_text(
        "备注,Output, QUESTION ,人设,行动\r\n\r\nx,<&a b&>,饿了,厨师,a b、c/d\r\n,,,,\r\n", encoding="utf-8", newline=""
    )
    table = read_table(file)
    assert table.rows == [Row(("a b", "c/d"), "饿了", "<&a b&>", "厨师", file=str(file), line=3)]
    assert len(table.notes) == 1
    assert "备注" in table.notes[0]
    assert not table.findings


@pytest.mark.parametrize(("suffix", "mark"), [(".tsv", "\t"), (".csv", ";"), (".csv", "\t"), (".csv", ",")])
def test_the_delimiter_is_found_in_the_header(tmp_path: Path, suffix: str, mark: str) -> None:
    file = tmp_path / f"t{suffix}"
    file.write_text(mark.join(["actions", "input", "output"]) + "\n" + mark.join(["-", "hi", "yes"]), encoding="utf-8")
    assert [row.question for row in load_rows([file])] == ["hi"]


def test_sheets_know_their_name_and_row(tmp_path: Path) -> None:
    book = openpyxl.Workbook()
    first = book.active
    assert first is not None
    first.title = "说明"
    first.append(["how to fill this in"])
    for title in ("一", "二"):
        sheet = book.create_sheet(title)
        sheet.append([])
        for row in (["行动", "问题", "回答"], [None, None, None], ["a", 12, "<&a&>_x000D_\nok"]):
            sheet.append(row)
    book.save(tmp_path / "t.xlsx")
    table = read_table(tmp_path / "t.xlsx")
    assert [(row.sheet, row.line, row.question) for row in table.rows] == [("一", 4, "12"), ("二", 4, "12")]
    assert table.rows[0].script == "<&a&>\nok"
    assert "说明" in table.notes[0]


def test_jsonl_takes_lists_history_and_choice_rows(tmp_path: Path) -> None:
    file = tmp_path / "t.jsonl"
    lines = [
        {"行动": "a、b", "问题": "q\u2028r", "回答": "<&a&>", "history": [{"role": "user", "content": "x"}]},
        {
            "id": "7",
            "source": "s",
            "actions": ["a", "b"],
            "describe": {"a": "does a"},
            "question": "q",
            "expected": ["b", "b"],
            "ordered": True,
            "history": [["usr", "x"], ["sys", "y"]],
            "lang": "en",
        },
        {"actions": [], "question": "q2", "answer": "hi"},
    ]
    text = "\n\n".join(json.dumps(line, ensure_ascii=False) for line in lines)
    file.write_text(text, encoding="utf-8")
    rows = load_rows([file])
    assert rows[0] == Row(("a", "b"), "q\u2028r", "<&a&>", history=(Turn("user", "x"),), file=str(file), line=1)
    assert rows[1] == Row(
        ("a", "b"),
        "q",
        "",
        history=(Turn("user", "x"), Turn("assistant", "y")),
        expected=("b", "b"),
        ordered=True,
        describe={"a": "does a"},
        id="7",
        source="s",
        lang="en",
        file=str(file),
        line=3,
    )
    assert rows[2].actions == ()


def test_load_refuses_with_all_errors_at_once(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    file.write_text("actions,input,output\na,,x\na,q,<&b&>\n", encoding="utf-8")
    with pytest.raises(UserError) as caught:
        load_rows([file])
    assert caught.value.exit_code == 1
    assert f"{file}:2" in str(caught.value)
    assert f"{file}:3" in str(caught.value)


def test_load_without_files_is_wrong_use() -> None:
    with pytest.raises(UserError) as caught:
        load_rows([])
    assert caught.value.exit_code == 2
