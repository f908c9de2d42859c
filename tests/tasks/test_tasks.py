"""What holds for every task: its flags, what the seed changes, which examples are kept, and what is refused."""

from pathlib import Path

import numpy as np
import pytest
import torch
from data_files import image_rows, random_pixels, write
from transformers import HfArgumentParser

from fpt_adapters.tasks import TASKS, BitMemory, BitXor, Cifar10, Digits, ListOps, Mnist, RemoteHomology

SHORT = {"min_length": 8, "max_length": 60, "max_depth": 5, "max_args": 6, "train_examples": 50, "eval_examples": 40}
DRAWN = {
    "bit-memory": BitMemory(num_strings=3, string_length=12, bits_per_token=4, mask_probability=0.3, eval_examples=40),
    "bit-memory of 1-bit tokens": BitMemory(num_strings=2, string_length=6, bits_per_token=1, eval_examples=40),
    "bit-xor": BitXor(eval_examples=40),
    "bit-xor of 3 strings": BitXor(num_strings=3, string_length=6, bits_per_token=3, eval_examples=40),
    "listops, full": ListOps(variant="full", **SHORT),
    "listops, paper": ListOps(**SHORT),
}
each_drawn_task = pytest.mark.parametrize("task", DRAWN.values(), ids=DRAWN)


def first(count, split):
    """The first examples of a split, as texts that can be compared and counted."""
    return [repr({name: np.asarray(value).tolist() for name, value in split[i].items()}) for i in range(count)]


def parts(data):
    return [first(len(split), split) for split in (data.train, data.validation, data.test)]


@each_drawn_task
def test_the_seed_changes_only_the_training_split(task):
    one, again, other = (task.load(seed=seed) for seed in (1, 1, 2))
    assert first(40, one.train) == first(40, again.train) != first(40, other.train)
    for split in ("validation", "test"):
        assert first(40, getattr(one, split)) == first(40, getattr(other, split))


@each_drawn_task
def test_max_samples_keeps_the_first_examples(task):
    whole, cut = task.load(seed=3), task.load(seed=3, max_samples={"train": 8, "test": 4, "validation": 10**6})
    assert (len(cut.train), len(cut.validation), len(cut.test)) == (8, 40, 4)
    assert first(8, cut.train) == first(8, whole.train) and first(4, cut.test) == first(4, whole.test)


@pytest.mark.parametrize(
    ("task_class", "rows"),
    [
        (Mnist, image_rows(random_pixels(40, (28, 28)))),
        (RemoteHomology, {"sequence": ["A" * number for number in range(1, 41)], "label": [0, 1] * 20}),
    ],
)
def test_what_files_lack_is_held_out_of_their_training_rows(task_class, rows, quiet, caplog):
    path = write(Path("rows.parquet"), rows)
    (whole, *_) = parts(task_class(train_file=path, validation_file=path, test_file=path).load())
    task = task_class(train_file=path, validation_share=0.25)
    one, again, other = (parts(task.load(seed)) for seed in (0, 0, 1))
    for train, validation, test in (one, other):
        assert (len(train), len(validation), len(test)) == (20, 10, 10)
        assert sorted(train + validation + test) == sorted(whole)
    assert one == again and one[2] == other[2] and one[1] != other[1]
    assert "the test figure is on 10 rows held out" in caplog.text
    limits = {"train": 6, "test": 2}
    kept, again, other = (parts(task.load(seed, limits)) for seed in (0, 0, 1))
    assert [len(part) for part in kept] == [6, 10, 2]
    assert set(kept[0]) < set(one[0]) and kept[1] == one[1] and set(kept[2]) < set(one[2])
    assert kept == again and kept[0] != other[0]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (DRAWN["bit-xor"], "bit-xor test has examples 0..39, got"),
        (DRAWN["listops, full"], "the split has examples 0..39, got"),
        (Digits(), "the split has examples 0..299, got"),
    ],
)
def test_an_index_outside_the_split_is_refused(task, message):
    split = task.load().test
    for index in (-1, len(split)):
        with pytest.raises(IndexError, match=f"{message} {index}"):
            split[index]


