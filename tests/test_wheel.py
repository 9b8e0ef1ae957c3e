"""Wheel and source archive: built, installed into a fresh environment, and used from there."""

import json
import os
import site
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.wheel
ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with both. The wheel is made from the source archive, so that archive is whole."""
    out = tmp_path_factory.mktemp("dist")
    # Without isolation: hatchling is here, and a second download of it proves nothing.
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    subprocess.run(command, check=True, capture_output=True)
    return out


@pytest.fixture(scope="module")
def installed(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The `actune` of a fresh environment, from the wheel."""
    (wheel,) = built.glob("*.whl")
    return install(wheel, tmp_path_factory.mktemp("fresh"))


def install(archive: Path, folder: Path) -> Path:
    """Install into a fresh environment, which borrows all other packages from this one; give its `actune`."""
    venv.create(folder, with_pip=False)
    (packages,) = folder.glob("lib/python*/site-packages")
    # A line with a folder adds it behind; .pth files in there (this checkout's own) are not obeyed.
    (packages / "borrowed.pth").write_text("\n".join(site.getsitepackages()), encoding="utf-8")
    command = [sys.executable, "-m", "pip", "--python", str(folder / "bin/python"), "install", "--no-deps", "--quiet"]
    subprocess.run([*command, "--no-build-isolation", "--ignore-installed", str(archive)], check=True)
    return folder / "bin" / "actune"


def run(program: Path, *arguments: str, cwd: Path) -> str:
    clean = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    command = [str(program), *arguments]
    result = subprocess.run(
        command, cwd=cwd, env=clean, capture_output=True, text=True, encoding="utf-8", check=False, timeout=120
    )
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_archives_hold_what_a_user_needs_and_nothing_big(built: Path) -> None:
    (wheel,), (source,) = built.glob("*.whl"), built.glob("*.tar.gz")
    names = set(zipfile.ZipFile(wheel).namelist())
    assert {"actune/py.typed", "actune/examples/actions_en.csv", "actune/serve/stage/index.html"} <= names
    assert {f"actune/practice/{lang}.jsonl" for lang in ("en", "zh")} <= names
    assert any(name.endswith("licenses/LICENSE") for name in names)
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {"actune"}
    with tarfile.open(source) as archive:
        assert any(name.endswith("/tests/conftest.py") for name in archive.getnames())
    assert max(wheel.stat().st_size, source.stat().st_size) < 10_000_000


def test_it_is_the_installed_one_that_runs(installed: Path, tmp_path: Path) -> None:
    place = run(installed.parent / "python", "-c", "import actune; print(actune.__file__)", cwd=tmp_path)
    assert Path(place.strip()).is_relative_to(installed.parent.parent)


def test_the_source_archive_can_be_installed_too(built: Path, tmp_path: Path) -> None:
    (source,) = built.glob("*.tar.gz")
    assert "train" in run(install(source, tmp_path / "fresh"), "--help", cwd=tmp_path)


def test_help_and_check(installed: Path, tmp_path: Path) -> None:
    assert "train" in run(installed, "--help", cwd=tmp_path)
    (tmp_path / "t.csv").write_text("行动,问题,回答\n灯-打开,好黑,<&灯-打开&>\n", encoding="utf-8")
    assert "t.csv" in run(installed, "check", "t.csv", cwd=tmp_path)


def test_say(installed: Path, tmp_path: Path, tiny_base: Path) -> None:
    said = run(
        installed, "say", str(tiny_base), "hi", "--actions", "lamp-on", "--max-tokens", "4", "--json", cwd=tmp_path
    )
    assert json.loads(said.splitlines()[-1])["type"] == "done"
