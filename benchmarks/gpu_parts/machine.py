"""Facts about the GPU and the machine, and the rates that they reach."""

import os
import platform
import shutil
import statistics
import subprocess
from typing import Any

import torch

from gpu_parts.clock import seconds_of
from gpu_parts.setting import Setting

# Part of the GPU's name in torch -> dense bf16 FLOP/s by the maker's data sheet; the first match counts.
PEAKS = {
    "H100 PCIe": 756e12,
    "H100 NVL": 835e12,
    "H100": 989e12,
    "H200 NVL": 835e12,
    "H200": 989e12,
    "GH200": 989e12,
    "B200": 2250e12,
    "A100": 312e12,
    "L40S": 362e12,
    "L4": 121e12,
}
QUERY = (
    "name",
    "driver_version",
    "clocks.sm",
    "clocks.max.sm",
    "clocks.mem",
    "power.draw",
    "power.limit",
    "temperature.gpu",
)
REPEATS = 20
PRECISIONS = {  # name -> torch's fp32 matmul precision, and the dtype
    "bf16": ("highest", torch.bfloat16),
    "tf32": ("high", torch.float32),
    "fp32": ("highest", torch.float32),
}


def card(setting: Setting) -> dict[str, Any]:
    """Names, memory, driver, clocks. Raises RuntimeError if there is no GPU."""
    if setting.device.type == "cuda" and not torch.cuda.is_available():
        raise RuntimeError("torch finds no GPU here: --smoke runs the same on a CPU.")
    facts: dict[str, Any] = {"cpu": cpu_name(), "cores": len(os.sched_getaffinity(0)), "system": platform.platform()}
    facts |= {"cuda": torch.version.cuda, "cudnn": torch.backends.cudnn.version(), **clocks()}
    if setting.device.type == "cuda":
        properties = torch.cuda.get_device_properties(0)
        facts |= {
            "card": properties.name,
            "memory_bytes": properties.total_memory,
            "multiprocessors": properties.multi_processor_count,
            "cards": torch.cuda.device_count(),
        }
    return facts


def cpu_name() -> str:
    """The processor's name, from Linux."""
    try:
        with open("/proc/cpuinfo") as file:
            return next(line.partition(":")[2].strip() for line in file if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.machine()


def clocks() -> dict[str, str]:
    """What nvidia-smi reports for the first GPU; {} if there is none."""
    if shutil.which("nvidia-smi") is None:
        return {}
    command = ["nvidia-smi", "--query-gpu=" + ",".join(QUERY), "--format=csv,noheader", "--id=0"]
    said = subprocess.run(command, capture_output=True, text=True, timeout=30)
    values = [value.strip() for value in said.stdout.split(",")]
    return dict(zip(QUERY, values, strict=True)) if len(values) == len(QUERY) else {"nvidia-smi": said.stdout.strip()}


def peak_rate(name: str | None) -> float | None:
    """Dense bf16 FLOP/s of a GPU by its data sheet; None if it is not listed."""
    return next((rate for part, rate in PEAKS.items() if part in (name or "")), None)


def rates(setting: Setting) -> dict[str, Any]:
    """FLOP/s of a large matrix product in each precision, and bytes/s of a copy (read and written)."""
    size, numbers = (128, 2**16) if setting.smoke else (8192, 2**30)
    facts: dict[str, Any] = {"size": size}
    for name, (mode, dtype) in PRECISIONS.items():
        torch.set_float32_matmul_precision(mode)
        left, right = (torch.randn(size, size, device=setting.device, dtype=dtype) for _ in range(2))
        facts[name] = 2 * size**3 / _median(setting, lambda left=left, right=right: left @ right)
    torch.set_float32_matmul_precision("highest")
    source = torch.randn(numbers, device=setting.device)
    target = torch.empty_like(source)
    facts["copy"] = 2 * source.nbytes / _median(setting, lambda: target.copy_(source))
    setting.leave("rates", facts)
    return facts | {"after": clocks()}


def _median(setting: Setting, function) -> float:
    for _ in range(3):
        function()
    return statistics.median(seconds_of(setting.device, function, REPEATS))
