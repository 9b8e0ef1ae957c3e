"""A GGUF file appears whole or not at all; it is proved by llama.cpp itself in the slow tests."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from actune.errors import UserError
from actune.export import gguf


def fake_tool(folder: Path, body: str) -> Path:
    """A converter that does as `body` says; `out` is the file it should write."""
    (folder / "gguf").mkdir(parents=True)
    (folder / "gguf" / "__init__.py").write_text("ours = False\n", encoding="utf-8")
    text = f"import sys, pathlib, gguf\nout = pathlib.Path(sys.argv[sys.argv.index('--outfile') + 1])\n{body}\n"
    (folder / "convert_hf_to_gguf.py").write_text(text, encoding="utf-8")
    return folder


def test_the_converter_uses_its_own_gguf_package(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = fake_tool(tmp_path / "a tool", "out.write_text(str(gguf.ours) + sys.argv[1])")
    monkeypatch.setattr(gguf, "_converter", lambda: tool)
    monkeypatch.chdir(Path(sys.prefix))
    file = gguf.make_gguf(tiny_base, tmp_path / "new 文件夹" / "model.gguf", "f32")
    assert file.read_text(encoding="utf-8") == f"False{tiny_base}"


def test_a_converter_that_fails_leaves_nothing(
    tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tool = fake_tool(tmp_path / "tool", "out.write_text('half')\nraise NotImplementedError('unknown pre-tokenizer')")
    monkeypatch.setattr(gguf, "_converter", lambda: tool)
    with pytest.raises(UserError, match="unknown pre-tokenizer"):
        gguf.make_gguf(tiny_base, tmp_path / "out" / "model.gguf", "f32")
    assert not list((tmp_path / "out").iterdir())


def test_a_dtype_that_it_cannot_write_is_refused_first(tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="f32, f16, bf16, q8_0"):
        gguf.make_gguf(tiny_base, tmp_path / "model.gguf", "q4_k_m")
