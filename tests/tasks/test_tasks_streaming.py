"""Tasks and the run script on streams: the same examples as held data, held-out rows, labels, the Hub, mistakes."""

import json
import os
import shutil
import subprocess
import sys

import datasets
import pytest
import torch
from hub_server import StandInHub
from test_run_fpt import (  # noqa: F401
    SCRIPT,
    alone_and_quiet,
    assert_same_delta,
    fails,
    flags,
    png,
    results_in,
    run_fpt,
)

from fpt_adapters.tasks import Cifar10, Cifar10Lra, ListOps, Mnist, RemoteHomology

CLASSES = datasets.ClassLabel(names=[f"class {number}" for number in range(10)])


def write_shards(folder, rows, features, shards=3):
    """Spread rows over several parquet files and put them, in that order, into one; returns pattern and file."""
    folder.mkdir(exist_ok=True)
    data = datasets.Dataset.from_list(rows, features=datasets.Features(features))
    for shard in range(shards):
        data.shard(shards, shard).to_parquet(folder / f"part-{shard}.parquet")
    data.to_parquet(folder / "whole.parquet")
    return str(folder / "part-*.parquet"), str(folder / "whole.parquet")


def images(folder, shape=(28, 28), count=60, label=CLASSES):
    rows = [{"image": png(shape, seed), "label": seed % 10} for seed in range(count)]
    return write_shards(folder, rows, {"image": datasets.Image(), "label": label})


def proteins(folder, label=None, labels=("a.1", "b.2", "c.3")):
    rows = [{"sequence": "ACDEFGHIKL"[i % 10] * (3 + i % 7), "label": labels[i % 3]} for i in range(40)]
    feature = label or datasets.ClassLabel(names=list(labels))
    return write_shards(folder, rows, {"sequence": datasets.Value("string"), "label": feature})


def key(example):
    """Something to compare examples by."""
    return json.dumps({name: torch.as_tensor(value).tolist() for name, value in sorted(example.items())})


def all_at(task_class, pattern, whole, **options):
    """Splits that are all the rows: streamed and held."""
    streamed = task_class(train_file=pattern, validation_file=whole, test_file=whole, **options).stream(buffer_size=8)
    return streamed, task_class(train_file=whole, validation_file=whole, test_file=whole, **options).load()


@pytest.mark.parametrize(
    ("task_class", "options", "shape"),
    [
        (Mnist, {}, (28, 28)),
        (Cifar10, {"augment": False}, (32, 32, 3)),
        (Cifar10Lra, {"augment": False}, (32, 32, 3)),
    ],
)
def test_streamed_images_are_those_that_are_held(task_class, options, shape, tmp_path):
    streamed, held = all_at(task_class, *images(tmp_path, shape), **options)
    assert sorted(map(key, streamed.train)) == sorted(map(key, held.train)) and len(held.train) == 60
    for split in ("validation", "test"):
        assert list(map(key, getattr(streamed, split))) == list(map(key, getattr(held, split)))
    assert streamed.config == held.config


def test_streamed_proteins_are_those_that_are_held(tmp_path):
    streamed, held = all_at(RemoteHomology, *proteins(tmp_path), max_length=8)
    assert sorted(map(key, streamed.train)) == sorted(map(key, held.train))
    assert list(map(key, streamed.validation)) == list(map(key, held.validation))
    assert streamed.config == held.config


def test_streamed_images_are_augmented_by_epoch_and_place(tmp_path):
    pattern, whole = images(tmp_path, (32, 32, 3))
    stream = Cifar10(train_file=pattern, validation_file=whole, test_file=whole).stream(buffer_size=None).train
    plain = Cifar10(train_file=pattern, validation_file=whole, test_file=whole, augment=False).stream(buffer_size=None)

    def pixels(stream, part=0, parts=1, epoch=0):
        return [example["pixel_values"] for example, _ in stream.read(part, parts, epoch)]

    first = pixels(stream)
    assert not any(map(torch.equal, first, pixels(plain.train)))
    assert not any(map(torch.equal, first, pixels(stream, epoch=1)))
    assert all(map(torch.equal, first, pixels(stream)))
    halves = [example for part in (0, 1) for example in pixels(stream, part, 2)]
    assert {example.numpy().tobytes() for example in halves} == {example.numpy().tobytes() for example in first}


