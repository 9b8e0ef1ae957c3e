"""What /openapi.json says holds: schemathesis tries to prove the contrary."""

from __future__ import annotations

import subprocess
import sys

import pytest

from serve_tools import FakeActor, server


@pytest.mark.slow
def test_schemathesis_finds_nothing(tmp_path):
    with server(FakeActor("我来<&wave&>好了。"), names=["wave"]) as served:
        command = [sys.executable, "-m", "schemathesis.cli", "run", f"{served.url}/openapi.json", "-n", "60"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, encoding="utf-8", cwd=tmp_path)
    assert done.returncode == 0, done.stdout[-5000:]
    assert "0 selected" not in done.stdout
