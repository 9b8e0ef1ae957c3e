"""Tokens from llama.cpp on this machine: the server within the wheel `xllamacpp`, asked over loopback."""

from __future__ import annotations

import importlib.util
import secrets
from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch

from actune.engine.upstream import Upstream, connect
from actune.errors import UserError, either

# Answers written together, and how long each may be: keys and values of all are reserved at the start.
SLOTS, LONGEST = 4, 4096
_PREFIX_MB = 256


def need_llama(where: str = "--engine llama_cpp") -> None:
    """Make sure that the extra ``llama`` is installed.

    Args:
        where: What needs it, for the error.

    Raises:
        UserError: It is not.
    """
    if importlib.util.find_spec("xllamacpp") is None:
        raise UserError(
            where,
            either("xllamacpp is not installed", "未安装 xllamacpp"),
            either("the extra `llama`", "扩展 llama"),
            'pip install "actune[llama]"',
        )


def start_llama(file: Path, tokenizer: Any, stop_ids: Collection[int]) -> Upstream:
    """Load a GGUF file; the server lives as long as the engine.

    Args:
        file: The model.
        tokenizer: Of the same model.
        stop_ids: Every token that ends an answer.

    Raises:
        UserError: The wheel is missing, or llama.cpp cannot read the file.
    """
    need_llama()
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.n_parallel, params.n_ctx = SLOTS, SLOTS * LONGEST
    params.cache_ram_mib = _PREFIX_MB
    fix = either("delete it and try again, or use --engine local", "删除后重试, 或用 --engine local")
    server, key = open_server(file, params, fix)
    return connect(server.listening_address, "", tokenizer, stop_ids, key=key, keeper=server)


def open_server(file: Path, params: Any, fix: str, exit_code: int = 2) -> tuple[Any, str]:
    """Load a GGUF file into a server of this process, on loopback and on a port of its own.

    Args:
        file: The model.
        params: `xllamacpp.CommonParams` with what the caller wants apart from file, threads, address and key.
        fix: What to do if llama.cpp cannot read the file.
        exit_code: Of the error then.

    Returns:
        An `xllamacpp.Server`, which serves as long as it lives, and the key it asks for.

    Raises:
        UserError: llama.cpp cannot read the file.
    """
    import xllamacpp

    params.model.path = str(file)
    # Whatever was set for torch (OMP_NUM_THREADS, a core mask) is meant for us, not for torch alone.
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = torch.get_num_threads()
    # Another user of this machine must not speak through our server.
    key = secrets.token_hex(16)
    params.hostnames, params.port, params.api_keys = ["127.0.0.1"], 0, [key]
    params.verbosity, params.ui = 0, False
    try:
        return xllamacpp.Server(params), key
    except RuntimeError as error:
        wanted = either("a GGUF file that llama.cpp reads", "llama.cpp 可读取的 GGUF 文件")
        raise UserError(str(file), str(error), wanted, fix, exit_code) from error
