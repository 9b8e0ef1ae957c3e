from __future__ import annotations

import csv
import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, AutoTokenizer

from actune import prompt
from actune.data.load import load_rows
from actune.errors import UserError
from actune.prompt import PromptFormat
from actune.tune.command import train
from actune.tune.dataset import RowDataset
from actune.tune.metrics import read_metrics
from actune.tune.options import TrainOptions
from actune.tune.run import read_manifest, rows_hash
from conftest import make_rows


@pytest.fixture(scope="module")
def table(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("表 格") / "rows.csv"
    with file.open("w", encoding="utf-8", newline="") as handle:
        writer = csv.writer(handle)
        writer.writerow(["actions", "input", "output"])
        writer.writerows(["、".join(row.actions), row.question, row.script] for row in make_rows(40))
    return file


@pytest.fixture(scope="module")
def run(table: Path, tiny_base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("runs") / "运行 a"
    used: set[str] = set()
    whole = RowDataset.example
    with pytest.MonkeyPatch.context() as patch:

        def watch(self: RowDataset, index: int) -> object:
            if self.view is not None:
                used.add(self.rows[index].question)
            return whole(self, index)

        patch.setattr(RowDataset, "example", watch)
        assert train([table], base=str(tiny_base), out=out, options=TrainOptions(epochs=2, lr=1e-2)) == 0
    (out.parent / "used.json").write_text(json.dumps(sorted(used)), encoding="utf-8")
    return out


def test_validation_rows_are_saved_and_never_trained_on(run: Path, table: Path) -> None:
    used = set(json.loads((run.parent / "used.json").read_text(encoding="utf-8")))
    valid = load_rows([run / "valid.jsonl"])
    assert len(valid) == 8
    assert used == {row.question for row in load_rows([table])} - {row.question for row in valid}


def test_the_folder_holds_what_it_must(run: Path) -> None:
    names = {path.name for path in run.iterdir()}
    wanted = (
        "adapter_model.safetensors adapter_config.json tokenizer.json actune.json parity.jsonl metrics.jsonl loss.png"
    )
    assert set(wanted.split()) <= names
    assert "README.md" not in names
    assert any(name.startswith("checkpoint-") for name in names)
    assert not (run / ".saving").exists()
    manifest = read_manifest(run)
    lines = [line for line in read_metrics(run) if "eval_loss" in line]
    assert [line["step"] for line in lines] == list(range(1, 9))
    best = max(lines, key=lambda line: (line["eval_f1"], -line["eval_loss"]))
    assert manifest.best == {
        "step": best["step"],
        "of": 8,
        "by": "eval_f1, then eval_loss",
        **{key: value for key, value in best.items() if key.startswith("eval_")},
    }
    assert (run / f"checkpoint-{best['step']}").is_dir()
    assert manifest.probe.keys() == {"device", "dtype", "threads", "cpu", "processes", "path", "memory"}
    assert manifest.data["sha256"] == rows_hash(load_rows(map(Path, manifest.data["files"])))  # type: ignore[arg-type]


def test_plain_peft_loads_it_and_the_best_checkpoint_is_the_same(run: Path, tiny_base: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(run)
    row = load_rows([run / "parity.jsonl"])[0]
    fmt = PromptFormat.from_dict(read_manifest(run).prompt)
    ids = torch.tensor([prompt.render_ids(tokenizer, fmt, row.question, row.actions)])
    logits = []
    for folder in (run, run / f"checkpoint-{read_manifest(run).best['step']}", None):
        model = AutoModelForCausalLM.from_pretrained(tiny_base)
        model = PeftModel.from_pretrained(model, folder) if folder else model
        with torch.no_grad():
            logits.append(model.eval()(ids).logits)
    assert torch.equal(logits[0], logits[1])
    assert not torch.allclose(logits[0], logits[2], atol=1e-4)


def test_a_used_folder_is_refused(run: Path, table: Path, tiny_base: Path) -> None:
    with pytest.raises(UserError, match="--resume"):
        train([table], base=str(tiny_base), out=run)


def test_resuming_a_finished_run_changes_nothing(run: Path, table: Path, tiny_base: Path) -> None:
    before = (run / "adapter_model.safetensors").read_bytes(), read_metrics(run), read_manifest(run)
    assert train([table], base=str(tiny_base), out=run, resume=True) == 0
    assert ((run / "adapter_model.safetensors").read_bytes(), read_metrics(run), read_manifest(run)) == before


def test_a_resumed_run_must_be_the_same_run(run: Path, table: Path, tiny_base: Path) -> None:
    with pytest.raises(UserError, match=r"rank: 16 -> 4"):
        train([table], base=str(tiny_base), out=run, options=TrainOptions(rank=4), resume=True)
    with pytest.raises(UserError, match="rows have changed"):
        train([run / "valid.jsonl"], base=str(tiny_base), out=run, resume=True)


def test_one_training_a_folder(run: Path, table: Path, tiny_base: Path, tmp_path: Path) -> None:
    from filelock import FileLock

    with FileLock(tmp_path / ".lock"), pytest.raises(UserError, match="another training"):
        train([table], base=str(tiny_base), out=tmp_path)


def test_the_origin_recipe_runs_to_its_end(table: Path, tiny_base: Path, tmp_path: Path) -> None:
    out = tmp_path / "origin"
    options = TrainOptions(recipe="origin", epochs=1)
    assert train([table], base=str(tiny_base), out=out, options=options) == 0
    assert not (out / "valid.jsonl").exists()
    assert not any("eval_loss" in line for line in read_metrics(out))
    assert read_manifest(out).recipe == "origin"
    assert [line["step"] for line in read_metrics(out)] == [1, 2, 3]  # 40 rows: 16, 16, 8


def test_loggers_that_are_not_installed_are_refused(table: Path, tiny_base: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="pip install swanlab"):
        train([table], base=str(tiny_base), out=tmp_path / "run", options=TrainOptions(loggers="swanlab"))


def test_what_will_happen_is_said_before(table: Path, tiny_base: Path, tmp_path: Path) -> None:
    code = (
        "import sys; from pathlib import Path; from actune.tune.command import train;"
        "from actune.tune.options import TrainOptions;"
        "sys.exit(train([Path(sys.argv[1])], base=sys.argv[2], out=Path(sys.argv[3]), options=TrainOptions(epochs=1)))"
    )
    command = [sys.executable, "-c", code, str(table), str(tiny_base), str(tmp_path / "run")]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=True)
    for words in ("32 trained, 8 kept", "steps    4 (1 epochs)", "memory   about", ">>>", "<|im_end|><<<", "tokens/s"):
        assert words in done.stderr, done.stderr
    for words in ("step 4, validation: f1 0", "  Question", "kept: step ", " of 4, the best on 8 validation rows (f1 "):
        assert words in done.stderr, done.stderr


def test_importing_the_command_needs_no_torch() -> None:
    code = "import sys, actune.tune.command, actune.tune.options, actune.tune.run; sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