@pytest.mark.parametrize("ending", ["csv", "json", "jsonl"])
def test_files_without_a_schema_are_streamed(ending, tmp_path):
    rows = datasets.Dataset.from_dict({"sequence": ["ACD", "MKV", "GG"] * 40, "label": [2, 0, 1] * 40})
    path = tmp_path / f"rows.{ending}"
    (rows.to_csv if ending == "csv" else rows.to_json)(path)
    task = RemoteHomology(train_file=str(path), validation_file=str(path), test_file=str(path))
    data = task.stream(buffer_size=None, label_names=["x", "y", "z"])
    assert [example["labels"] for example in data.train] == [2, 0, 1] * 40
    assert data.config["id2label"] == {0: "x", 1: "y", 2: "z"}


# Held-out rows


def test_what_the_data_lacks_is_held_out_of_the_streams_first_rows(tmp_path):
    pattern, whole = images(tmp_path)
    data = Mnist(train_file=pattern, validation_examples=6).stream(max_samples={"test": 4})
    everything = list(map(key, Mnist(train_file=whole, validation_file=whole, test_file=whole).load().train))
    parts = {split: list(map(key, getattr(data, split))) for split in ("train", "validation", "test")}
    assert {split: len(part) for split, part in parts.items()} == {"train": 48, "validation": 6, "test": 4}
    assert parts["validation"] == [everything[row] for row in (2, 3, 22, 23, 42, 43)]
    assert set(parts["test"]) <= {everything[row] for row in (0, 1, 20, 21, 40, 41)}
    assert len(set(parts["train"]) | set(parts["validation"])) == 54 and set(parts["train"]) <= set(everything)


def test_held_out_rows_do_not_follow_the_seed(tmp_path):
    task = Mnist(train_file=images(tmp_path)[0], validation_examples=6)
    first, second = task.stream(seed=1), task.stream(seed=2)
    assert list(map(key, first.test)) == list(map(key, second.test))
    assert list(map(key, first.train)) != list(map(key, second.train))


def test_too_few_rows_to_hold_out_are_told(tmp_path):
    with pytest.raises(
        ValueError, match=r"668 rows of each of 3 shards .* for test and validation, but one .* has 20"
    ):
        Mnist(train_file=images(tmp_path)[0]).stream()


# Labels


INTEGER, STRING, BOOL = datasets.Value("int64"), datasets.Value("string"), datasets.Value("bool")


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
    pattern, whole = proteins(tmp_path, feature, labels)
    task = RemoteHomology(train_file=pattern, validation_file=whole, test_file=whole)
    data = task.stream(buffer_size=None, label_names=names)
    numbers = [names.index(label) if isinstance(label, str) else label for label in labels]
    assert [example["labels"] for example in data.train][:3] == numbers
    assert [example["labels"] for example in data.test][:3] == numbers
    assert all(type(example["labels"]) is int for example in data.train)
    assert list(data.config["id2label"].values()) == (names or ["False", "True"])


@pytest.mark.parametrize(
    ("feature", "labels", "names", "message"),
    [
        (
            STRING,
            ("a", "b", "c"),
            None,
            r"column 'label' of .* \(string\) does not name them: write --label_names_file",
        ),
        (INTEGER, (0, 1, 2), None, r"column 'label' of .* \(int64\) does not name them: write --label_names_file"),
        (datasets.Value("float32"), (0.0, 1.0, 2.0), None, "labels are whole numbers or strings"),
        (STRING, ("a", "b", "c"), ["a", "b", "a"], "need different names, but one comes twice"),
        (None, ("a", "b", "c"), ["c", "b", "a"], "names its classes itself"),
    ],
)
def test_classes_without_names_are_refused(feature, labels, names, message, tmp_path):
    pattern, whole = proteins(tmp_path, feature, labels)
    with pytest.raises(ValueError, match=message):
        RemoteHomology(train_file=pattern, validation_file=whole, test_file=whole).stream(label_names=names)


