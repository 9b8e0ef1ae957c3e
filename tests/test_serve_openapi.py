"""What /openapi.json says holds: schemathesis tries to prove the contrary."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from serve_tools import FakeActor, server


@pytest.mark.slow
def test_schemathesis_finds_nothing(tmp_path):
    with server(FakeActor("我来<&wave&>好了。"), names=["wave"]) as served:
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{served.url}/openapi.json", "-n", "60"]
        hooks = {"SCHEMATHESIS_HOOKS": "schemathesis_hooks", "PYTHONPATH": str(Path(__file__).parent)}
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, encoding="utf-8", cwd=tmp_path, env=os.environ | hooks
        )
    assert done.returncode == 0, done.stdout[-5000:]
    assert "0 selected" not in done.stdout
