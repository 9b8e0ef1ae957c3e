import io
import json
import zipfile
from pathlib import Path

import openpyxl
import pytest

from actune.check import check
from actune.data.check import check_rows
from actune.data.report import Finding
from actune.data.table import read_table

HEADER: list[object] = ["行动", "问题", "回答"]
H = "actions,input,output\n"
OK = "a、b,q,<&a&>\n"


def jsonl(**values: object) -> str:
    return json.dumps({"actions": ["a"], "question": "q", "answer": "x"} | values)


def xlsx(*rows: list[object], merge: str = "") -> bytes:
    book = openpyxl.Workbook()
    sheet = book.active
    assert sheet is not None
    for row in rows:
        sheet.append(row)
    if merge:
        sheet.merge_cells(merge)
    buffer = io.BytesIO()
    book.save(buffer)
    return buffer.getvalue()


def empty_zip() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("[Content_Types].xml", "<broken")
    return buffer.getvalue()


GOOD_XLSX = xlsx(HEADER, ["a", "q", "x"])

# File name, content, and every error as (code, line, column).
BROKEN: list[tuple[str, str | bytes, list[tuple[str, int, str]]]] = [
    ("no_actions.csv", "input,output\nq,x\n", [("missing-column", 1, "actions")]),
    ("no_question.csv", "\n行动,回答\na,x\n", [("missing-column", 2, "question")]),
    ("no_answer.csv", "行动,问题,回答案\na,q,x\n", [("missing-column", 1, "answer")]),
    ("no_header.csv", OK,
     [("missing-column", 1, c) for c in ("actions", "question", "answer")] + [("no-rows", 1, "")]),
    ("doubled.csv", "actions,input,output,行动\na,q,<&a&>,b\n", [("doubled-column", 1, "行动")]),
    ("doubled_meaning.csv", "actions,input,question,output\na,q,q,x\n", [("doubled-column", 1, "question")]),
    ("empty_question.csv", H + OK + "a, ,<&a&>\n", [("empty-question", 3, "input")]),
    ("empty_answer.csv", H + OK + '\na,q,"\n"\n', [("empty-answer", 4, "output")]),
    ("no_list.csv", H + ",q,<&a&><&b&>\n", [("no-list", 2, "actions")]),
    ("no_list_said.csv", H + "无,q,<&a&>\n", [("no-list", 2, "actions")]),
    ("empty_list.csv", H + ",q,x\n无,q1,x\nnone,q2,x\n-,q3,x\n", [("empty-list", 2, "actions")]),
    ("unlisted.csv", "行动,问题,回答\n杯子-倒水,渴,<&杯子-到水&>\n", [("unlisted-tag", 2, "回答")]),
    ("two_unlisted.csv", H + "a,q,<&b&><&a&><&c&>\n", [("unlisted-tag", 2, "output")] * 2),
    ("unclosed.csv", H + "a,q,x <&a\n", [("unclosed-tag", 2, "output")]),
    ("empty_tag.csv", H + "a,q,<&&>\n", [("empty-tag", 2, "output")]),
    ("blank_tag.csv", H + "a,q,<& &>\n", [("empty-tag", 2, "output")]),
    ("nested.csv", H + "a,q,<&a<&a&>\n", [("nested-tag", 2, "output")]),
    ("unopened.csv", H + "a,q,a&>\n", [("unopened-tag", 2, "output")]),
    ("padded_tag.csv", H + "a,q,<& a &>\n", [("name-tag", 2, "output")]),
    ("broken_tag.csv", H + 'a,q,"<&a\nb&>"\n', [("name-tag", 2, "output")]),
    ("wide_open.csv", H + "a,q,＜&a&>\n", [("lookalike-tag", 2, "output")]),
    ("wide_close.csv", H + "a,q,<&a&＞\n", [("lookalike-tag", 2, "output")]),
    ("wide_close_then_tag.csv", H + "a,q,<&a&＞ and <&a&>\n", [("lookalike-tag", 2, "output")]),
    ("wide_both.csv", H + "a,q,＜＆a＆＞\n", [("lookalike-tag", 2, "output")]),
    ("spaced_open.csv", H + "a,q,< &a&>\n", [("lookalike-tag", 2, "output")]),
    ("spaced_close.csv", H + "a,q,<&a& >\n", [("lookalike-tag", 2, "output")]),
    ("html.csv", H + "a,q,&lt;&amp;a&amp;&gt;\n", [("lookalike-tag", 2, "output")]),
    ("name_open.csv", H + "<&a,q,x\n", [("name-tag", 2, "actions")]),
    ("name_close.csv", H + "a&>、b,q,x\n", [("name-tag", 2, "actions")]),
    ("name_break.csv", H + '"a\nb",q,x\n' + OK, [("name-control", 2, "actions")]),
    ("name_control.csv", H + OK + "a\x07,q,x\n", [("name-control", 3, "actions")]),
    ("name_blanks.csv", H + "a 、b,q,x\n", [("name-blanks", 2, "actions")]),
    ("name_blanks.jsonl", jsonl(actions=[" a"]), [("name-blanks", 1, "actions")]),
    ("name_empty.csv", H + "a、、b,q,x\n", [("name-empty", 2, "actions")]),
    ("name_twice.csv", H + "a、b、a,q,x\n", [("name-twice", 2, "actions")]),
    ("short_row.csv", H + OK + "a,q\n" + OK.replace("q", "r"), [("ragged-row", 3, "")]),
    ("long_row.csv", H + '"a\n",q,x, y\n', [("ragged-row", 2, "")]),
    ("open_quote.csv", H + 'a,q,"x\n' + OK, [("open-quote", 2, "")]),
    ("open_quote_then_quoted.csv", H + 'a,q,"x\na,r,"y"\na,,z\n',
     [("open-quote", 2, ""), ("empty-question", 4, "input")]),
    ("stray_quote.csv", H + 'a,q,"x" y\n', [("stray-quote", 2, "")]),
    ("nul.csv", H + OK + "a,r\0,x\n", [("nul", 3, "input")]),
    ("nul.jsonl", jsonl(answer="x\0"), [("nul", 1, "answer")]),
    ("bad_utf8.csv", ("行动,问题,回答\n无,饿了饿了,好\n无,渴").encode() + b"\xe5,x\n", [("undecodable", 3, "")]),
    ("bad_gb.csv", "行动,问题,回答\n无,饿了,好\n无,渴,".encode("gb18030") + b"\xff\n", [("undecodable", 3, "")]),
    ("bad_big5.csv", "行動,問題,回答\n無,餓了,好\n無,渴,".encode("big5") + b"\xff\n", [("undecodable", 3, "")]),
    ("bad_utf16.csv", "行动,问题,回答\n无,饿了,好".encode("utf-16") + b"\x00", [("undecodable", 2, "")]),
    ("doubt.csv", (H + "A的B,吃,x\n").encode("gb18030"), [("doubtful-encoding", 2, "")]),
    ("picture.csv", b"\x89PNG\r\n\x1a\n\0\0", [("not-a-table", 0, "")]),
    ("picture.xlsx", b"\xff\xd8\xff\xe0\0\0", [("not-a-table", 0, "")]),
    ("noise.csv", bytes(range(256)) * 4, [("not-a-table", 0, "")]),
    ("renamed.csv", GOOD_XLSX, [("not-a-table", 0, "")]),
    ("old.xlsx", b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(99), [("not-a-table", 0, "")]),
    ("text.xlsx", H + OK, [("not-a-table", 0, "")]),
    ("cut.xlsx", GOOD_XLSX[:900], [("not-a-table", 0, "")]),
    ("inside.xlsx", empty_zip(), [("not-a-table", 0, "")]),
    ("letter.docx", b"PK\x03\x04", [("not-a-table", 0, "")]),
    ("empty.csv", b"", [("empty-file", 0, "")]),
    ("blank.csv", b"\xef\xbb\xbf \r\n\n", [("empty-file", 0, "")]),
    ("empty.xlsx", xlsx(), [("empty-file", 0, "")]),
    ("header.csv", H + "\n", [("no-rows", 1, "")]),
    ("header.xlsx", xlsx(HEADER), [("no-rows", 1, "")]),
    ("blank_rows.csv", H + ",,\n,,\n", [("no-rows", 1, "")]),
    ("cells.xlsx", xlsx(HEADER, [], ["a", None, "<&b&>"]),
     [("empty-question", 3, "问题"), ("unlisted-tag", 3, "回答")]),
    ("merged.xlsx", xlsx(HEADER, ["a", "q", "x"], ["a", "r", "x"], merge="A2:A3"),
     [("merged-cells", 2, ""), ("empty-list", 3, "行动")]),
    ("formula.xlsx", xlsx(HEADER, ["a", "q", "#N/A"]), [("cell-error", 2, "回答")]),
    ("comma.jsonl", jsonl() + "\n" + jsonl()[:-1] + ",}\n", [("not-json", 2, "")]),
    ("array.jsonl", "[1]\n" + jsonl(), [("not-json", 1, "")]),
    ("deep.jsonl", "[" * 100_000, [("not-json", 1, "")]),
    ("key.jsonl", '{"actions": ["a"], "question": "q"}', [("missing-column", 1, "answer")]),
    ("keys.jsonl", '{"actions": [], "question": "q", "input": "q", "answer": "x"}', [("doubled-column", 1, "input")]),
    ("type.jsonl", jsonl(question=5), [("wrong-type", 1, "question")]),
    ("list.jsonl", jsonl(actions=["a", 5]), [("wrong-type", 1, "actions")]),
    ("object.jsonl", jsonl(actions={"a": 1}), [("wrong-type", 1, "actions")]),
    ("role.jsonl", jsonl(history=[["nobody", "x"]]), [("wrong-type", 1, "history")]),
    ("history.jsonl", jsonl(history=[["assistant", "<&a"]]), [("unclosed-tag", 1, "history")]),
    ("half.jsonl", jsonl(answer="\ud83d"), [("undecodable", 1, "answer")]),
    ("expected.jsonl", '{"actions": ["ab"], "question": "q", "expected": ["aB"]}',
     [("unlisted-expected", 1, "expected")]),
    ("none.jsonl", '{"question": "q", "answer": "x"}', [("empty-list", 1, "actions")]),
]  # fmt: skip


