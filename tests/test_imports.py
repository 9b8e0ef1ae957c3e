"""What needs no torch and no transformers runs where they are not installed."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "transformers", "peft", "accelerate", "datasets", "tokenizers", "matplotlib", "gguf", "safetensors")
LIGHT = [
    ".".join(file.relative_to(ROOT / "src").with_suffix("").parts).removesuffix(".__init__")
    for room in ("script", "data")
    for file in sorted((ROOT / "src/actune" / room).glob("*.py"))
]


def without(code: str) -> subprocess.CompletedProcess[str]:
    """Run code in a Python where the heavy packages cannot be imported."""
    block = f"import sys\nsys.modules.update(dict.fromkeys({HEAVY!r}))\n"  # None there makes an import fail.
    return subprocess.run(
        [sys.executable, "-c", block + code], capture_output=True, text=True, encoding="utf-8", cwd=ROOT, check=False
    )


def test_the_block_blocks() -> None:
    assert "ModuleNotFoundError" in without("import torch").stderr


def test_script_and_data_are_whole_without_torch() -> None:
    result = without("import importlib\nfor name in %r:\n    importlib.import_module(name)" % [*LIGHT, "actune"])
    assert result.returncode == 0, result.stderr


@pytest.mark.parametrize(
    ("arguments", "status"),
    [
        (["--help"], 0),
        (["check", "examples/actions_zh.xlsx"], 0),
        (["grammar", "--actions", "A", "--format", "gbnf"], 0),
    ],
)
def test_light_commands_work_without_torch(arguments: list[str], status: int) -> None:
    result = without(f"from actune.cli import main\nmain({arguments!r})")
    assert result.returncode == status, result.stderr
    assert result.stdout
