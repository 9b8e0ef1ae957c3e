"""How fast this machine multiplies matrices, by dtype and route: measured, never assumed from a name."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from filelock import FileLock

from actune.base.cache import cache_folder

# A layer of a small base over a short batch: 300 tokens, 576 wide, to 1536.
SHAPE = (300, 576, 1536)
# Numbers in a tensor of a small base's layer over a batch: 8 MB.
STREAMED = 1 << 21
# Side of the matrices that another device than the CPU multiplies.
SIDE = 4096
# No single measure may take longer than this; emulated bf16 needs 50 ms a product.
SECONDS = 0.05
# Relative error of a product against fp64. fp32 has 3e-7 at this size, a product that rounds its inputs to bf16 2e-3.
KEEPS_FP32 = 2e-6
LIMITS = ("ATEN_CPU_CAPABILITY", "DNNL_MAX_CPU_ISA", "MKL_ENABLE_INSTRUCTIONS", "ONEDNN_MAX_CPU_ISA")


@dataclass(frozen=True)
class Rates:
    """Matrix products of this machine with its present number of threads, in GFLOP/s.

    Args:
        fp32: By the route that torch takes.
        onednn: fp32 by oneDNN; 0 if that does not keep fp32 results here.
        bf16: Of a batch.
        token_fp32: One row, as in decoding.
        token_bf16: The same in bf16.
        stream: GB/s read and written by a sum of tensors that do not fit into a core's cache.
    """

    fp32: float
    onednn: float
    bf16: float
    token_fp32: float
    token_bf16: float
    stream: float


@contextmanager
def onednn_fp32(on: bool = True) -> Iterator[None]:
    """Send fp32 matrix products to oneDNN.

    torch has no switch for that alone. Allowed bf16 inside fp32 products sends them there, and on a CPU whose oneDNN
    has no such kernel the results stay fp32 (AMD Zen 5: 245 GFLOP/s a core against 110 of MKL). On a CPU with AMX
    they do not: `Rates.onednn` is 0 then.
    """
    settings = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = settings.fp32_precision
    settings.fp32_precision = "bf16" if on else before
    try:
        yield
    finally:
        settings.fp32_precision = before


def cpu_kind() -> str:
    """Name the kind of CPU: its model and a hash of what it can do."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return f"{platform.processor() or platform.machine()} {torch.backends.cpu.get_cpu_capability()}"
    values = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    flags = values.get("flags", values.get("Features", ""))
    name = values.get("model name", platform.machine())
    return f"{name} {hashlib.sha256(flags.encode()).hexdigest()[:8]}"


def rates() -> Rates:
    """Measure, or look up what was measured on this kind of CPU with this torch and these threads."""
    # Set by hand, these hold the libraries to older instructions.
    held = [f"{name}={os.environ[name]}" for name in LIMITS if name in os.environ]
    key = "; ".join([f"{cpu_kind()}, torch {torch.__version__}, {torch.get_num_threads()} threads", *held])
    store = cache_folder() / "rates.json"
    store.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(store.with_suffix(".lock")):
        known = _read(store)
        try:
            return Rates(**known[key])
        except (KeyError, TypeError):
            found = measure()
        known[key] = asdict(found)
        temporary = store.with_suffix(".part")
        temporary.write_text(json.dumps(known, indent=1), encoding="utf-8")
        temporary.replace(store)
    return found


def _read(store: Path) -> dict[str, dict[str, float]]:
    try:
        known = json.loads(store.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return {}  # A torn file costs one more measure.
    return known if isinstance(known, dict) else {}


def measure() -> Rates:
    """Time one product per dtype and route; takes about a quarter of a second."""
    rows, inner, columns = SHAPE
    draw = torch.Generator().manual_seed(0)
    a, b = torch.randn(rows, inner, generator=draw), torch.randn(columns, inner, generator=draw)
    half_a, half_b = a.bfloat16(), b.bfloat16()
    with torch.inference_mode():
        exact = a.double() @ b.double().t()
        with onednn_fp32():
            error = float(((a @ b.t()).double() - exact).norm() / exact.norm())
            onednn = _rate(lambda: a @ b.t(), rows) if error < KEEPS_FP32 else 0.0
        return Rates(
            fp32=_rate(lambda: a @ b.t(), rows),
            onednn=onednn,
            bf16=_rate(lambda: half_a @ half_b.t(), rows),
            token_fp32=_rate(lambda: a[:1] @ b.t(), 1),
            token_bf16=_rate(lambda: half_a[:1] @ half_b.t(), 1),
            stream=_stream(),
        )


def speed(device: torch.device, dtype: torch.dtype) -> tuple[float, float]:
    """Tell how fast a device computes.

    Args:
        device: Where.
        dtype: Of the operands.

    Returns:
        FLOP/s in products of matrices, and bytes/s read and written by everything else.
    """
    if device.type == "cpu":
        found = rates()
        product = found.bf16 if dtype == torch.bfloat16 else max(found.fp32, found.onednn)
        return product * 1e9, found.stream * 1e9
    a, b = torch.randn(2, SIDE, SIDE, device=device, dtype=dtype)
    seconds = [_wait(device, lambda: a @ b), _wait(device, lambda: a + b)]
    return 2 * SIDE**3 / seconds[0], 3 * a.numel() * a.itemsize / seconds[1]


def _wait(device: torch.device, work: Callable[[], torch.Tensor]) -> float:
    """Return the least seconds of a few, by the clock: the processor only waits for the device."""
    best = float("inf")
    for _ in range(5):
        torch.accelerator.synchronize(device)
        begun = time.perf_counter()
        work()
        torch.accelerator.synchronize(device)
        best = min(best, time.perf_counter() - begun)
    return best


def _stream() -> float:
    a, b, out = torch.ones(3, STREAMED)
    best = float("inf")
    for _ in range(8):
        begun = time.process_time()
        torch.add(a, b, out=out)
        best = min(best, max(time.process_time() - begun, 1e-7))
    return round(12 * STREAMED / best * torch.get_num_threads() / 1e9, 1)


def _rate(product: Callable[[], torch.Tensor], rows: int) -> float:
    """The best of a few. CPU time counts, not the clock: on a busy machine other programs take turns."""
    product()  # The first one builds the kernel, which takes longer than it computes.
    best, begun = float("inf"), time.process_time()
    for done in range(50):
        at = time.process_time()
        product()
        now = time.process_time()
        best = min(best, max(now - at, 1e-7))
        if done >= 2 and now - begun > SECONDS * torch.get_num_threads():
            break
    return round(2 * rows * SHAPE[1] * SHAPE[2] / best * torch.get_num_threads() / 1e9, 1)
