"""The page's player keeps the order: random answers by a clock of the test's own, in Node."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from actune.serve.staging import STAGE


def test_random_answers_are_performed_in_their_order_and_stop_at_once():
    node = shutil.which("node")
    if node is None:
        pytest.skip("no Node.js on this machine (Debian: apt-get install nodejs)")
    script = Path(__file__).parent / "player_random.mjs"
    run = subprocess.run([node, script, STAGE, "400"], capture_output=True, text=True, timeout=120, check=False)
    assert run.stdout == "kept\n", run.stderr
