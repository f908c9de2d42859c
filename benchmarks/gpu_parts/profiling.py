"""Which kernels a GPU runs, and how long it runs none."""

from collections import Counter

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

from gpu_parts.clock import synchronize

ACTIVITIES = {"cuda": ProfilerActivity.CUDA, "cpu": ProfilerActivity.CPU}
SHOWN = 80  # letters of a kernel's name


class Profiled:
    """A profile of the device's kernels; on a CPU, of its operators."""

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
            if event.device_type == self.kind and not event.is_user_annotation:  # annotations include waiting
                self.spans.append((event.time_range.start, event.time_range.end))
                self.times[event.name] += event.time_range.end - event.time_range.start

    def busy_seconds(self) -> float:
        """The seconds during which at least one kernel ran."""
        busy, reached = 0.0, float("-inf")
        for start, end in sorted(self.spans):
            busy += max(0.0, end - max(start, reached))
            reached = max(reached, end)
        return busy / 1e6

    def waiting(self, steps: int, seconds: float) -> float | None:
        """The share of a step in which no kernel runs; `seconds`: of a step, measured without profiling."""
        return max(0.0, 1 - self.busy_seconds() / steps / seconds) if self.spans else None

    def longest(self, count: int) -> list[tuple[str, float]]:
        """The names of the `count` kernels that take most time, and their shares of the total."""
        whole = sum(self.times.values())
        return [(name[:SHOWN], time / whole) for name, time in self.times.most_common(count)]
