"""What a kernel is measured against: merely moving its data, merely multiplying its matrices."""

import os
import platform
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from statistics import median
from typing import Any

import torch

# Longer than Python takes to issue a kernel and its gradient, at any clock up to 2 GHz.
_HEAD_START_CYCLES = 2_000_000


def seconds(call: Callable[[], Any], device: torch.device) -> float:
    """Time one call.

    On a CPU it is the processor time of this process, which with one thread is the time of a clock
    on an idle machine, and does not count what a busy one gives to others. On a CUDA device the
    call's kernels wait behind an idle one while Python issues them, so that the time is that of the
    device alone.
    """
    if device.type != "cuda":
        start = time.process_time()
        call()
        return time.process_time() - start
    start_event, end_event = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    torch.cuda._sleep(_HEAD_START_CYCLES)
    start_event.record()
    call()
    end_event.record()
    torch.cuda.synchronize(device)
    return start_event.elapsed_time(end_event) / 1000


def interleaved(
    calls: dict[str, Callable[[], Any]], device: torch.device, repeats: int
) -> dict[str, float]:
    """Time several calls in turn, so that what else the machine does meets all of them.

    Args:
        calls: what to time, by name. Each is called twice beforehand.
        device: where they run.
        repeats: rounds; each begins with another call.

    Returns:
        The median seconds of each.
    """
    names = list(calls)
    times: dict[str, list[float]] = {name: [] for name in names}
    for name in names * 2:
        calls[name]()
    for round_ in range(repeats):
        for i in range(len(names)):
            name = names[(round_ + i) % len(names)]
            times[name].append(seconds(calls[name], device))
    return {name: median(found) for name, found in times.items()}


def copy_call(elements: int, dtype: torch.dtype, device: torch.device) -> Callable[[], Any]:
    """Make a call that moves a number of elements (half read, half written), to be timed beside."""
    source = torch.zeros(max(1, elements // 2), dtype=dtype, device=device)
    target = torch.empty_like(source)
    return lambda: target.copy_(source)


def product_call(dtype: torch.dtype, device: torch.device) -> tuple[int, Callable[[], Any]]:
    """Make a call of one large matrix product, to be timed beside.

    Returns:
        Its number of floating-point operations, and the call.
    """
    side = 8192 if device.type == "cuda" else 512
    left, right = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    return 2 * side**3, lambda: torch.mm(left, right, out=out)


def machine(device: torch.device) -> dict[str, Any]:
    """Describe what a measurement ran on: processor, cores, GPU, versions."""
    found: dict[str, Any] = {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
    }
    for package in ("torch", "triton", "numpy"):
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            found[package] = None
    if device.type == "cuda":
        found["gpu"] = torch.cuda.get_device_name(device)
    return found


def _processor() -> str:
    information = Path("/proc/cpuinfo")
    if information.is_file():
        for line in information.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
