"""The command line as a user meets it: real subprocesses."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEADER = "行动,问题,回答\n"
GOOD = "杯子-倒水、灯光-打开,渴了,<&杯子-倒水&>\n"


def actune(*arguments: str, **environment: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        [sys.executable, "-m", "actune", *arguments],
        capture_output=True,
        env={**os.environ, "ACTUNE_LANG": "en", **environment},
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize("arguments", [["--help"], ["check", "examples/actions_zh.csv"]])
def test_light_commands_load_no_torch(arguments: list[str]) -> None:
    code = (
        "import sys\nfrom actune.cli import main\n"
        f"try:\n    main({arguments!r})\nexcept SystemExit as end:\n    assert not end.code\n"
        "assert 'torch' not in sys.modules and 'transformers' not in sys.modules\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)


def test_help_names_every_command() -> None:
    from actune.cli import COMMANDS

    shown = actune("--help").stdout.decode()
    assert all(name in shown for name in COMMANDS)


def test_exit_codes(tmp_path: Path) -> None:
    folder = tmp_path / "我的 数据"
    folder.mkdir()
    good, bad = folder / "好.csv", folder / "坏.csv"
    good.write_text(HEADER + GOOD, encoding="utf-8")
    bad.write_text(HEADER + "杯子-倒水,渴了,<&杯子-倒茶&>\n", encoding="utf-8")
    assert actune("check", str(good)).returncode == 0
    result = actune("check", str(bad))
    assert result.returncode == 1
    assert "坏.csv:2" in result.stdout.decode()
    assert "杯子-倒水" in result.stdout.decode()


@pytest.mark.parametrize(
    "arguments",
    [
        ["fly"],
        ["check", "--fly"],
        ["pull", "nothing"],
        ["say", "no-such-run", "hi"],
        ["check", str(ROOT / "examples/actions_zh.csv"), "--encoding", "x"],
    ],
)
def test_wrong_use_is_told_without_a_traceback(arguments: list[str]) -> None:
    result = actune(*arguments)
    shown = (result.stdout + result.stderr).decode()
    assert result.returncode == 2
    assert shown.strip()
    assert "Traceback" not in shown


def test_a_gbk_terminal_is_enough(tmp_path: Path) -> None:
    table = tmp_path / "t.csv"
    table.write_text(HEADER + GOOD + "杯子-倒水,😀,<&杯子-倒茶😀&>\n", encoding="utf-8")
    result = actune("check", str(table), PYTHONIOENCODING="gbk", ACTUNE_LANG="zh")
    assert result.returncode == 1
    assert "倒水" in result.stdout.decode("gbk")
    assert b"Traceback" not in result.stderr