def test_another_number_of_classes_is_refused(tmp_path):
    pattern, whole = images(tmp_path, label=datasets.ClassLabel(num_classes=11))
    with pytest.raises(ValueError, match=r"the task has 10 classes, but column 'label' of .* has 11"):
        Mnist(train_file=pattern, validation_file=whole, test_file=whole).stream()


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
    features = {"sequence": STRING, "label": STRING}
    whole = write_shards(tmp_path / "right", rows, features)[1]
    rows[3] |= wrong
    pattern = write_shards(tmp_path / "wrong", rows, features)[0]
    task = RemoteHomology(train_file=pattern, validation_file=whole, test_file=whole)
    data = task.stream(label_names=["a.1", "b.2", "c.3"], buffer_size=None)
    with pytest.raises(ValueError, match=message):
        list(data.train)


def test_a_wrong_image_is_named_when_it_comes(tmp_path):
    whole = images(tmp_path / "right")[1]
    pattern = images(tmp_path / "wrong", (27, 28))[0]
    data = Mnist(train_file=pattern, validation_file=whole, test_file=whole).stream(buffer_size=None)
    with pytest.raises(ValueError, match=r"28 x 28 pixels .* column 'image', row 0 of shard 0 of the train split"):
        list(data.train)


# The script


def stream_flags(folder, task):
    shapes = {"mnist": (28, 28), "cifar10": (32, 32, 3), "cifar10-lra": (32, 32, 3)}
    pattern, whole = images(folder, shapes[task]) if task in shapes else proteins(folder)
    given = ["--streaming", "--train_file", pattern, "--validation_file", whole, "--test_file", whole]
    return given + {"cifar10-lra": ["--patch_size", "4"], "remote-homology": ["--max_length", "30"]}.get(task, [])


RUN = ["--do_train", "--do_eval", "--do_predict", "--max_steps", "12", "--shuffle_buffer", "16"]
SAVED = ["--save_strategy", "steps", "--save_steps", "9"]


@pytest.mark.parametrize("task", ["mnist", "cifar10", "cifar10-lra", "remote-homology"])
def test_a_streamed_run_is_scored_and_resumed(task, saved_base, tmp_path):
    more = [*stream_flags(tmp_path / "data", task), *RUN, *SAVED]
    results = run_fpt.main(flags(task, saved_base, tmp_path / "whole", *more))
    assert results_in(tmp_path / "whole") == results and 0 < results["test_floor"] < 1
    assert {"train_loss", "eval_accuracy", "test_accuracy"} <= results.keys()
    (tmp_path / "half").mkdir()
    shutil.copytree(tmp_path / "whole" / "checkpoint-9", tmp_path / "half" / "checkpoint-9")
    run_fpt.main(flags(task, saved_base, tmp_path / "half", *more, "--resume_from_checkpoint", "last"))
    assert_same_delta(tmp_path / "whole", tmp_path / "half")


def test_label_names_come_from_a_file(saved_base, tmp_path):
    pattern, whole = proteins(tmp_path / "data", STRING)
    (tmp_path / "names.txt").write_text("c.3\na.1\nb.2\n")
    more = ["--streaming", "--train_file", pattern, "--validation_file", whole, "--test_file", whole]
    more += ["--label_names_file", str(tmp_path / "names.txt"), "--do_train", "--max_steps", "2", "--max_length", "30"]
    run_fpt.main(flags("remote-homology", saved_base, tmp_path / "out", *more))
    config = json.loads((tmp_path / "out" / "config.json").read_text())
    assert list(config["id2label"].values()) == ["c.3", "a.1", "b.2"]


