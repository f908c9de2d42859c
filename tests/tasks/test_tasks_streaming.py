"""Tasks and the run script on streams: the same examples as held data, held-out rows, labels, the Hub, mistakes."""

import json
import os
import subprocess
import sys
from functools import partial
from pathlib import Path

import datasets
import pytest
import torch
from data_files import BOOL, INTEGER, STRING, image_rows, protein_rows, random_pixels, write, write_shards
from hub_server import StandInHub
from test_run_fpt import SCRIPT, TRAIN, assert_resumes, flags, read_json, run

from fpt_adapters.tasks import Cifar10, Cifar10Lra, Mnist, RemoteHomology

pytestmark = pytest.mark.usefixtures("quiet")
SHAPES = {"mnist": (28, 28), "cifar10": (32, 32, 3), "cifar10-lra": (32, 32, 3)}


def shards_of(task_name, folder, **changes):
    """A pattern of three files with rows for a task, and one file with the rows of the three."""
    if task_name in SHAPES:
        return write_shards(folder, image_rows(random_pixels(60, changes.pop("shape", SHAPES[task_name])), **changes))
    return write_shards(folder, protein_rows(**changes))


def all_at(task_class, folder, options=None, **changes):
    """A task whose splits are all the rows, of three files for training, and one whose splits are all of one file."""
    pattern, whole = shards_of(task_class.name, folder, **changes)
    of = partial(task_class, validation_file=whole, test_file=whole, **(options or {}))
    return of(train_file=pattern), of(train_file=whole)


def keys(examples):
    """Something to compare examples by."""
    rows = [{name: torch.as_tensor(value).tolist() for name, value in sorted(row.items())} for row in examples]
    return list(map(json.dumps, rows))


@pytest.mark.parametrize(
    ("task_class", "options"),
    [
        (Mnist, {}),
        (Cifar10, {"augment": False}),
        (Cifar10Lra, {"augment": False}),
        (RemoteHomology, {"max_length": 8}),
    ],
)
def test_streamed_rows_are_those_that_are_held(task_class, options, tmp_path):
    streamed, held = all_at(task_class, tmp_path, options)
    streamed, held = streamed.stream(buffer_size=8), held.load()
    assert sorted(keys(streamed.train)) == sorted(keys(held.train)) and len(held.train) in (40, 60)
    for split in ("validation", "test"):
        assert keys(getattr(streamed, split)) == keys(getattr(held, split))
    assert streamed.config == held.config


def test_streamed_images_are_augmented_by_epoch_and_place(tmp_path):
    pattern, whole = shards_of("cifar10", tmp_path)

    def pixels(part=0, parts=1, epoch=0, **options):
        task = Cifar10(train_file=pattern, validation_file=whole, test_file=whole, **options)
        stream = task.stream(buffer_size=None).train
        return [example["pixel_values"] for example, _ in stream.read(part, parts, epoch)]

    first = pixels()
    assert not any(map(torch.equal, first, pixels(augment=False)))
    assert not any(map(torch.equal, first, pixels(epoch=1)))
    assert all(map(torch.equal, first, pixels()))
    halves = [*pixels(0, 2), *pixels(1, 2)]
    assert {example.numpy().tobytes() for example in halves} == {example.numpy().tobytes() for example in first}


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl"])
def test_files_without_a_schema_are_streamed(ending, tmp_path):
    path = write(tmp_path / f"rows.{ending}", {"sequence": ["ACD", "MKV", "GG"] * 40, "label": [2, 0, 1] * 40})
    task = RemoteHomology(train_file=path, validation_file=path, test_file=path)
    data = task.stream(buffer_size=None, label_names=["x", "y", "z"])
    assert [example["labels"] for example in data.train] == [2, 0, 1] * 40
    assert data.config["id2label"] == {0: "x", 1: "y", 2: "z"}


# Held-out rows


def test_what_the_data_lacks_is_held_out_of_the_streams_first_rows(tmp_path):
    pattern, whole = shards_of("mnist", tmp_path)
    data = Mnist(train_file=pattern, validation_examples=6).stream(max_samples={"test": 4})
    everything = keys(Mnist(train_file=whole, validation_file=whole, test_file=whole).load().train)
    train, validation, test = keys(data.train), keys(data.validation), keys(data.test)
    assert (len(train), len(validation), len(test)) == (48, 6, 4)
    assert validation == [everything[row] for row in (2, 3, 22, 23, 42, 43)]
    assert set(test) <= {everything[row] for row in (0, 1, 20, 21, 40, 41)}
    assert len(set(train) | set(validation)) == 54 and set(train) <= set(everything)


