"""The page shows what was said, and nothing of it ever runs."""

from __future__ import annotations

import copy
import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from actune.data.rows import Row, Turn
from actune.evaluate.answers import Answer
from actune.evaluate.cases import case_of, labels
from actune.evaluate.confusion import confusion, is_right
from actune.evaluate.page import page
from actune.evaluate.report import ALL_METRICS, Result, make_report
from actune.evaluate.terminal import notes, print_report, verdict
from actune.evaluate.wording import METRIC_MEANINGS, METRIC_NAMES, SLICE_NAMES
from actune.script.events import Done
from actune.script.parser import parse

EVIL = "<script>document.title='pwned'</script><img src=x onerror=\"document.title='pwned'\">&amp;</style>"
ROWS = [
    Row(("a", "b", "c"), "Do a.", "Yes.<&a&>", id="one", source="S 1"),
    Row(("a", "b", EVIL), EVIL, EVIL, history=(Turn("user", EVIL),), id=EVIL, source=EVIL, file=EVIL),
    Row(("a", "b", EVIL), "both", "", expected=(EVIL, "a"), ordered=True, id="three", source='"S" 2'),
    Row(("a", "b"), "你好", "你好!", id="four", source="S 1"),
]
ANSWERS = {
    "tuned": ["Sure. <&a&>", EVIL, f"<&{EVIL}&><&a&>", "<&b&>"],
    "base": [f"<&{EVIL}&>", "no", "<&b&>", "<&a"],
}


@pytest.fixture(scope="module")
def report() -> dict[str, Any]:
    cases = [case_of(row) for row in ROWS]
    results = [
        Result(
            name,
            [Answer((*parse(text, row.actions), Done("stop"))) for text, row in zip(texts, ROWS, strict=True)],
            [(3.0, 2)] * len(ROWS),
        )
        for name, texts in ANSWERS.items()
    ]
    about = {
        "actune": "0",
        "data": {"files": [EVIL], "sha256": "0", "rows": 4, "of": 9},
        "setting": {"list_size": None},
        "systems": {"tuned": {"given": EVIL, "kind": "adapter"}, "base": {"given": "b", "kind": "base"}},
        "seen": {"asked": True, "rows": 1},
    }
    marks = [labels(case, {"a"}, place == 0) for place, case in enumerate(cases)]
    forgot = {"tuned": [("en", (0.2, 4.0)), ("zh", (0.6, 4.0))]}
    return make_report(about, cases, marks, results, forgot, seed=0)


