"""What READMEs and docs show is true: commands exist, short ones print what is shown, the long way is walked."""

from __future__ import annotations

import ast
import csv
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from cyclopts import App, CycloptsError

from actune.cli import app

ROOT = Path(__file__).parent.parent
PAGES = [*ROOT.glob("README*.md"), *sorted((ROOT / "docs").rglob("*.md"))]
# Words that stand for something of the reader's.
PLACEHOLDERS = {"RUN": "run", "DATA": "t.csv", "DIR": "out", "…": "", "FILE": "t.csv", "BASE": "base"}
TABLES = {
    "bad.csv": "actions,question,answer\ncup-fill、lamp-on,I am thirsty.,Here you are. <&cup-fil&>\n"
    'lamp-on,It is dark.,"<lamp-on>"\ncup-fill,Hello,Hi!\nlamp-on,,Hm.\n',
    "坏.csv": "行动,问题,回答\n杯子-倒水、灯光-打开,渴了,<&杯子-倒茶&>\n灯光-打开,好黑,＜&灯光-打开&＞\n",
    "cols.csv": "name,text\na,b\n",
}


def fences(page: Path) -> Iterator[tuple[str, str]]:
    """Yield (first line's words, body) of each fenced block."""
    for match in re.finditer(r"^ *```([^\n`]*)\n(.*?)^ *```$", page.read_text(encoding="utf-8"), re.M | re.S):
        yield match[1].strip(), match[2]


def commands(page: Path) -> list[str]:
    """Every command of actune in a page's blocks, and those between backticks that begin with `actune`."""
    lines = [line.strip().removeprefix("$ ") for _, body in fences(page) for line in body.splitlines()]
    lines += re.findall(r"`(actune [^`\n]+)`", page.read_text(encoding="utf-8"))
    found = [line.removeprefix(".venv/bin/").split(" #")[0].strip() for line in lines]
    return [line for line in found if line.startswith("actune ")]


def parsed(line: str) -> list[str]:
    words = [PLACEHOLDERS.get(word, word) for word in shlex.split(line)[1:]]
    return [word.split("|")[0] for word in words if word]  # `--format gbnf|lark` shows what may stand there.


def problem(cli: App, line: str) -> str:
    """Say what is wrong with a command; whole ones must be accepted as they stand."""
    words = parsed(line)
    if words and words[0] in ("COMMAND", "--help"):
        return ""
    try:
        cli.parse_args(words, print_error=False, exit_on_error=False)
    except CycloptsError as error:
        # In running text an option may be named without the rest of its command.
        if "requires an argument" in str(error) or "Missing" in type(error).__name__:
            return ""
        return f"{line}: {error}"
    return ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_and_options_exist(page: Path) -> None:
    cli = app()
    assert [text for line in commands(page) if (text := problem(cli, line))] == []


def test_a_wrong_option_would_be_found() -> None:
    assert "--epoch" in problem(app(), "actune train t.csv --base b --out o --epoch 3")
    assert problem(app(), "actune fly") != ""


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_python_is_python(page: Path) -> None:
    for kind, body in fences(page):
        if kind == "python":
            ast.parse(body)


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with the examples and the faulty tables that the pages show."""
    shutil.copytree(ROOT / "examples", tmp_path / "examples")
    for name, text in TABLES.items():
        (tmp_path / name).write_text(text, encoding="utf-8")
    return tmp_path


SHOWN = [(page, kind, body) for page in PAGES for kind, body in fences(page) if kind.startswith("console")]


@pytest.mark.parametrize(
    ("page", "kind", "body"), SHOWN, ids=[f"{page.stem}: {body.splitlines()[0]}" for page, _, body in SHOWN]
)
def test_output_is_as_shown(page: Path, kind: str, body: str, place: Path) -> None:
    command, wanted = body.removeprefix("$ ").split("\n", 1)
    words = [sys.executable, "-m", "actune", *shlex.split(command)[1:]]
    environment = {**os.environ, "ACTUNE_LANG": "zh" if kind == "console zh" else "en", "COLUMNS": "200"}
    result = subprocess.run(
        words, cwd=place, env=environment, capture_output=True, text=True, encoding="utf-8", check=False, timeout=60
    )
    assert (result.stdout + result.stderr).strip() == wanted.strip()


@pytest.mark.parametrize("page", [page for page in PAGES if page.parent == ROOT], ids=lambda page: page.name)
def test_links_of_the_readmes_lead_somewhere(page: Path) -> None:
    links = re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8"))
    assert links
    assert [link for link in links if not (ROOT / link).exists()] == []


def test_both_readmes_show_the_same() -> None:
    en, zh = ((ROOT / name).read_text(encoding="utf-8") for name in ("README.md", "README.zh-CN.md"))
    assert [line.count("\n") for line in re.findall(r"^```.*?^```", en, re.M | re.S)] == [
        line.count("\n") for line in re.findall(r"^```.*?^```", zh, re.M | re.S)
    ]
    assert len(re.findall(r"^## ", en, re.M)) == len(re.findall(r"^## ", zh, re.M))
    # A measured figure stands in both or in none; millions are counted otherwise in Chinese.
    figures = re.compile(r"(?<![\d.])\d+\.\d+(?!\.?\d| 亿)")
    assert sorted(set(figures.findall(en))) == sorted(set(figures.findall(zh)))


def test_make_knows_the_targets_of_the_readmes() -> None:
    targets = set(re.findall(r"^(\w[\w-]*):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.M))
    named = {word for page in PAGES for word in re.findall(r"(?:`|^)make ([\w-]+)", page.read_text("utf-8"), re.M)}
    assert {"demo", "test"} <= named <= targets


@pytest.mark.slow
def test_the_way_of_the_readme_is_walked(place: Path) -> None:
    """Every command under "The way", in order, on smollm2; practice (minutes) has slow tests of its own."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    way = text[text.index("## The way") :].split("```")[1].strip().splitlines()
    with (place / "examples/actions_en.csv").open(encoding="utf-8", newline="") as table:
        rows = list(csv.reader(table))[:9]
    with (place / "my_test_rows.csv").open("w", encoding="utf-8", newline="") as table:
        csv.writer(table).writerows(rows)
    for line in way:
        words = shlex.split(line.split(" #")[0])[1:]
        command = [sys.executable, "-m", "actune", *words]
        if words[0] == "practice":
            continue
        if words[0] == "serve":
            serve_and_end(command, place)
            continue
        # What counts is that each command takes what the one before left.
        short = ["--epochs", "1", "--save-steps", "100"] if words[0] == "train" else []
        result = subprocess.run(
            [*command, *short], cwd=place, capture_output=True, text=True, encoding="utf-8", check=False, timeout=900
        )
        assert result.returncode == 0, f"{line}\n{result.stdout}{result.stderr}"


def serve_and_end(command: list[str], place: Path) -> None:
    process = subprocess.Popen([*command, "--port", "8797"], cwd=place)
    try:
        for _ in range(120):
            time.sleep(1)
            try:
                with urllib.request.urlopen("http://127.0.0.1:8797/healthz", timeout=5) as answer:
                    assert b'"ok"' in answer.read()
                    break
            except OSError:
                assert process.poll() is None
        else:
            pytest.fail("the server does not answer")
    finally:
        process.send_signal(signal.SIGINT)
    assert process.wait(60) in (0, 130)
