"""Two processes, started by `accelerate launch` over gloo, train as one process with the whole batch does."""

import json
import math
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from conftest import load_script, saved_tensors
from safetensors.torch import load_file

from fpt_adapters import FPTForImageClassification

ROOT = Path(__file__).parents[2]
DIGITS = Path(__file__).parents[1] / "scripts" / "train_digits.py"
RUN_FPT = ROOT / "examples" / "run_fpt.py"


def free_port():
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return sock.getsockname()[1]


def launch(script, *arguments, config=None):
    """Run a script in two processes of this machine; `config`: an accelerate configuration that says so."""
    command = [sys.executable, "-m", "accelerate.commands.launch"]
    if config is None:
        command += ["--multi_gpu", "--num_processes", "2", "--num_machines", "1"]
        command += ["--mixed_precision", "no", "--dynamo_backend", "no"]
    else:
        command += ["--config_file", str(config)]
    command += ["--main_process_ip", "127.0.0.1", "--main_process_port", str(free_port())]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": "lo", "HF_HUB_OFFLINE": "1"}
    environment["PYTHONPATH"] = str(ROOT)
    command += [str(script), *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
    assert done.returncode == 0, done.stderr[-5000:]


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folders of one process with batches of 16 and of two with batches of 8."""
    folder = tmp_path_factory.mktemp("digits")
    load_script(DIGITS).main(folder / "one", 16)
    launch(DIGITS, folder / "two", 8)
    return folder / "one", folder / "two"


def record(folder, rank=0):
    return json.loads((folder / f"rank{rank}" / "record.json").read_text())


def test_two_processes_give_the_curve_of_one(runs):
    one, two = map(record, runs)
    assert (one["processes"], two["processes"]) == (1, 2)
    assert len(one["losses"]) == 12
    assert one["losses"][-1] < one["losses"][0] - 0.1
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)
    assert two["metrics"]["eval_loss"] == pytest.approx(one["metrics"]["eval_loss"], abs=1e-5)
    assert two["metrics"]["eval_accuracy"] == one["metrics"]["eval_accuracy"]
    assert record(runs[1], rank=1)["metrics"]["eval_accuracy"] == one["metrics"]["eval_accuracy"]


def test_two_processes_give_the_weights_of_one(runs):
    one, two = (load_file(folder / "rank0" / "model.safetensors") for folder in runs)
    early = load_file(runs[0] / "rank0" / "checkpoint-6" / "model.safetensors")
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, atol=1e-5, rtol=0)
        assert not torch.equal(tensor, early[name])


def test_no_pass_is_spent_on_finding_unused_parameters(runs):
    two = record(runs[1])
    assert two["wrapper"] == "DistributedDataParallel" and two["finds_unused"] is False


def test_a_second_training_is_that_of_one_process_too(runs):
    one, two = map(record, runs)
    assert len(one["again"]) == 12 and one["again"][-1] < one["losses"][-1]
    assert two["again"] == pytest.approx(one["again"], abs=1e-5)
    assert two["wrapped again"] == "DistributedDataParallel"


def elements(traffic, name):
    """How many elements each call of a gloo operation took."""
    return [sum(math.prod(shape) for shape in shapes) for called, shapes in traffic if called == f"gloo:{name}"]


def test_only_gradients_of_what_trains_cross_between_processes(runs):
    traffic = record(runs[1])["traffic"]
    trained = sum(tensor.numel() for tensor in load_file(runs[1] / "rank0" / "model.safetensors").values())
    assert elements(traffic, "all_reduce") == [trained] * 12  # one sum a step, of all gradients
    broadcast = elements(traffic, "broadcast")
    assert broadcast.count(trained) == 1 and sum(broadcast) < trained + 100  # no frozen weight at the start, no buffer
    gathered = elements(traffic, "all_gather")
    assert max(gathered) < trained / 2 and sum(gathered) < trained  # counts of labels, checksums
    assert {name for name, _ in traffic} == {"gloo:all_reduce", "gloo:broadcast", "gloo:all_gather"}


def test_one_process_sends_nothing(runs):
    assert record(runs[0])["traffic"] == []


def test_processes_with_different_bases_do_not_train(runs):
    for rank in (0, 1):
        assert "those of process 1 are not those of process 0" in record(runs[1], rank)["refusal"]


def test_only_the_first_process_writes(runs):
    assert "checkpoint-12/model.safetensors" in files(runs[1] / "rank0")
    others = [name for name in files(runs[1] / "rank1") if not name.endswith("rng_state_1.pth")]
    assert others == ["record.json"]


def test_a_checkpoint_of_two_processes_loads_in_one(runs):
    model = FPTForImageClassification.from_pretrained(runs[1] / "rank0" / "checkpoint-12")
    saved = saved_tensors(runs[1] / "rank0", model)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert trained.keys() == saved.keys()
    assert all(torch.equal(saved[name], p) for name, p in trained.items())
    with torch.no_grad():
        assert model(pixel_values=torch.zeros(2, 1, 8, 8)).logits.shape == (2, 10)


def test_the_run_script_gives_the_same_in_two_processes(saved_base, tmp_path):
    flags = [
        "--task_name",
        "digits",
        "--model_name_or_path",
        str(saved_base),
        "--do_train",
        "--do_eval",
        "--do_predict",
    ]
    flags += ["--use_cpu", "--disable_tqdm", "true", "--dropout", "0", "--backbone_dropout", "0", "--max_steps", "6"]
    flags += ["--logging_steps", "1", "--optim", "sgd", "--learning_rate", "0.3", "--max_train_samples", "64"]
    one, two = tmp_path / "one", tmp_path / "two"
    load_script(RUN_FPT).main([*flags, "--per_device_train_batch_size", "16", "--output_dir", str(one)])
    config = ROOT / "examples" / "accelerate" / "cpu.yaml"
    launch(RUN_FPT, *flags, "--per_device_train_batch_size", "8", "--output_dir", two, config=config)
    results = [json.loads((folder / "all_results.json").read_text()) for folder in (one, two)]
    assert results[0].keys() == results[1].keys()
    for name in ("eval_accuracy", "eval_floor", "test_accuracy", "test_floor"):
        assert results[1][name] == results[0][name]
    assert results[1]["train_loss"] == pytest.approx(results[0]["train_loss"], abs=1e-5)
    weights = [load_file(folder / "model.safetensors") for folder in (one, two)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, atol=1e-5, rtol=0)
    assert "learning_curve.png" in files(two) and "test_predictions.npz" in files(two)
