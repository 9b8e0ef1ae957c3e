"""The command `export`: a run for llama.cpp, Ollama, vLLM or PEFT, proved equal where a program can be asked."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from actune.errors import either


def export(
    run: Path,
    *,
    to: Literal["gguf", "ollama", "vllm", "peft"],
    out: Path,
    dtype: Literal["f32", "f16", "bf16", "q8_0"] = "q8_0",
    onto: Literal["trained", "original"] = "trained",
    base: str | None = None,
    device: str = "auto",
    trust_remote_code: bool = False,
) -> int:
    """Write a run in the form that another program reads.

    Args:
        run: A run, a checkpoint in one, or a merged folder.
        to: gguf (llama.cpp), ollama (GGUF and Modelfile), vllm (merged folder), or peft (the adapter alone).
        out: The folder to write, new or empty.
        dtype: Of the matrices in a GGUF file.
        onto: For a run on a quantised base: the base as it was trained on, or the original one.
        base: Where the run's base is now, if it moved; its hash is checked.
        device: Where comparisons are computed, in fp32: cuda, mps or cpu.
        trust_remote_code: Run Python code that comes with the base.

    Returns:
        Exit status 0.

    Raises:
        UserError: It cannot be exported, or the folder is not empty (2); or the result is not equal enough, and was
            deleted (3).
    """
    from actune.engine.llama_cpp import need_llama
    from actune.export.case import read_case
    from actune.export.make import make
    from actune.export.staging import staging
    from actune.export.targets import (
        check_merged,
        is_run,
        tell_losses,
        write_gguf,
        write_ollama,
        write_peft,
        write_vllm,
    )

    if to in ("gguf", "ollama"):
        need_llama(f"--to {to}")
    with staging(out) as staged:
        if to == "peft":
            write_peft(read_case(run, onto, base, device, trust_remote_code), staged)
        else:
            model = run
            if is_run(run):
                model = staged.parent / "merged" if to != "vllm" else staged / "model"
                model.mkdir()
                make(read_case(run, onto, base, device, trust_remote_code), model, None, out)
            check_merged(model)
            if to == "vllm":
                write_vllm(model, staged, trust_remote_code)
            else:
                proof = write_gguf(model, staged, dtype, device, trust_remote_code)
                if to == "ollama":
                    write_ollama(model, staged, proof)
            tell_losses(model, staged, to)
    print(either(f"done: {out}", f"完成: {out}"))
    return 0
