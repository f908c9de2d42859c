"""Two processes, started by `accelerate launch` over gloo, train as one process with the whole batch does."""

import json
import math

import datasets
import numpy as np
import pytest
import torch
from conftest import load_script, saved_tensors
from data_files import write
from runs import CONFIGS, ROOT, SCRIPTS, assert_close, assert_same, copied, launch, two_processes
from safetensors.torch import load_file

from fpt_adapters import FPTForImageClassification

RUN_FPT = ROOT / "examples" / "run_fpt.py"


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    """The folder of one process with batches of 16, that of two with batches of 8, and what all three saw."""
    one, (two, records) = tmp_path_factory.mktemp("one"), two_processes(tmp_path_factory.getbasetemp())
    alone = load_script(SCRIPTS / "two_processes.py").digits(one, 16)
    return one, two / "digits", [alone, *(record["digits"] for record in records)]


@pytest.fixture(scope="module")
def records(digits):
    """What was seen by one process, by the first of two, and by the second."""
    return digits[2]


@pytest.fixture(scope="module")
def saved(digits):
    """The deltas of one process, half way and whole, and of two."""
    one, two, _ = digits
    places = (one / "rank0" / "checkpoint-6", one / "rank0", two / "rank0")
    return [load_file(place / "model.safetensors") for place in places]


def test_two_processes_give_the_curve_of_one(records):
    one, two, second = records
    assert (one["processes"], two["processes"]) == (1, 2)
    assert len(one["losses"]) == 12
    assert one["losses"][-1] < one["losses"][0] - 0.1
    assert two["losses"] == pytest.approx(one["losses"], abs=1e-5)
    assert two["metrics"]["eval_loss"] == pytest.approx(one["metrics"]["eval_loss"], abs=1e-5)
    assert one["metrics"]["eval_accuracy"] == two["metrics"]["eval_accuracy"] == second["metrics"]["eval_accuracy"]


def test_two_processes_give_the_weights_of_one(saved):
    early, one, two = saved
    assert_close(two, one)
    assert [name for name, tensor in one.items() if torch.equal(tensor, early[name])] == []


def test_no_pass_is_spent_on_finding_unused_parameters(records):
    assert records[1]["wrapper"] == "DistributedDataParallel" and records[1]["finds_unused"] is False


def test_a_second_training_is_that_of_one_process_too(records):
    one, two, _ = records
    assert len(one["again"]) == 12 and one["again"][-1] < one["losses"][-1]
    assert two["again"] == pytest.approx(one["again"], abs=1e-5)
    assert two["wrapped again"] == "DistributedDataParallel"


def test_only_gradients_of_what_trains_cross_between_processes(records, saved):
    def elements(name):
        """How many elements each call of a gloo operation took."""
        return [sum(map(math.prod, shapes)) for called, shapes in traffic if called == f"gloo:{name}"]

    traffic = records[1]["traffic"]
    trained = sum(tensor.numel() for tensor in saved[2].values())
    assert elements("all_reduce") == [trained] * 12  # one sum a step, of all gradients
    broadcast, gathered = elements("broadcast"), elements("all_gather")
    assert broadcast.count(trained) == 1 and sum(broadcast) < trained + 100  # no frozen weight at the start, no buffer
    assert max(gathered) < trained / 2 and sum(gathered) < trained  # counts of labels, checksums
    assert {name for name, _ in traffic} == {"gloo:all_reduce", "gloo:broadcast", "gloo:all_gather"}
    assert records[0]["traffic"] == []


def test_processes_with_different_bases_do_not_train(records):
    for record in records[1:]:
        assert "those of process 1 are not those of process 0" in record["refusal"]


def test_only_the_first_process_writes(digits):
    assert (digits[1] / "rank0" / "checkpoint-12" / "model.safetensors").is_file()
    others = {path.name for path in (digits[1] / "rank1").rglob("*") if path.is_file()}
    assert others <= {"rng_state_1.pth"}


def test_a_checkpoint_of_two_processes_loads_in_one(digits):
    model = FPTForImageClassification.from_pretrained(digits[1] / "rank0" / "checkpoint-12")
    assert_same(copied(model, trained=True), saved_tensors(digits[1] / "rank0", model))
    with torch.no_grad():
        assert model(pixel_values=torch.zeros(2, 1, 8, 8)).logits.shape == (2, 10)


def ragged_series(folder):
    rng = np.random.default_rng(0)
    values = [rng.normal(size=(5 + number % 4, 2)).tolist() for number in range(90)]
    rows = {"values": values, "label": ["left", "right", "right"] * 30}
    return write(folder / "rows.parquet", rows)


@pytest.mark.parametrize(
    "reads",
    [
        pytest.param(lambda folder: "--task_name digits", id="digits"),
        pytest.param(
            lambda folder: f"--task_name time-series-classification --train_file {ragged_series(folder)}",
            id="rows of one's own",
            marks=pytest.mark.slow,
        ),
    ],
)
def test_the_run_script_gives_the_same_in_two_processes(reads, saved_base, tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    flags = f"{reads(tmp_path)} --model_name_or_path {saved_base} --do_train --do_eval --do_predict --use_cpu"
    flags += " --disable_tqdm true --dropout 0 --backbone_dropout 0 --max_steps 6 --logging_steps 1 --optim sgd"
    flags += " --learning_rate 0.3 --max_train_samples 64 --per_device_train_batch_size"
    one, two = tmp_path / "one", tmp_path / "two"
    load_script(RUN_FPT).main([*flags.split(), "16", "--output_dir", str(one)])
    launch(RUN_FPT, *flags.split(), "8", "--output_dir", two, config=CONFIGS / "cpu.yaml")
    results = [json.loads((folder / "all_results.json").read_text()) for folder in (one, two)]
    assert results[0].keys() == results[1].keys()
    for name in ("eval_accuracy", "eval_floor", "test_accuracy", "test_floor"):
        assert results[1][name] == results[0][name]
    assert results[1]["train_loss"] == pytest.approx(results[0]["train_loss"], abs=1e-5)
    assert_close(*(load_file(folder / "model.safetensors") for folder in (two, one)))
    assert all((two / name).is_file() for name in ("learning_curve.png", "test_predictions.npz"))