@pytest.mark.parametrize("task", ["bit-memory", "bit-xor", "listops", "digits"])
def test_tasks_that_read_no_files_refuse_a_stream(task, saved_base, tmp_path, monkeypatch, capsys):
    more = ["--streaming", "--do_train", "--max_steps", "2"]
    line = fails(flags(task, saved_base, tmp_path / "out", *more), monkeypatch, capsys)
    assert f"{task} makes its examples itself" in line and "leave --streaming out" in line


TRAIN = ["--streaming", "--do_train", "--max_steps", "2"]


@pytest.mark.parametrize(
    ("more", "parts"),
    [
        (["--streaming", "--do_train", "--train_file", "nowhere"], ["--streaming needs --max_steps"]),
        ([*TRAIN, "--max_train_samples", "9"], ["--max_steps instead of --max_train_samples"]),
        ([*TRAIN, "--min_label_examples", "2"], ["leave --min_label_examples out"]),
        ([*TRAIN, "--train_file", "x-*.parquet"], ["a file or a pattern of files", "'x-*.parquet' is not there"]),
        ([*TRAIN, "--train_file", "*"], ["the same for all"]),
        ([*TRAIN, "--train_file", "bad.parquet"], ["'bad.parquet' cannot be read as parquet"]),
        ([*TRAIN, "--train_file", "empty.jsonl"], ["empty.jsonl"]),
        ([*TRAIN, "--shuffle_buffer", "-1"], ["--shuffle_buffer is a number of rows", "-1"]),
        ([*TRAIN, "--test_file", "bad.parquet"], ["write --train_file too"]),
        ([*TRAIN, "--label_names_file", "empty.jsonl"], ["one class name a line"]),
        (["--do_train", "--label_names_file", "names.txt"], ["--label_names_file is for --streaming"]),
        (TRAIN, ["ylecun/mnist", "--train_file"]),  # without a network
    ],
)
def test_what_cannot_be_streamed_is_told_in_one_line(more, parts, saved_base, tmp_path, monkeypatch, capsys):
    (tmp_path / "bad.parquet").write_text("no parquet")
    (tmp_path / "empty.jsonl").write_text("")
    line = fails(flags("mnist", saved_base, tmp_path / "out", *more), monkeypatch, capsys)
    for part in parts:
        assert part in line


def test_a_listops_stream_is_refused_in_python():
    with pytest.raises(ValueError, match="listops makes its examples itself"):
        ListOps().stream()


def test_a_hub_data_set_is_streamed_and_not_kept(saved_base, tmp_path):
    folder = tmp_path / "rows"
    images(folder)
    parts = [(folder / f"part-{shard}.parquet").read_bytes() for shard in range(3)]
    files = {f"data/train-0000{shard}-of-00002.parquet": part for shard, part in enumerate(parts[:2])}
    files |= {"data/test-00000-of-00001.parquet": parts[2]}
    out, home = tmp_path / "out", tmp_path / "home"
    home.mkdir()
    more = ["--streaming", "--dataset_name", "owner/rows", "--validation_examples", "4", "--max_predict_samples", "5"]
    with StandInHub() as hub:
        hub.add_repo("owner/rows", files, repo_type="dataset")
        command = [sys.executable, str(SCRIPT), *flags("mnist", saved_base, out, *more, *RUN)]
        environment = hub.environment(home) | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.environ.get("PYTHONPATH", "")}
        done = subprocess.run(
            [*command, "--dataloader_num_workers", "1"], env=environment, capture_output=True, text=True, timeout=200
        )
    assert done.returncode == 0, done.stderr[-3000:]
    assert (results_in(out)["test_accuracy"] * 5) % 1 == 0 and (results_in(out)["eval_accuracy"] * 4) % 1 == 0
    assert not list(home.rglob("*.parquet"))
