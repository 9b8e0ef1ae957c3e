from __future__ import annotations

import time
from pathlib import Path

import pytest
import torch

from actune.base import rates


@pytest.fixture(autouse=True)
def _own_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("ACTUNE_CACHE", str(tmp_path / "cache"))


def test_rates_are_measured_once_and_a_torn_file_costs_only_another_measure(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    whole = rates.measure
    monkeypatch.setattr(rates, "measure", lambda: calls.append(1) or whole())
    first = rates.rates()
    assert rates.rates() == first
    assert len(calls) == 1
    assert first.fp32 > 1
    assert first.bf16 > 0.1
    (rates.cache_folder() / "rates.json").write_text("{torn", encoding="utf-8")
    rates.rates()
    assert len(calls) == 2


def test_measuring_is_quick() -> None:
    rates.measure()
    begun = time.process_time()
    rates.measure()
    assert time.process_time() - begun < 0.6  # 0.3 s on an idle machine


def test_a_route_that_rounds_to_bf16_is_not_taken_for_fp32(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the switch does here decides, not what it is called: with AMX it computes in bf16."""
    a, b = torch.randn(300, 576), torch.randn(1536, 576)
    exact = a.double() @ b.double().t()
    with rates.onednn_fp32():
        error = ((a @ b.t()).double() - exact).norm() / exact.norm()
    assert (rates.measure().onednn > 0) == (float(error) < 2e-6)
    monkeypatch.setattr(rates, "KEEPS_FP32", 0.0)
    assert rates.measure().onednn == 0


def test_the_switch_goes_back() -> None:
    before = torch.backends.mkldnn.matmul.fp32_precision
    with pytest.raises(RuntimeError), rates.onednn_fp32():
        raise RuntimeError
    assert torch.backends.mkldnn.matmul.fp32_precision == before
