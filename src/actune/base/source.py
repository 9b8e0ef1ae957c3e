"""Where a base comes from: a bundled name, a local folder, a hub id, or ModelScope."""

from __future__ import annotations

import importlib.util
import json
import re
from dataclasses import dataclass
from pathlib import Path

from actune.base.bundled import BUNDLED, bundled
from actune.base.cache import weight_files, weights_sha256
from actune.errors import UserError, either

_ID = r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?"
SOURCES = ("hub", "modelscope")
# No .bin, no .pt: pickled weights run code. Python files come along but run only with --trust-remote-code.
_PATTERNS = ["*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "*.py", "LICENSE*", "NOTICE*"]


@dataclass(frozen=True)
class Source:
    """A base on this machine.

    Args:
        id: The name the user gave.
        path: Its folder.
        sha256: Hash over its weights.
    """

    id: str
    path: Path
    sha256: str


def resolve(name: str, source: str = "hub") -> Source:
    """Find a base by name and bring it to this machine when a hub has it.

    A bundled name comes first (write `./smollm2` for a folder of that name), then a folder, then a hub id.

    Args:
        name: Bundled name, folder, or hub id.
        source: `hub` (Hugging Face) or `modelscope`.

    Raises:
        UserError: Nothing of that name, not pulled yet, no network, or no safetensors weights in it.
    """
    if source not in SOURCES:
        raise UserError("--source", source, ", ".join(SOURCES), either("leave it out", "不填即可"))
    if name in BUNDLED:
        return _source(name, _bundled_folder(name))
    if name and Path(name).expanduser().is_dir():
        return _source(name, Path(name).expanduser().absolute())
    if not re.fullmatch(_ID, name):
        raise UserError(
            f"--base {name}",
            either("no such folder", "没有这个文件夹"),
            either("a model folder, a hub id or a bundled name", "模型文件夹, hub id 或内置名称"),
            either(f"check the path; bundled: {', '.join(BUNDLED)}", f"检查路径; 内置: {', '.join(BUNDLED)}"),
        )
    return _source(name, _from_modelscope(name) if source == "modelscope" else _from_hub(name))


def described(name: str, source: str = "hub") -> Path:
    """Find the folder with a base's configuration and tokenizer; no weights are looked for or fetched.

    Args:
        name: Bundled name, folder, or hub id.
        source: `hub` (Hugging Face) or `modelscope`.

    Raises:
        UserError: Nothing of that name, or no network.
    """
    folder = Path(name).expanduser()
    if name in BUNDLED or source != "hub" or not name or not (folder.is_dir() or re.fullmatch(_ID, name)):
        return resolve(name, source).path
    if not folder.is_dir():
        return _from_hub(name, [pattern for pattern in _PATTERNS if "safetensors" not in pattern])
    if (folder / "config.json").is_file():
        return folder.absolute()
    return resolve(name, source).path  # which says what is missing


def _source(name: str, folder: Path) -> Source:
    for wanted in ("config.json", *_missing_weights(folder)):
        if not (folder / wanted).is_file():
            raise UserError(
                f"--base {name}",
                either(f"{folder} has no {wanted}", f"{folder} 中没有 {wanted}"),
                either("a Hugging Face folder with safetensors weights", "带 safetensors 权重的 Hugging Face 文件夹"),
                either("pickled weights (.bin) are not loaded: convert them", "不加载 .bin 权重: 请先转换"),
            )
    return Source(name, folder, weights_sha256(folder))


def _missing_weights(folder: Path) -> list[str]:
    """Return the names of the weight files that the folder should hold and does not."""
    index = folder / "model.safetensors.index.json"
    if index.is_file():
        shards = set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
        return sorted(shard for shard in shards if not (folder / shard).is_file())
    return [] if weight_files(folder) else ["model.safetensors"]


def _bundled_folder(name: str) -> Path:
    base = bundled(name)
    if not base.is_pulled():
        line = f"actune pull {name}" + (" --accept-license" if base.must_accept else "")
        raise UserError(
            f"--base {name}",
            either("it is not on this machine yet", "本机还没有它"),
            str(base.folder),
            either(f"fetch it once ({base.megabytes} MB): {line}", f"先下载一次 ({base.megabytes} MB): {line}"),
        )
    return base.folder


def _from_hub(name: str, patterns: list[str] = _PATTERNS) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    try:
        folder = Path(snapshot_download(name, allow_patterns=patterns, local_files_only=True))
        # A snapshot that was cut off is found all the same.
        if (folder / "config.json").is_file() and (patterns is not _PATTERNS or not _missing_weights(folder)):
            return folder
    except LocalEntryNotFoundError:
        pass
    try:
        return Path(snapshot_download(name, allow_patterns=patterns))
    except (HfHubHTTPError, OSError, ValueError) as error:
        raise _unreachable(name, "Hugging Face Hub", error) from error


def _from_modelscope(name: str) -> Path:
    if importlib.util.find_spec("modelscope") is None:
        raise UserError(
            "--source modelscope",
            either("the modelscope library is not installed", "没有安装 modelscope 库"),
            "modelscope",
            "python -m pip install 'actune[modelscope]'",
        )
    from modelscope import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=_PATTERNS))
    except (OSError, ValueError) as error:
        raise _unreachable(name, "ModelScope", error) from error


def _unreachable(name: str, hub: str, error: Exception) -> UserError:
    text = (str(error).strip() or type(error).__name__).splitlines()[0]
    return UserError(
        f"--base {name}",
        either(f"no such folder here, and {hub} did not give it: {text}", f"本机无此文件夹, {hub} 也取不到: {text}"),
        either("a model folder, a reachable hub id or a bundled name", "模型文件夹, 可访问的 hub id 或内置名称"),
        either(
            f"check name and network, or copy the model here and give its folder; bundled: {', '.join(BUNDLED)}",
            f"检查名称和网络, 或把模型拷到本机并给出文件夹; 内置: {', '.join(BUNDLED)}",
        ),
    )
