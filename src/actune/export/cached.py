"""The GGUF file of something that acts, made at its first use and kept in the user's cache."""

from __future__ import annotations

import contextlib
import hashlib
import sys
import tempfile
from pathlib import Path

from filelock import FileLock

from actune.base.cache import cache_folder, weights_sha256
from actune.errors import either
from actune.export.gguf import TOOL, make_gguf
from actune.found import ADAPTER, Found


def cached_gguf(found: Found, base: str | None = None, trust_remote_code: bool = False, dtype: str = "q8_0") -> Path:
    """Return the GGUF file; of a run, merged into its base and proved equal before it is rounded.

    Args:
        found: A run, a checkpoint, a merged folder, or a base.
        base: Where the run's base is now, if it moved.
        trust_remote_code: Run Python code that comes with the base.
        dtype: As `gguf.make_gguf` takes it.

    Raises:
        UserError: It cannot be merged or converted.
    """
    where = found.model(base)
    file = cache_folder() / "gguf" / f"{found.folder.resolve().name}-{_digest(found, where, dtype)}.gguf"
    file.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(file.parent / ".lock"):
        if not file.is_file():
            # stdout is for the answer.
            with contextlib.redirect_stdout(sys.stderr):
                print(either(f"Making {file}; this is done once.", f"正在生成 {file}; 只需一次。"))
                _make(found, where, base, trust_remote_code, file, dtype)
    return file


def _make(found: Found, where: Path, base: str | None, trust_remote_code: bool, file: Path, dtype: str) -> None:
    if not found.tuned:
        make_gguf(where, file, dtype)
        return
    from actune.export.merge import merge

    with tempfile.TemporaryDirectory(dir=file.parent, prefix=".merged-") as work:
        merged = Path(work) / "merged"
        merge(found.folder, out=merged, base=base, trust_remote_code=trust_remote_code)
        make_gguf(merged, file, dtype)


def _digest(found: Found, where: Path, dtype: str) -> str:
    """Hash all that the file depends on."""
    whole = hashlib.sha256(f"{weights_sha256(where)} {dtype} {TOOL}".encode())
    if found.tuned:
        for name in (ADAPTER, "adapter_model.safetensors"):
            whole.update((found.folder / name).read_bytes())
    return whole.hexdigest()[:16]
