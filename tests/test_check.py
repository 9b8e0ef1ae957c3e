import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from actune.check import check
from actune.errors import UserError

EXAMPLES = Path(__file__).parent.parent / "examples"


def run(code: str, **env: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, check=False, env=os.environ | env, timeout=60
    )


def test_no_file_and_an_unknown_encoding_are_wrong_use() -> None:
    for files, encoding in (([], None), ([EXAMPLES / "actions_zh.csv"], "klingon")):
        with pytest.raises(UserError) as caught:
            check(files, encoding=encoding)
        assert caught.value.exit_code == 2


def test_json_holds_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    bad = tmp_path / "坏 文件.csv"
    bad.write_text("行动,问题,回答\na,q,<&b&>\n", encoding="utf-8")
    assert check([bad, EXAMPLES / "actions_zh.xlsx"], json=True) == 1
    data = json.loads(capsys.readouterr().out)
    (error,) = data["errors"]
    assert (error["file"], error["line"], error["column"], error["code"]) == (str(bad), 2, "回答", "unlisted-tag")
    assert data["warnings"] == []
    assert data["summary"]["rows"] == 61
    assert data["exit_code"] == 1


def test_one_report_for_all_files_in_their_order(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    files = [tmp_path / "z.csv", tmp_path / "gone.csv", tmp_path / "a.csv"]
    for file in (files[0], files[2]):
        file.write_text("actions,input,output\na,,\n", encoding="utf-8")
    assert check(files) == 1
    shown = capsys.readouterr().out
    assert shown.index("z.csv:2") < shown.index("gone.csv") < shown.index("a.csv:2")


def test_rows_are_checked_without_what_makes_it_slow() -> None:
    code = (
        "import sys\n"
        "from pathlib import Path\nfrom actune.check import check\n"
        f"code = check([Path({str(EXAMPLES / 'actions_zh.csv')!r})])\n"
        "assert not {'torch', 'transformers', 'datasets'} & set(sys.modules)\n"
        "sys.exit(code)"
    )
    done = run(code)
    assert done.returncode == 0, done.stderr


def test_a_large_table_with_an_open_quote_does_not_take_for_ever(tmp_path: Path) -> None:
    file = tmp_path / "t.csv"
    rows = "".join(f'a,"q{n}\nr",x\n' for n in range(5000))
    file.write_text(f'actions,input,output\na,"q,x\n{rows}', encoding="utf-8")
    start = time.perf_counter()
    assert check([file]) == 1
    assert time.perf_counter() - start < 10


@pytest.mark.parametrize("lang", ["en", "zh"])
def test_output_survives_a_terminal_in_gbk(tmp_path: Path, lang: str) -> None:
    file = tmp_path / "t.csv"
    file.write_text("行动,问题,回答\na,😀,<&😀&>\n", encoding="utf-8")
    code = f"from pathlib import Path; from actune.check import check; check([Path({str(file)!r})])"
    done = run(code, PYTHONIOENCODING="gbk", ACTUNE_LANG=lang)
    assert (done.returncode, done.stderr) == (0, b"")
    assert "回答" in done.stdout.decode("gbk")


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from([".csv", ".tsv", ".xlsx", ".jsonl"]),
    st.sampled_from([b"", "行动,问题,回答\n".encode(), b"actions\tinput\toutput\n", b'{"actions": ']),
    st.binary(max_size=60) | st.text(st.sampled_from('a"<&>,、{}[]:\n\0无'), max_size=40).map(str.encode),
)
def test_no_file_at_all_brings_a_traceback(tmp_path: Path, suffix: str, head: bytes, tail: bytes) -> None:
    file = tmp_path / f"t{suffix}"
    file.write_bytes(head + tail)
    assert check([file]) in (0, 1)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 12000), st.binary(min_size=1, max_size=4))
def test_no_damaged_workbook_brings_a_traceback(tmp_path: Path, place: int, damage: bytes) -> None:
    data = bytearray((EXAMPLES / "actions_zh.xlsx").read_bytes())
    start = place % len(data)
    data[start : start + len(damage)] = damage
    file = tmp_path / "t.xlsx"
    file.write_bytes(data)
    assert check([file]) in (0, 1)


def test_a_base_adds_the_lengths_in_its_tokens(tiny_base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from actune.base.load import load_tokenizer
    from actune.data.load import load_rows
    from actune.prompt import PromptFormat, answer_ids, render_ids

    file = EXAMPLES / "actions_en.csv"
    assert check([file], json=True, base=str(tiny_base)) == 0
    tokens = json.loads(capsys.readouterr().out)["summary"]["tokens"]
    rows, tokenizer = load_rows([file]), load_tokenizer(tiny_base)
    fmt = PromptFormat.for_rows(rows, tokenizer)
    first = len(render_ids(tokenizer, fmt, rows[0].question, rows[0].actions)) + len(
        answer_ids(tokenizer, fmt, rows[0].script)
    )
    assert 0 < tokens["min"] <= tokens["median"] <= tokens["max"]
    assert tokens["min"] <= first <= tokens["max"]
