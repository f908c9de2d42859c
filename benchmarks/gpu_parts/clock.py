"""Time and memory as the device itself counts them."""

import gc
import time
from collections.abc import Callable
from itertools import pairwise

import torch


def synchronize() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def mark(device: torch.device) -> torch.cuda.Event | float:
    """Mark a moment in the device's queue; on a CPU, the present time."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def between(first: torch.cuda.Event | float, second: torch.cuda.Event | float) -> float:
    """Seconds from one mark to the other; the device must have reached both."""
    return second - first if isinstance(first, float) else first.elapsed_time(second) / 1000


def intervals(marks: list[torch.cuda.Event | float]) -> list[float]:
    """Seconds between consecutive marks; waits for the last one."""
    synchronize()
    return [between(first, second) for first, second in pairwise(marks)]


def seconds_of(device: torch.device, function: Callable[[], object], times: int) -> list[float]:
    """Seconds of each of several calls in a row."""
    marks = [mark(device)]
    for _ in range(times):
        function()
        marks.append(mark(device))
    return intervals(marks)


def restart_peak() -> None:
    """Count peak memory from here on; on a CPU the process's peak cannot be reset."""
    synchronize()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def allocated() -> int:
    """Bytes of tensors on the GPU; 0 without one."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def give_memory_back() -> None:
    """Free all GPU memory that no live tensor uses."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
