"""Time and memory by the device's own count."""

import gc
import time
from collections.abc import Callable
from itertools import pairwise

import torch


def synchronize() -> None:
    """Wait for a card's queue."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def mark(device: torch.device) -> torch.cuda.Event | float:
    """A moment in the device's queue; on a CPU, now."""
    if device.type != "cuda":
        return time.perf_counter()
    event = torch.cuda.Event(enable_timing=True)
    event.record()
    return event


def between(first: torch.cuda.Event | float, second: torch.cuda.Event | float) -> float:
    """Seconds from one mark to the other, which must have passed."""
    return second - first if isinstance(first, float) else first.elapsed_time(second) / 1000


def intervals(marks: list[torch.cuda.Event | float]) -> list[float]:
    """Seconds between marks that follow one another; waits for the last."""
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
    """Let the highest memory be counted from here; a CPU's process keeps its own."""
    synchronize()
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()


def allocated() -> int:
    """Bytes of tensors on the card; 0 without one."""
    return torch.cuda.memory_allocated() if torch.cuda.is_available() else 0


def give_memory_back() -> None:
    """Leave nothing of what nobody holds on the card."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