@pytest.mark.parametrize("task_class", [ListOps, RemoteHomology])
def test_sequences_are_padded_to_the_longest_and_masked(task_class):
    lengths = np.random.default_rng(0).integers(1, 60, 30)
    examples = [{"input_ids": torch.arange(length) % 13 + 1, "labels": length % 3} for length in lengths]
    batch = task_class().collate(examples)
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (30, lengths.max())
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    assert batch["labels"].tolist() == (lengths % 3).tolist()
    for ids, mask, length in zip(batch["input_ids"], batch["attention_mask"], lengths, strict=True):
        assert torch.equal(ids[:length], torch.arange(length) % 13 + 1) and not ids[length:].any()
        assert mask[:length].all() and not mask[length:].any()


FLAGS = {
    BitMemory: {"string_length": 100, "num_strings": 3},
    BitXor: {"string_length": 100, "num_strings": 3},
    ListOps: {"variant": "full", "max_length": 900},
    Cifar10: {"train_file": "a.csv", "augment": False, "patch_size": 8, "validation_examples": 5},
    RemoteHomology: {"train_file": "a.csv", "max_length": 300, "sequence_column": "seq"},
}


@pytest.mark.parametrize("task_class", TASKS.values(), ids=TASKS)
def test_every_field_is_a_flag_with_help(task_class):
    parser, fields = HfArgumentParser(task_class), FLAGS.get(task_class, {})
    flags = [part for name, value in fields.items() for part in (f"--{name}", str(value))]
    assert parser.parse_args_into_dataclasses(flags) == (task_class(**fields),)
    assert all(action.help for action in parser._actions)


@pytest.mark.parametrize(
    ("task_class", "arguments", "message"),
    [
        (BitXor, {"string_length": 0}, "string_length is a whole number of at least 1, got 0"),
        (BitXor, {"string_length": 5.0}, "string_length is a whole number of at least 1, got 5.0"),
        (BitXor, {"num_strings": 1}, "num_strings is a whole number of at least 2, got 1"),
        (BitMemory, {"num_strings": 0}, "num_strings is a whole number of at least 1, got 0"),
        (BitMemory, {"train_examples": -1}, "train_examples is a whole number of at least 1, got -1"),
        (BitMemory, {"mask_probability": 1.0}, "mask_probability lies above 0 .* and below 1 .*, got 1.0"),
        (
            BitMemory,
            {"bits_per_token": 48},
            "string_length must be a multiple of bits_per_token, got 1000 and 48: "
            "write for example string_length=1008",
        ),
        (ListOps, {"variant": "short"}, "variant is 'paper' or 'full', got 'short'"),
        (ListOps, {"min_length": 0}, "min_length is a whole number of at least 1, got 0"),
        (ListOps, {"max_depth": 1}, "max_depth is a whole number of at least 2, got 1"),
        (ListOps, {"max_args": 1}, "max_args is a whole number of at least 2, got 1"),
        (ListOps, {"train_examples": 0}, "train_examples is a whole number of at least 1, got 0"),
        (ListOps, {"eval_examples": 1.5}, "eval_examples is a whole number of at least 1, got 1.5"),
        (ListOps, {"max_length": 501}, "got 500 and 501, write max_length=502 or more"),
        (ListOps, {"min_length": 1, "max_length": 4}, "got 1 and 4, write max_length=5 or more"),
        (Mnist, {"validation_share": 0}, "validation_share lies above 0 and below 1, got 0"),
        (Mnist, {"validation_share": 1}, "validation_share lies above 0 and below 1, got 1"),
        (Mnist, {"validation_share": -0.1}, "validation_share lies above 0 and below 1, got -0.1"),
        (Mnist, {"validation_examples": 0}, "validation_examples is a whole number of at least 1, got 0"),
        (RemoteHomology, {"max_length": 0}, "max_length is a whole number of at least 1, got 0"),
    ],
)
def test_wrong_arguments_are_refused_by_name(task_class, arguments, message):
    with pytest.raises(ValueError, match=message):
        task_class(**arguments)


@pytest.mark.parametrize("task", [DRAWN["bit-xor"], DRAWN["listops, full"], Digits()], ids=lambda task: task.name)
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"seed": -1}, r"seed is a whole number in 0..2\*\*64-1, got -1"),
        ({"max_samples": {"dev": 1}}, "max_samples takes the splits train, validation, test; got 'dev'"),
        ({"max_samples": {"test": 0}}, r"max_samples\['test'\] is .* at least 1, got 0"),
    ],
    ids=["seed", "split", "number"],
)
def test_wrong_loads_are_refused(task, arguments, message):
    with pytest.raises(ValueError, match=message):
        task.load(**arguments)
