"""Which kernels a card runs, and how long it has none to run."""

from collections import Counter

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from gpu_parts.clock import synchronize

ACTIVITIES = {"cuda": ProfilerActivity.CUDA, "cpu": ProfilerActivity.CPU}
SHOWN = 80  # letters of a kernel's name


class Profiled:
    """A record of what the device does; of a CPU, of its operators."""

    def __init__(self, device: torch.device):
        self.kind = DeviceType.CUDA if device.type == "cuda" else DeviceType.CPU
        self.recorder = profile(activities=[ACTIVITIES[device.type]])
        self.spans: list[tuple[float, float]] = []  # microseconds
        self.times: Counter[str] = Counter()

    def start(self) -> None:
        """Record from here."""
        self.recorder.start()

    def stop(self) -> None:
        """Record until here."""
        synchronize()
        self.recorder.stop()
        for event in self.recorder.events():
            if event.device_type == self.kind and not event.is_user_annotation:  # which spans what waits inside
                self.spans.append((event.time_range.start, event.time_range.end))
                self.times[event.name] += event.time_range.end - event.time_range.start

    def busy_seconds(self) -> float:
        """How long at least one kernel ran."""
        busy, reached = 0.0, float("-inf")
        for start, end in sorted(self.spans):
            busy += max(0.0, end - max(start, reached))
            reached = max(reached, end)
        return busy / 1e6

    def waiting(self, steps: int, seconds: float) -> float | None:
        """The share of a step of so many seconds (measured without this recorder) in which no kernel runs."""
        return max(0.0, 1 - self.busy_seconds() / steps / seconds) if self.spans else None

    def longest(self, count: int) -> list[tuple[str, float]]:
        """Names of the kernels that take most time, and their shares of all."""
        whole = sum(self.times.values())
        return [(name[:SHOWN], time / whole) for name, time in self.times.most_common(count)]