def test_held_out_rows_do_not_follow_the_seed(tmp_path):
    task = Mnist(train_file=shards_of("mnist", tmp_path)[0], validation_examples=6)
    first, second = task.stream(seed=1), task.stream(seed=2)
    assert keys(first.test) == keys(second.test)
    assert keys(first.train) != keys(second.train)


def test_too_few_rows_to_hold_out_are_told(tmp_path):
    with pytest.raises(
        ValueError, match=r"668 rows of each of 3 shards .* for test and validation, but one .* has 20"
    ):
        Mnist(train_file=shards_of("mnist", tmp_path)[0]).stream()


# Labels


@pytest.mark.parametrize(
    ("feature", "labels", "names"),
    [
        (STRING, ("b", "c", "a"), ["a", "b", "c"]),
        (INTEGER, (0, 2, 1), ["x", "y", "z"]),
        (INTEGER, (0, 2, 1), list("0123")),
        (BOOL, (False, True, True), None),
        (BOOL, (False, True, True), ["out", "in"]),
    ],
)
def test_classes_are_named_from_outside(feature, labels, names, tmp_path):
    task = all_at(RemoteHomology, tmp_path, feature=feature, labels=labels)[0]
    data = task.stream(buffer_size=None, label_names=names)
    numbers = [names.index(label) if isinstance(label, str) else label for label in labels]
    for split in (data.train, data.test):
        assert [example["labels"] for example in split][:3] == numbers
    assert all(type(example["labels"]) is int for example in data.train)
    assert list(data.config["id2label"].values()) == (names or ["False", "True"])


UNNAMED = r"column 'label' of .* \({}\) does not name them: write --label_names_file"


@pytest.mark.parametrize(
    ("task_class", "feature", "labels", "names", "message"),
    [
        (RemoteHomology, STRING, "abc", None, UNNAMED.format("string")),
        (RemoteHomology, INTEGER, (0, 1, 2), None, UNNAMED.format("int64")),
        (RemoteHomology, datasets.Value("float32"), (0.0, 1.0, 2.0), None, "labels are whole numbers or strings"),
        (RemoteHomology, STRING, "abc", ["a", "b", "a"], "need different names, but one comes twice"),
        (RemoteHomology, None, "abc", ["c", "b", "a"], "names its classes itself"),
        (
            Mnist,
            datasets.ClassLabel(num_classes=11),
            None,
            None,
            r"the task has 10 classes, but column 'label' of .* has 11",
        ),
    ],
)
def test_classes_without_names_are_refused(task_class, feature, labels, names, message, tmp_path):
    task = all_at(task_class, tmp_path, feature=feature, labels=labels)[0]
    with pytest.raises(ValueError, match=message):
        task.stream(label_names=names)


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"label": "d"}, r"label 'd' in row 1 of shard 1 of the train split .* not among the 3 classes, 'a.1', 'b.2'"),
        ({"label": None}, "label None in row 1 of shard 1"),
        ({"sequence": "A-B"}, "row 1 of shard 1 of the train split .*, has '-' at position 1"),
    ],
)
def test_a_wrong_row_is_named_when_it_comes(wrong, message, tmp_path):
    rows = [{"sequence": "ACD", "label": "a.1"} for _ in range(6)]
    features = datasets.Features({"sequence": STRING, "label": STRING})
    whole = write(tmp_path / "right.parquet", datasets.Dataset.from_list(rows, features=features))
    rows[3] |= wrong
    pattern, _ = write_shards(tmp_path / "wrong", datasets.Dataset.from_list(rows, features=features))
    task = RemoteHomology(train_file=pattern, validation_file=whole, test_file=whole)
    data = task.stream(label_names=["a.1", "b.2", "c.3"], buffer_size=None)
    with pytest.raises(ValueError, match=message):
        list(data.train)


def test_a_wrong_image_is_named_when_it_comes(tmp_path):
    whole = shards_of("mnist", tmp_path / "right")[1]
    pattern = shards_of("mnist", tmp_path / "wrong", shape=(27, 28))[0]
    data = Mnist(train_file=pattern, validation_file=whole, test_file=whole).stream(buffer_size=None)
    with pytest.raises(ValueError, match=r"28 x 28 pixels .* column 'image', row 0 of shard 0 of the train split"):
        list(data.train)