def found(path: Path) -> tuple[Finding, ...]:
    return check_rows([read_table(path)]).errors


@pytest.mark.parametrize(("name", "content", "expected"), BROKEN, ids=[each[0] for each in BROKEN])
def test_each_broken_file_is_told_by_line_and_column(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    name: str,
    content: str | bytes,
    expected: list[tuple[str, int, str]],
) -> None:
    path = tmp_path / name
    path.write_bytes(content.encode("utf-8") if isinstance(content, str) else content)
    errors = found(path)
    assert [(each.code, each.line, each.column) for each in errors] == expected
    assert all(each.got and each.wanted and each.fix for each in errors)
    assert check([path]) == 1
    shown = capsys.readouterr().out
    for _, line, _ in expected:
        assert f"{name}[Sheet]:{line}" in shown or f"{name}:{line}" in shown or (not line and name in shown)


def test_there_are_enough_broken_files() -> None:
    assert len(BROKEN) >= 40


def test_missing_files_and_folders_are_told(tmp_path: Path) -> None:
    assert [each.code for each in found(tmp_path / "gone.csv")] == ["missing-file"]
    assert [each.code for each in found(tmp_path)] == ["not-a-table"]
    assert [each.code for each in found(Path("a\0b.csv"))] == ["unreadable-file"]


