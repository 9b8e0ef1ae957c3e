"""The folder of this user that keeps pulled bases and the hashes of bases."""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path

from filelock import FileLock


def cache_folder() -> Path:
    """Return the cache folder: $ACTUNE_CACHE, else $XDG_CACHE_HOME/actune, else ~/.cache/actune."""
    if own := os.environ.get("ACTUNE_CACHE"):
        return Path(own).expanduser().absolute()
    if shared := os.environ.get("XDG_CACHE_HOME"):
        return Path(shared).expanduser().absolute() / "actune"
    return Path.home() / ".cache" / "actune"


def weight_files(folder: Path) -> list[Path]:
    """Return the safetensors files of a base, by name; adapters that lie beside them are not the base."""
    return sorted(file for file in folder.glob("*.safetensors") if not file.name.startswith("adapter_"))


def _digest(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def weights_sha256(folder: Path) -> str:
    """Return one SHA-256 over the names and contents of a base's safetensors files.

    A file's digest is remembered by path, size and time of change, so that it is read once only.

    Args:
        folder: A model folder with at least one safetensors file.

    Returns:
        64 hexadecimal digits; the same for the same weights wherever the folder lies.
    """
    store = cache_folder() / "hashes.json"
    store.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(store.with_suffix(".lock")):
        known = _read_known(store)
        whole, changed = hashlib.sha256(), False
        for file in weight_files(folder):
            # Hub caches hold symbolic links into a store of contents: what counts is the file behind the link.
            real = file.resolve()
            state = real.stat()
            stamp = f"{state.st_size}:{state.st_mtime_ns}"
            entry = known.get(str(real))
            if entry is None or entry[0] != stamp:
                known[str(real)] = entry = [stamp, _digest(real)]
                changed = True
            whole.update(f"{file.name}\0{entry[1]}\n".encode())
        if changed:
            temporary = store.with_suffix(".part")
            temporary.write_text(json.dumps(known, indent=1), encoding="utf-8")
            temporary.replace(store)
    return whole.hexdigest()


def _read_known(store: Path) -> dict[str, list[str]]:
    try:
        known = json.loads(store.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        # A torn or foreign file costs one more reading of the weights, never an error.
        return {}
    return known if isinstance(known, dict) else {}
