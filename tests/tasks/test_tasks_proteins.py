"""Remote homology: ids and masks of the sequences, label names, held-out parts, and what data is refused."""

import logging

import datasets
import numpy as np
import pytest
import torch
from data_files import STRING, write
from torch.utils.data import DataLoader, Subset

from fpt_adapters.tasks.proteins import RemoteHomology

pytestmark = pytest.mark.usefixtures("quiet")
SEQUENCES = ["ACDEF", "zA", "MKV", "GGGGGGG", "W", "ACD", "LLLL", "XYZ", "AB", "QWERTY"]
FOLDS = ["a.1", "b.2", "a.1", "c.10", "b.2", "a.1", "a.1", "c.10", "b.2", "a.1"]


@pytest.fixture
def rows(tmp_path):
    """A function that writes rows into a file of this name: rows("rows.csv", labels=[0, 1])."""

    def rows(name="rows.parquet", sequences=SEQUENCES, labels=FOLDS, column="sequence", classes=None):
        columns = {column: sequences[: len(labels)], "label": labels}
        if classes is None:
            return write(tmp_path / name, columns)
        features = datasets.Features({column: STRING, "label": datasets.ClassLabel(names=list(classes))})
        return write(tmp_path / name, datasets.Dataset.from_dict(columns, features=features))

    return rows


def whole(path, **options):
    """A task whose three splits are all rows of one file."""
    return RemoteHomology(train_file=path, validation_file=path, test_file=path, **options)


@pytest.mark.parametrize("ending", ["parquet", "csv", "json", "jsonl"])
def test_ids_are_letters_from_1_in_every_kind_of_file(ending, rows):
    data = whole(rows(f"rows.{ending}")).load()
    for sequence, example in zip(SEQUENCES, data.train, strict=True):
        assert example["input_ids"].dtype == torch.int64
        assert "".join(chr(64 + number) for number in example["input_ids"].tolist()) == sequence.upper()
    assert [data.config["id2label"][example["labels"]] for example in data.train] == FOLDS
    assert data.config == {
        "input_type": "tokens",
        "sequence_length": 1024,
        "vocab_size": 27,
        "pad_token_id": 0,
        "id2label": {0: "a.1", 1: "b.2", 2: "c.10"},
        "label2id": {"a.1": 0, "b.2": 1, "c.10": 2},
    }


def test_a_batch_is_padded_to_its_longest_and_masked(rows):
    task = whole(rows())
    train = task.load().train
    (batch,) = DataLoader(Subset(train, [1, 0, 4]), batch_size=3, num_workers=1, collate_fn=task.collate)
    assert batch["input_ids"].tolist() == [[26, 1, 0, 0, 0], [1, 3, 4, 5, 6], [23, 0, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]]
    assert batch["labels"].tolist() == [1, 0, 1]
    assert task.floor(train) == 0.5
    assert task.floor(Subset(train, [1, 0, 4])) == pytest.approx(2 / 3)


def test_long_sequences_are_cut_and_counted(rows, caplog):
    with caplog.at_level(logging.WARNING):
        data = whole(rows(), max_length=4).load()
    assert max(len(example["input_ids"]) for example in data.train) == 4
    assert data.config["sequence_length"] == 4
    assert "3 of 10 train sequences are longer than max_length=4 (longest 7) and were cut to it." in caplog.text
    caplog.clear()
    whole(rows(), max_length=7).load()
    assert not caplog.text


def test_labels_keep_their_names_where_only_some_rows_are_kept(rows):
    data = whole(rows()).load(max_samples={"train": 1})
    assert len(data.train) == 1 and len(data.config["id2label"]) == 3


@pytest.mark.parametrize(
    ("name", "labels", "names"),
    [
        ("rows.parquet", [0, 4, 2, 1, 0], ["0", "1", "2", "3", "4"]),
        ("rows.parquet", [False, True, False], ["False", "True"]),
        ("rows.csv", [False, True, False], ["False", "True"]),
    ],
)
def test_numbers_and_bools_name_themselves(name, labels, names, rows):
    data = whole(rows(name, labels=labels)).load()
    assert data.config["id2label"] == dict(enumerate(names))
    assert data.train.labels.tolist() == labels