# The script


STEPS = "--do_train --do_eval --do_predict --max_steps 12 --shuffle_buffer 16"


def stream_flags(task, **changes):
    pattern, whole = shards_of(task, Path("data"), **changes)
    own = {"cifar10-lra": "--patch_size 4", "remote-homology": "--max_length 30"}.get(task, "")
    return f"--streaming --train_file '{pattern}' --validation_file {whole} --test_file {whole} {own}"


@pytest.mark.parametrize("task", [*SHAPES, "remote-homology"])
def test_a_streamed_run_is_scored_and_resumed(task, saved_base):
    more = f"{stream_flags(task)} {STEPS} --save_strategy steps --save_steps 9"
    results = run(task, saved_base, more, "whole")
    assert read_json("whole/all_results.json") == results and 0 < results["test_floor"] < 1
    assert {"train_loss", "eval_accuracy", "test_accuracy"} <= results.keys()
    assert_resumes(task, saved_base, more, 9, "whole")


def test_label_names_come_from_a_file(saved_base):
    Path("names.txt").write_text("c.3\na.1\nb.2\n")
    given = stream_flags("remote-homology", feature=STRING)
    run("remote-homology", saved_base, f"{given} {TRAIN} --label_names_file names.txt")
    assert list(read_json("out/config.json")["id2label"].values()) == ["c.3", "a.1", "b.2"]


@pytest.mark.parametrize("task", ["bit-memory", "bit-xor", "listops", "digits"])
def test_tasks_that_read_no_files_refuse_a_stream(task, saved_base, assert_told):
    told = [f"{task} makes its examples itself", "leave --streaming out"]
    assert_told(SCRIPT, flags(task, saved_base, f"--streaming {TRAIN}"), *told)


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        ("--streaming --max_steps -1 --train_file nowhere", ["--streaming needs --max_steps"]),
        ("--streaming --max_train_samples 9", ["--max_steps instead of --max_train_samples"]),
        ("--streaming --min_label_examples 2", ["leave --min_label_examples out"]),
        ("--streaming --train_file x-*.parquet", ["a file or a pattern of files", "'x-*.parquet' is not there"]),
        ("--streaming --train_file *", ["the same for all"]),
        ("--streaming --train_file bad.parquet", ["'bad.parquet' cannot be read as parquet"]),
        ("--streaming --train_file empty.jsonl", ["empty.jsonl"]),
        ("--streaming --shuffle_buffer -1", ["--shuffle_buffer is a number of rows", "-1"]),
        ("--streaming --test_file bad.parquet", ["write --train_file too"]),
        ("--streaming --label_names_file empty.jsonl", ["one class name a line"]),
        ("--label_names_file names.txt", ["--label_names_file is for --streaming"]),
        ("--streaming", ["ylecun/mnist", "--train_file"]),  # without a network
    ],
)
def test_what_cannot_be_streamed_is_told_in_one_line(more, parts, saved_base, assert_told):
    Path("bad.parquet").write_text("no parquet")
    Path("empty.jsonl").write_text("")
    assert_told(SCRIPT, flags("mnist", saved_base, f"{TRAIN} {more}"), *parts)


def test_a_hub_data_set_is_streamed_and_not_kept(saved_base, tmp_path):
    shards_of("mnist", tmp_path / "rows")
    parts = [(tmp_path / f"rows/part-{shard}.parquet").read_bytes() for shard in range(3)]
    files = {f"data/train-0000{shard}-of-00002.parquet": part for shard, part in enumerate(parts[:2])}
    files |= {"data/test-00000-of-00001.parquet": parts[2]}
    home = tmp_path / "home"
    home.mkdir()
    more = f"--streaming --dataset_name owner/rows --validation_examples 4 --max_predict_samples 5 {STEPS}"
    command = [sys.executable, str(SCRIPT), *flags("mnist", saved_base, f"{more} --dataloader_num_workers 1")]
    with StandInHub() as hub:
        hub.add_repo("owner/rows", files, repo_type="dataset")
        environment = hub.environment(home) | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    results = read_json("out/all_results.json")
    assert (results["test_accuracy"] * 5) % 1 == 0 and (results["eval_accuracy"] * 4) % 1 == 0
    assert not list(home.rglob("*.parquet"))
