"""benchmarks/gpu.py: its smoke run, its bookkeeping where cases fail, and its count of FLOPs beside torch's own."""

import json
import os
import signal
import subprocess
import sys
import zipfile

import pytest
import torch
from conftest import BENCHMARKS, load_script
from torch.utils.flop_counter import FlopCounterMode

SCRIPTS = BENCHMARKS.parent / "tests" / "scripts"


def start(folder, *arguments):
    """Run it on a CPU."""
    command = [sys.executable, str(BENCHMARKS / "gpu.py"), "--smoke", "--output_dir", str(folder), *arguments]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(SCRIPTS), os.environ.get("PYTHONPATH", "")])}
    return subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def results_of(folder):
    lines = (folder / "results.jsonl").read_text(encoding="utf-8").splitlines()
    return {record["case"]: record for record in map(json.loads, lines)}


def smoke(folder, *arguments):
    """What it recorded, its summary and its exit code."""
    running = start(folder, *arguments)
    _, errors = running.communicate()
    assert (folder / "results.jsonl").exists(), errors
    return results_of(folder), (folder / "summary.md").read_text(encoding="utf-8"), running.returncode


def test_what_goes_wrong_is_recorded_and_the_others_go_on(tmp_path):
    found, summary, code = smoke(tmp_path, "--plan", "gpu_cases:FAULTS")
    assert code == 1
    expected = {  # and why
        "setup": ("ok", ""),
        "part/good": ("ok", ""),
        "part/wrong": ("wrong", ""),
        "part/unable": ("skipped", "there is none here"),
        "part/same": ("ok", ""),
        "part/raises": ("failed", ""),
        "part/new": ("ok", ""),
        "part/dies": ("died", "exit code -9"),
        "part/hangs": ("stopped", "not ready after 1 s"),
        "part/long": ("skipped", "it may take 6000 s"),
        "part/last": ("ok", ""),
    }
    assert {name: record["status"] for name, record in found.items()} == {
        n: status for n, (status, _) in expected.items()
    }
    assert [name for name, (_, why) in expected.items() if why not in found[name].get("why", "")] == []
    assert all(name in summary for name, (status, _) in expected.items() if status != "ok")
    assert "ZeroDivisionError: of the case itself" in found["part/raises"]["traceback"]
    assert "ZeroDivisionError: of the case itself" in summary
    first, same, new = (found[f"part/{name}"]["facts"]["process"] for name in ("good", "same", "new"))
    assert first == same != new  # an error may leave a card in a state in which nothing runs


def test_where_there_is_no_card_nothing_else_is_tried(tmp_path):
    found, _, code = smoke(tmp_path, "--plan", "gpu_cases:VITAL")
    assert code == 1
    assert found["part/good"]["why"] == "machine/card did not come off"


def test_a_kill_loses_nothing_that_was_finished(tmp_path):
    with start(tmp_path, "--plan", "gpu_cases:HANGING") as running:
        while "part/good" not in running.stdout.readline():
            assert running.poll() is None
        running.kill()
        worker = results_of(tmp_path)["part/good"]["facts"]["process"]
        os.kill(worker, signal.SIGKILL)  # which sleeps
    assert (tmp_path / "summary.md").exists()
    found, _, _ = smoke(tmp_path, "--plan", "gpu_cases:HANGING", "--only", "no/case")  # a second call adds to it
    assert [name for name in found if found[name]["status"] == "ok"] == ["setup", "part/good"]


QUICK = "machine correctness/losses/bert correctness/resume/fp32 correctness/dtype/bfloat16 correctness/two-models"
QUICK += " speed/graph-breaks speed/124M/batch"


def check_smoke(tmp_path, *arguments):
    found, summary, code = smoke(tmp_path, *arguments)
    assert {name: record for name, record in found.items() if record["status"] != "ok"} == {}
    assert code == 0
    row = found["speed/124M/fpt bf16"]["facts"]
    assert row["samples_per_second"] == pytest.approx(row["batch"] / row["step_seconds"])
    assert 0 <= row["card_waits"] < 1
    assert "step of FPT over full fine-tuning" in summary
    assert "| fpt bf16 | 4 x 16 |" in summary
    return found


def test_it_runs_on_a_cpu(tmp_path):
    speeds = ("speed/124M/full bf16", "speed/124M/fpt bf16", "pipeline/listops")
    check_smoke(tmp_path, "--only", *QUICK.split(), *speeds)


@pytest.mark.slow
def test_all_of_it_runs_on_a_cpu(tmp_path):
    pytest.importorskip("bitsandbytes")
    found = check_smoke(tmp_path, "--minutes", "60")
    assert len(found) > 50


@pytest.fixture(scope="module")
def speed():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)  # as for a script that is run
        import gpu_parts.machine
        import gpu_parts.setting
        import gpu_parts.speed

        yield gpu_parts.speed


@pytest.mark.parametrize("contestant", ["full", "fpt", "peft-lora", "by-hand"])
def test_flops_are_those_that_torch_counts(speed, tmp_path, contestant):
    """torch's own attention function counts as if nothing were masked, so that `causal` is off here."""
    flops = load_script(BENCHMARKS / "flops.py")
    setting = speed.Setting(tmp_path, smoke=True)
    shape, who = speed.TINY["124M"], speed.CONTESTANTS[contestant]
    model = who.build(speed.base_folder(setting, shape), speed.problem_of(shape), False).train()
    fields = {"input_values": torch.randn(4, shape.positions, speed.NUMBERS), "labels": torch.zeros(4).long()}
    with FlopCounterMode(display=False) as counter:
        model(**fields)["loss"].backward()
    rank = speed.LORA_RANK if contestant == "peft-lora" else 0
    sizes = {"token_size": speed.NUMBERS, "labels": speed.CLASSES, "lora_rank": rank, "frozen": who.frozen}
    whole = flops.step_flops(shape, 4, shape.positions, causal=False, **sizes)
    assert whole == counter.get_total_flops()
    halved = flops.step_flops(shape, 4, shape.positions, **sizes)
    pairs = shape.positions * (shape.positions - 1) // 2  # that a causal mask hides
    assert whole - halved == 4 * 12 * shape.layers * shape.hidden * pairs


def test_of_bitsandbytes_one_library_travels(tmp_path):
    wheels = load_script(BENCHMARKS / "wheels.py")
    wheel = tmp_path / "bitsandbytes-1.0-py3-none-any.whl"
    names = {f"bitsandbytes/libbitsandbytes_{kind}.so" for kind in ("cpu", "cuda128", "cuda130", "rocm70", "xpu2025")}
    with zipfile.ZipFile(wheel, "w") as file:
        for name in {*names, "bitsandbytes/nn.py"}:
            file.writestr(name, name)
    with pytest.raises(SystemExit, match="cuda128, cuda130, rocm70"):
        wheels.keep_library(wheel, "cuda90")
    wheels.keep_library(wheel, "cuda130")
    with zipfile.ZipFile(wheel) as file:
        kept = {name: file.read(name).decode() for name in file.namelist()}
    left = ("libbitsandbytes_cpu.so", "libbitsandbytes_cuda130.so", "nn.py")
    assert kept == {f"bitsandbytes/{name}": f"bitsandbytes/{name}" for name in left}


@pytest.mark.parametrize(
    ("name", "rate"),
    [("NVIDIA H100 80GB HBM3", 989e12), ("NVIDIA H100 PCIe", 756e12), ("NVIDIA H200", 989e12), ("a CPU", None)],
)
def test_the_peak_is_that_of_the_card(speed, name, rate):
    assert sys.modules["gpu_parts.machine"].peak_rate(name) == rate