@pytest.mark.parametrize(
    ("content", "hint"),
    [
        (H + "杯子-倒水、切开-西瓜,q,<&杯子-到水&>\n", "“杯子-倒水”"),
        (H + "Cup-Fill、b,q,<&cup - fill&>\n", "“Cup-Fill”"),
        (H + "a，b,q,<&a&>\n", "、"),
        ("action,input,output\na,q,x\n", "'action'"),
    ],
)
def test_did_you_mean(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, content: str, hint: str) -> None:
    monkeypatch.setenv("ACTUNE_LANG", "en")
    (tmp_path / "t.csv").write_text(content, encoding="utf-8")
    (error,) = found(tmp_path / "t.csv")
    assert hint in error.fix


def test_a_doubt_shows_both_readings_and_the_option(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_bytes((H + "A的B,吃,x\n").encode("gb18030"))
    (error,) = found(tmp_path / "t.csv")
    assert "A的B" in error.got
    assert "A腔B" in error.got
    assert "--encoding gb18030" in error.fix
    assert not check_rows([read_table(tmp_path / "t.csv", "gb18030")]).errors


@pytest.mark.parametrize(
    "answer", ["R&D, 3 < 4 & 5 > 2, AT&T", "<&a&>", "《西瓜》&葡萄", "a <- b && c -> d", "if x<y: z>w"]
)
def test_ordinary_words_are_no_lookalikes(tmp_path: Path, answer: str) -> None:
    (tmp_path / "t.jsonl").write_text(jsonl(answer=answer), encoding="utf-8")
    assert not found(tmp_path / "t.jsonl")


WARNED = [
    ("equal.csv", H + OK + "b、a,q,<&a&>\n", [("equal-rows", 3)]),
    ("other.csv", H + OK + "a、b,q,x\n", [("other-answer", 3)]),
    ("lists.csv", H + OK + "c,q,<&c&>\n", []),
    ("angles.csv", H + "lamp-on、cup,q,Now <lamp-on>\n", [("bracketed-action", 2)]),
    ("near.csv", H + "lamp-on、cup,q,<Lamp on/> 好 [cup]\n", [("bracketed-action", 2)] * 2),
    ("cjk.csv", H + "做饭-炒冬瓜,q,好【做饭-炒冬瓜】<&做饭-炒冬瓜&>\n", [("bracketed-action", 2)]),
    ("words.csv", H + "lamp-on、做饭-炒冬瓜,q,《西瓜》 [sic] a<b and b>c (lamp-on) 【好】\n", []),
    ("busy.csv", H + "".join(f"a,q{n},x<&a&>\n" for n in range(5)), [("few-idle-rows", 0)]),
    ("first.csv", H + "a,q,x\n" + "".join(f"a,q{n},<&a&>x\n" for n in range(5)), [("acts-first", 0)]),
]


@pytest.mark.parametrize(("name", "content", "expected"), WARNED, ids=[each[0] for each in WARNED])
def test_warnings(tmp_path: Path, name: str, content: str, expected: list[tuple[str, int]]) -> None:
    path = tmp_path / name
    path.write_text(content, encoding="utf-8")
    report = check_rows([read_table(path)])
    assert [(each.code, each.line) for each in report.warnings] == expected
    assert not report.errors
    assert check([path]) == 0
    assert check([path], strict=True) == bool(expected)


def test_the_summary_counts(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    answers = ["x", "<&a&>", "<&a&><&b&>", "<&a&><&b&><&a&><&b&>"]
    rows = [jsonl(actions=["a", "b", "c"], question=str(n), answer=answer) for n, answer in enumerate(answers)]
    rows.append('{"actions": ["d", "e"], "question": "q", "expected": ["e"]}')
    path.write_text("\n".join(rows), encoding="utf-8")
    summary = check_rows([read_table(path)]).summary
    assert (summary.rows, summary.choice_rows, summary.actions) == (5, 1, 5)
    assert dict(summary.uses) == {"0": 1, "1": 1, "2": 1, "3+": 1}
    assert summary.never_used == ("c", "d")
    assert dict(summary.encodings) == {str(path): "utf-8"}