def test_classes_are_matched_by_name_where_files_number_them_differently(rows):
    train = rows("train.parquet", labels=[0, 1, 2], classes="xyz")
    test = rows("test.parquet", labels=[0, 1], classes="zx")
    numbers, text = rows("numbers.csv", labels=[2, 0, 1]), rows("text.csv", labels=["y", "z"])
    data = RemoteHomology(train_file=train, test_file=test, validation_file=text).load()
    assert data.config["label2id"] == {"x": 0, "y": 1, "z": 2}
    assert data.test.labels.tolist() == [2, 0]
    assert data.validation.labels.tolist() == [1, 2]
    assert RemoteHomology(train_file=train, test_file=numbers).load().test.labels.tolist() == [2, 0, 1]
    data = RemoteHomology(train_file=numbers, test_file=train, validation_examples=1).load()
    assert data.test.labels.tolist() == [0, 1, 2] and data.config["id2label"][2] == "2"


@pytest.mark.parametrize(("column", "flag"), [("seq", {}), ("protein", {"sequence_column": "protein"})])
def test_columns_go_by_other_usual_names_or_by_flag(column, flag, rows):
    assert whole(rows(column=column), **flag).load().train[4]["input_ids"].tolist() == [23]


def test_rare_classes_are_dropped_from_every_split(rows, caplog):
    with caplog.at_level(logging.WARNING):
        data = whole(rows(), min_label_examples=3).load()
    assert data.config["id2label"] == {0: "a.1", 1: "b.2"} and data.config["label2id"] == {"a.1": 0, "b.2": 1}
    kept = [(len(sequence), fold) for sequence, fold in zip(SEQUENCES, FOLDS, strict=True) if fold != "c.10"]
    for split in (data.train, data.validation, data.test):
        names = [data.config["id2label"][example["labels"]] for example in split]
        assert [(len(example["input_ids"]), name) for example, name in zip(split, names, strict=True)] == kept
    assert "test keeps 8 of its 10 rows: those of the 2 classes (of 3) with at least 3 training rows." in caplog.text


def test_counts_rare_classes_in_the_rows_that_are_trained_on(rows):
    path = rows()
    data = RemoteHomology(train_file=path, test_file=path, validation_examples=5, min_label_examples=2).load()
    assert min(np.bincount(data.train.labels)) >= 2
    with pytest.raises(ValueError, match=r"no row of train is left: none of its classes has 11 training rows"):
        whole(path, min_label_examples=11).load()


# What is refused


LETTERS = r"only the letters A to Z, but column 'sequence', row 2 of the train split \(.*\), has "


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        ("AC-DE", f"{LETTERS}'-' at position 2"),
        ("AC D", f"{LETTERS}' ' at position 2"),
        ("ACé", f"{LETTERS}'é' at position 2"),
        ("A1", f"{LETTERS}'1' at position 1"),
        ("A{", f"{LETTERS}'{{' at position 1"),
        ("`A@", f"{LETTERS}'`' at position 0"),
        ("", r"needs a sequence, but row 2 of the train split \(.*\) has none in column 'sequence'"),
        (None, r"needs a sequence, but row 2 of the train split \(.*\) has none in column 'sequence'"),
        (1, r"sequences are strings, but column 'sequence' .* name the column with --seq"),
    ],
)
def test_refuses_sequences(sequence, message, rows):
    others = [1, 2] if sequence == 1 else ["ACD", "EFG"]  # a column is of one kind
    path = rows(sequences=[*others, sequence], labels=["x", "y", "x"])
    with pytest.raises(ValueError, match=message):
        whole(path).load()


@pytest.mark.parametrize(
    ("train", "test", "message"),
    [
        (FOLDS, ["a.1", "z.9"], r"'z.9' in row 1 of the test split \(.*test.parquet\) .* not among the 3 labels"),
        ([*range(10)], [9, 10], r"lie in 0..9, but row 1 of the test split \(.*\) has 10"),
        (FOLDS, [0, 1], "'label' has strings in the training rows but whole numbers in the test split"),
        (["x", None, "y"], FOLDS, r"row 1 of the train split .* none in column 'label'.* \(1 of 3 rows"),
    ],
    ids=["an unknown class", "an unknown number", "another kind", "none"],
)
def test_refuses_labels(train, test, message, rows):
    task = RemoteHomology(train_file=rows("train.csv", labels=train), test_file=rows("test.parquet", labels=test))
    with pytest.raises(ValueError, match=message):
        task.load()
