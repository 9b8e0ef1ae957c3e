"""The command `eval`: a run and tables become scores with intervals and a report."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from actune.errors import UserError, either
from actune.say import How
from actune.terminal import survive

if TYPE_CHECKING:
    from actune.evaluate.cases import Case

REPORT, PAGE = "report.json", "report.html"


def evaluate(
    run: str,
    data: list[Path],
    *,
    against: str | None = None,
    out: Path | None = None,
    limit: int | None = None,
    list_size: int | None = None,
    forgetting: bool = True,
    encoding: str | None = None,
    how: How | None = None,
) -> int:
    """Score how well a model acts, with 95 % intervals; report.html in the output folder shows every answer.

    Args:
        run: A run, a checkpoint, a merged folder, or a base.
        data: Tables: .csv, .tsv, .xlsx, .jsonl; rows with `expected` in place of an answer too.
        against: base, or a second run to compare with.
        out: Where the report goes [RUN/eval/NAME-OF-DATA; eval/NAME-OF-DATA for a base].
        limit: Score so many rows at most, of each source its share.
        list_size: Fill lists of acting rows up to so many names with other rows' actions.
        forgetting: Measure how far the tuned model is from its base on 60 general questions.
        encoding: Encoding of text tables, if it cannot be found out.
        how: How it is loaded and speaks.

    Returns:
        Exit status 0.

    Raises:
        UserError: Data, model or folder cannot be used.
    """
    survive()
    how = (how or How()).checked()
    _check_numbers(limit=limit, list_size=list_size)
    cases, total = _read(data, encoding, limit, list_size, how.seed)
    setting = {"limit": limit, "list_size": list_size}
    digest = _digest(cases)
    folder = out or _default_folder(run, data, setting)
    check_folder(folder, digest)

    from rich.console import Console

    from actune.evaluate.examine import examine
    from actune.evaluate.page import write_page
    from actune.evaluate.terminal import print_report
    from actune.tune.run import write_whole

    about = {
        "data": {"files": [str(file) for file in data], "sha256": digest, "rows": len(cases), "of": total},
        "setting": {**setting, "how": asdict(how)},
    }
    report = examine(run, against, cases, how, forgetting, about)
    folder.mkdir(parents=True, exist_ok=True)
    write_page(folder / PAGE, report)
    # Last, so that a folder with it has all of it.
    write_whole(folder / REPORT, json.dumps(report, ensure_ascii=False, indent=1) + "\n")
    console = Console(highlight=False)
    print_report(console, report)
    for name in (PAGE, REPORT):
        console.print(str(folder / name), markup=False, soft_wrap=True)
    return 0


def _check_numbers(**numbers: int | None) -> None:
    wrong = {name: value for name, value in numbers.items() if value is not None and value < 1}
    if wrong:
        raise UserError(
            ", ".join(f"--{name.replace('_', '-')}" for name in wrong),
            ", ".join(map(str, wrong.values())),
            ">= 1",
            either("change it, or leave it out", "修改它, 或不填"),
        )


def _read(
    data: Sequence[Path], encoding: str | None, limit: int | None, list_size: int | None, seed: int
) -> tuple[list[Case], int]:
    """Read the cases to score, and count all there are."""
    from actune.data.load import load_rows
    from actune.evaluate.cases import case_of, lengthened, stratified

    everything = [case_of(row) for row in load_rows(data, encoding)]
    if not everything:
        raise UserError(
            ", ".join(map(str, data)), either("no rows", "没有数据行"), either("at least one row", "至少一行"), ""
        )
    return stratified(lengthened(everything, list_size, seed), limit, seed), len(everything)


def _digest(cases: Sequence[Case]) -> str:
    """SHA-256 of all that is asked and wanted."""
    from actune.tune.run import row_record

    records = [{**row_record(case.row), "expected": case.wanted, "ordered": case.ordered} for case in cases]
    text = json.dumps(records, ensure_ascii=False, sort_keys=True)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def _default_folder(run: str, data: Sequence[Path], setting: dict[str, int | None]) -> Path:
    from actune.tune.run import MANIFEST

    words = [file.stem for file in data]
    words += [f"{name.replace('_', '-')}-{value}" for name, value in setting.items() if value is not None]
    place = Path(run)
    # A base's folder belongs to the cache or to other tools.
    ours = place.is_dir() and any((parent / MANIFEST).is_file() for parent in (place, place.parent))
    return (place / "eval" if ours else Path("eval") / place.name) / "+".join(words)


def check_folder(folder: Path, digest: str) -> None:
    """Make sure that no report on other data is lost.

    Args:
        folder: Where the report shall go.
        digest: SHA-256 of the data.

    Raises:
        UserError: There is one, or something that is no report.
    """
    file = folder / REPORT
    fix = either("give another --out", "换一个 --out")
    if folder.exists() and not folder.is_dir():
        raise UserError(f"--out {folder}", either("a file", "是文件"), either("a folder", "文件夹"), fix)
    if not file.is_file():
        return
    try:
        there = json.loads(file.read_text(encoding="utf-8"))["about"]["data"]
        same, files = there["sha256"] == digest, ", ".join(there["files"])
    except (ValueError, KeyError, TypeError):
        same, files = False, "?"
    if not same:
        raise UserError(
            str(file),
            either(f"a report on other rows ({files})", f"另一份数据的报告 ({files})"),
            either("a new folder, or one with a report on the same rows", "新文件夹, 或同一数据的报告"),
            fix,
        )
