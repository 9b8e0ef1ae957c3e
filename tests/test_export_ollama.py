"""Ollama's template writes our prompt byte for byte, in our renderer's words and in Go's."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from actune import prompt
from actune.data.rows import Row, Turn
from actune.errors import UserError
from actune.export.ollama import Pieces, check_pieces, modelfile, read_pieces
from actune.prompt import PromptFormat
from conftest import make_rows
from tiny_actor import byte_tokenizer

HISTORY = (
    Turn("user", "first 先"),
    Turn("assistant", "so\n<&a&>\nit is"),
    Turn("user", "more"),
    Turn("assistant", "ok"),
)
ROWS = [
    *make_rows(4),
    Row(
        ("做饭-炒冬瓜", 'say "hi" \\\\ {{.}} %'),
        "然后呢? 😀 {{ end }}",
        "好",
        history=HISTORY,
        system="I am Ai.\n\nKind.",
    ),
    Row((), "none?", "No."),
]
REFUSES_SYSTEM = (
    "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}"
    "[{{ m.role }}]{{ m.content }}{% if m.role == 'assistant' %}</s>{% endif %}{% endfor %}[assistant]"
)
THINKS = "{% for m in messages %}<{{ m.role }}>{{ m.content }}<|im_end|>{% endfor %}<assistant><think>\n"
CASES = {
    "chatml": ("chatml", ""),
    "gemma": ("gemma", ""),
    "llama-3": ("llama-3", ""),
    "refuses": ("chatml", REFUSES_SYSTEM),
    "thinks": ("chatml", THINKS),
}


def case(name: str) -> tuple[object, PromptFormat, str]:
    family, template = CASES[name]
    tokenizer = byte_tokenizer(family, template)
    bos = "" if family == "chatml" else tokenizer.bos_token
    return tokenizer, PromptFormat.for_rows(ROWS, tokenizer), bos


def given(row: Row) -> tuple:
    return row.question, row.actions, row.history, row.system


@pytest.mark.parametrize("name", CASES)
def test_pieces_render_every_prompt(name: str) -> None:
    tokenizer, fmt, bos = case(name)
    pieces = read_pieces(tokenizer, fmt, bos)
    for row in ROWS:
        check_pieces(pieces, prompt.messages(fmt, *given(row)), prompt.render(tokenizer, fmt, *given(row)), bos)


def test_a_wrong_template_is_refused() -> None:
    tokenizer, fmt, _ = case("chatml")
    pieces = read_pieces(tokenizer, fmt, "")
    row = ROWS[0]
    wanted = prompt.render(tokenizer, fmt, *given(row)).replace("user", "human", 1)
    with pytest.raises(UserError) as caught:
        check_pieces(pieces, prompt.messages(fmt, *given(row)), wanted, "")
    assert caught.value.exit_code == 3


def test_a_template_that_changes_the_turns_is_refused() -> None:
    tokenizer = byte_tokenizer("chatml", "{% for m in messages %}{{ m.role }}{{ m.content | lower }}{% endfor %}")
    with pytest.raises(UserError):
        read_pieces(tokenizer, PromptFormat.for_rows(ROWS, tokenizer), "")


def test_the_modelfile_stops_where_the_model_stops() -> None:
    text = modelfile("model-q8_0.gguf", Pieces("a", "b", "c", "d", "e"), ["<|im_end|>", "<end>"], 2048)
    assert text.startswith("FROM ./model-q8_0.gguf\n")
    assert 'PARAMETER stop "<|im_end|>"\nPARAMETER stop "<end>"' in text
    assert "PARAMETER num_ctx 2048" in text


GO = """package main

import ("encoding/json"; "os"; "text/template")

type Message struct{ Role, Content string }

func main() {
	data, _ := os.ReadFile(os.Args[1])
	var cases []struct{ Template string; Messages []Message; Out string }
	if err := json.Unmarshal(data, &cases); err != nil { panic(err) }
	for _, one := range cases {
		made := template.Must(template.New("").Parse(one.Template))
		file, _ := os.Create(one.Out)
		if err := made.Execute(file, map[string]any{"Messages": one.Messages}); err != nil { panic(err) }
		file.Close()
	}
}
"""


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("go") is None, reason="Go is not installed (Debian: golang-go)")
def test_go_renders_the_same_bytes(tmp_path: Path) -> None:
    cases, wanted = [], []
    for name in CASES:
        tokenizer, fmt, bos = case(name)
        text = modelfile("x", read_pieces(tokenizer, fmt, bos), [], 1)
        template = text.split('"""')[1]
        for row in ROWS:
            out = str(tmp_path / f"{len(cases)}.txt")
            cases.append({"Template": template, "Messages": prompt.messages(fmt, *given(row)), "Out": out})
            wanted.append(prompt.render(tokenizer, fmt, *given(row)).removeprefix(bos))
    (tmp_path / "main.go").write_text(GO, encoding="utf-8")
    (tmp_path / "cases.json").write_text(json.dumps(cases), encoding="utf-8")
    subprocess.run(["go", "run", "main.go", "cases.json"], cwd=tmp_path, check=True)
    got = [Path(one["Out"]).read_bytes().decode() for one in cases]
    assert got == wanted