class Reader(HTMLParser):
    """Collects what a browser would make of the page."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: dict[str, int] = {}
        self.open: list[str] = []
        self.text: list[str] = []
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1
        self.wrong += [name for name, _ in attrs if name.startswith("on")]
        if tag not in ("meta", "input"):
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags[tag] = self.tags.get(tag, 0) + 1

    def handle_endtag(self, tag: str) -> None:
        if not self.open or self.open.pop() != tag:
            self.wrong.append(f"/{tag}")

    def handle_data(self, data: str) -> None:
        if not {"script", "style"} & set(self.open):
            self.text.append(data)


def read(html: str) -> Reader:
    reader = Reader()
    reader.feed(html)
    reader.close()
    return reader


@pytest.mark.parametrize("language", ["en", "zh"])
def test_whatever_a_row_holds_is_text(report: dict[str, Any], language: str) -> None:
    reader = read(page(report, language))
    assert reader.wrong == []
    assert reader.open == []
    assert (reader.tags["script"], reader.tags["style"], reader.tags.get("img", 0)) == (1, 1, 0)
    text = "".join(reader.text)
    # id, file, history, question, list of two rows, reference, answers of both ...
    assert text.count(EVIL) >= 10


def test_only_our_script_may_run_and_nothing_is_fetched(report: dict[str, Any]) -> None:
    html = page(report, "en")
    policy = re.search(r'Content-Security-Policy" content="([^"]+)"', html)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "script-src 'sha256-" in policy[1]
    assert not re.search(r"(src|href)=", html.replace("src=x", ""))


def test_both_languages_have_the_same_and_every_score_has_its_words(report: dict[str, Any]) -> None:
    assert set(METRIC_NAMES) == set(METRIC_MEANINGS) == set(ALL_METRICS)
    assert set(report["slices"]) <= set(SLICE_NAMES)
    html = page(report, "en")
    assert html.count('data-l="en"') == html.count('data-l="zh"') > 40


def test_tags_are_coloured_by_what_was_wanted(report: dict[str, Any]) -> None:
    html = page(report, "en")
    first = html[html.index("Do a.") :]
    assert first.index('<span class="tag hit">a</span>') < first.index('<span class="tag bad">')
    assert '<div class="missed">' in first


def test_right_is_what_the_scores_call_exact(report: dict[str, Any]) -> None:
    rights = {name: [is_right(row, name) for row in report["rows"]] for name in ANSWERS}
    assert rights == {"tuned": [True, True, True, False], "base": [False, True, False, False]}
    assert report["scores"]["tuned"]["exact_act"]["value"] == 1
    assert report["scores"]["base"]["exact_none"]["value"] == 0.5
    turned = copy.deepcopy(report["rows"][2])
    turned["answers"]["tuned"] = f"<&a&><&{EVIL}&>"
    assert not is_right(turned, "tuned")


def test_confusion_pairs_the_missed_with_the_wrong(report: dict[str, Any]) -> None:
    assert confusion(report["rows"], "tuned") == {("a", "a"): 2, (EVIL, EVIL): 1, ("", "b"): 1}
    assert confusion(report["rows"], "base") == {("a", EVIL): 1, (EVIL, "b"): 1, ("a", ""): 1}


def test_the_report_is_what_the_issue_says(report: dict[str, Any]) -> None:
    assert json.loads(json.dumps(report)) == report
    assert report["format"] == 1
    assert {"scores", "difference", "slices", "rows"} <= set(report)
    assert set(report["scores"]["tuned"]) == set(ALL_METRICS)
    assert set(report["scores"]["tuned"]["f1"]) == {"value", "low", "high", "n"}
    assert set(report["difference"][0]) == {"a", "b", "metric", "value", "low", "high"}
    assert set(report["slices"]) == {"wanted", "list", "source", "language", "actions", "row"}
    assert report["slices"]["wanted"]["1"]["base"]["f1"]["n"] == 1
    assert {"id", "file", "line", "question", "actions", "expected", "answers"} <= set(report["rows"][0])
    assert report["rows"][0]["answers"] == {"tuned": "Sure. <&a&>", "base": f"<&{EVIL}&>"}
    assert [row["seen"] for row in report["rows"]] == [True, False, False, False]
    forgot = report["forgetting"]["tuned"]
    assert forgot["value"] == pytest.approx(0.1)
    assert forgot["languages"]["zh"]["value"] == pytest.approx(0.15)
    gain = next(each for each in report["difference"] if each["metric"] == "f1")
    assert (gain["a"], gain["b"]) == ("tuned", "base")
    assert gain["value"] > 0


def test_the_terminal_shows_scores_and_warns_of_trained_rows(
    report: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    print_report(Console(width=160), report)
    shown = capsys.readouterr().out
    assert "1 of these 4 rows were trained on" in shown
    assert "F1 of actions" in shown
    assert "tuned - base" in shown
    about = report["about"]
    assert notes({**about, "seen": {"asked": True, "rows": 0}}) == []
    assert "not known" in notes({**about, "seen": {"asked": True, "rows": None}})[0][0]


def test_a_difference_counts_only_beyond_its_interval() -> None:
    assert [verdict("f1", *ends) for ends in ((0.1, 0.3), (-0.3, -0.1), (-0.1, 0.2), (None, None))] == [1, -1, 0, 0]
    assert verdict("ppl", 0.1, 0.3) == -1


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("chromium") is None, reason="no chromium")
def test_in_a_real_browser_a_row_stays_text(report: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "report.html"
    file.write_text(page(report, "en"), encoding="utf-8")
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    command = ["chromium", *flags, f"--user-data-dir={tmp_path / 'profile'}", "--dump-dom", file.as_uri()]
    dom = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", timeout=120, check=True).stdout
    assert "<title>actune eval</title>" in dom
    assert "4 / 4" in dom, "our own script must have run"
