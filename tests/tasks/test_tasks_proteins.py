"""Remote homology: ids and masks of the sequences, label names, held-out parts, and what data is refused."""

import logging

import datasets
import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader, Subset
from transformers import HfArgumentParser

from fpt_adapters.tasks.proteins import RemoteHomology


@pytest.fixture(autouse=True)
def cache_in_tmp(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


SEQUENCES = ["ACDEF", "zA", "MKV", "GGGGGGG", "W", "ACD", "LLLL", "XYZ", "AB", "QWERTY"]
FOLDS = ["a.1", "b.2", "a.1", "c.10", "b.2", "a.1", "a.1", "c.10", "b.2", "a.1"]


def write(path, sequences=SEQUENCES, labels=FOLDS, column="sequence", feature=None):
    features = None
    if feature is not None:
        features = datasets.Features({column: datasets.Value("string"), "label": feature})
    rows = datasets.Dataset.from_dict({column: sequences, "label": labels}, features=features)
    {".parquet": rows.to_parquet, ".csv": rows.to_csv, ".json": rows.to_json, ".jsonl": rows.to_json}[path.suffix](
        path
    )
    return str(path)


def whole(path, **options):
    """A task whose three splits are all rows of one file."""
    return RemoteHomology(train_file=path, validation_file=path, test_file=path, **options)


@pytest.mark.parametrize("ending", ["parquet", "csv", "json", "jsonl"])
def test_ids_are_letters_from_1_in_every_kind_of_file(ending, tmp_path):
    data = whole(write(tmp_path / f"rows.{ending}")).load()
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


def test_a_batch_is_padded_to_its_longest_and_masked(tmp_path):
    task = whole(write(tmp_path / "rows.parquet"))
    train = task.load().train
    batch = next(iter(DataLoader(Subset(train, [1, 0, 4]), batch_size=3, num_workers=1, collate_fn=task.collate)))
    assert batch["input_ids"].tolist() == [[26, 1, 0, 0, 0], [1, 3, 4, 5, 6], [23, 0, 0, 0, 0]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 1, 1], [1, 0, 0, 0, 0]]
    assert batch["labels"].tolist() == [1, 0, 1] and batch["labels"].dtype == torch.int64
    assert task.floor(train) == 0.5
    assert task.floor(Subset(train, [1, 0, 4])) == pytest.approx(2 / 3)


def test_long_sequences_are_cut_and_counted(tmp_path, caplog):
    path = write(tmp_path / "rows.parquet")
    with caplog.at_level(logging.WARNING):
        data = whole(path, max_length=4).load()
    assert max(len(example["input_ids"]) for example in data.train) == 4
    assert data.config["sequence_length"] == 4
    assert "3 of 10 train sequences are longer than max_length=4 (longest 7) and were cut to it." in caplog.text
    caplog.clear()
    whole(path, max_length=7).load()
    assert not caplog.text


def test_held_out_parts_cover_the_rows_once_and_test_is_the_same_for_every_seed(tmp_path):
    sequences = ["A" * number for number in range(1, 41)]
    path = write(tmp_path / "rows.parquet", sequences, [0] * 40)
    lengths = {}
    for seed in (0, 1):
        data = RemoteHomology(train_file=path, validation_share=0.25).load(seed=seed)
        parts = [[len(example["input_ids"]) for example in s] for s in (data.train, data.validation, data.test)]
        assert [len(part) for part in parts] == [20, 10, 10]
        assert sorted(length for part in parts for length in part) == list(range(1, 41))
        lengths[seed] = parts
    assert lengths[0][2] == lengths[1][2] and lengths[0][1] != lengths[1][1]
    small = RemoteHomology(train_file=path, validation_share=0.25).load(max_samples={"train": 6, "test": 2})
    kept = [[len(example["input_ids"]) for example in s] for s in (small.train, small.validation, small.test)]
    assert [len(part) for part in kept] == [6, 10, 2]
    assert set(kept[0]) < set(lengths[0][0]) and kept[1] == lengths[0][1] and set(kept[2]) < set(lengths[0][2])


def test_labels_keep_their_names_where_only_some_rows_are_kept(tmp_path):
    data = whole(write(tmp_path / "rows.parquet")).load(max_samples={"train": 1})
    assert len(data.train) == 1 and len(data.config["id2label"]) == 3


def test_whole_numbers_name_themselves(tmp_path):
    data = whole(write(tmp_path / "rows.parquet", labels=[0, 4, 2, 1, 0, 0, 0, 0, 0, 0])).load()
    assert data.config["id2label"] == {i: str(i) for i in range(5)}
    assert data.train[1]["labels"] == 4


@pytest.mark.parametrize("ending", ["parquet", "csv"])
def test_bools_are_two_classes(ending, tmp_path):
    data = whole(write(tmp_path / f"rows.{ending}", labels=[False, True, *[False] * 8])).load()
    assert data.config["id2label"] == {0: "False", 1: "True"}
    assert data.train.labels.tolist() == [0, 1, *[0] * 8]


def test_classes_are_matched_by_name_where_files_number_them_differently(tmp_path):
    train = write(tmp_path / "train.parquet", ["A"] * 3, [0, 1, 2], feature=datasets.ClassLabel(names=["x", "y", "z"]))
    test = write(tmp_path / "test.parquet", ["A"] * 2, [0, 1], feature=datasets.ClassLabel(names=["z", "x"]))
    text = write(tmp_path / "text.csv", ["A"] * 2, ["y", "z"])
    data = RemoteHomology(train_file=train, test_file=test, validation_file=text).load()
    assert data.config["label2id"] == {"x": 0, "y": 1, "z": 2}
    assert data.test.labels.tolist() == [2, 0]
    assert data.validation.labels.tolist() == [1, 2]
    numbers = write(tmp_path / "numbers.csv", ["A"] * 3, [2, 0, 1])
    data = RemoteHomology(train_file=train, test_file=numbers).load()
    assert data.test.labels.tolist() == [2, 0, 1]
    data = RemoteHomology(train_file=numbers, test_file=train, validation_examples=1).load()
    assert data.test.labels.tolist() == [0, 1, 2] and data.config["id2label"][2] == "2"


def test_columns_go_by_other_usual_names_or_by_flag(tmp_path):
    path = write(tmp_path / "rows.parquet", column="seq")
    assert whole(path).load().train[4]["input_ids"].tolist() == [23]
    path = write(tmp_path / "other.parquet", column="protein")
    assert whole(path, sequence_column="protein").load().train[4]["input_ids"].tolist() == [23]


def test_every_field_is_a_flag():
    arguments = ["--train_file", "a.csv", "--max_length", "300", "--sequence_column", "seq"]
    task = HfArgumentParser(RemoteHomology).parse_args_into_dataclasses(arguments)[0]
    assert task == RemoteHomology(train_file="a.csv", max_length=300, sequence_column="seq")


# What is refused


@pytest.mark.parametrize(
    ("sequence", "message"),
    [
        (
            "AC-DE",
            r"only the letters A to Z, but column 'sequence', row 2 of the train split \(.*\), has '-' at position 2",
        ),
        ("AC D", r"row 2 of the train split .* has ' ' at position 2"),
        ("ACé", r"row 2 of the train split .* has 'é' at position 2"),
        ("A1", r"row 2 of the train split .* has '1' at position 1"),
        ("A{", r"row 2 of the train split .* has '{' at position 1"),
        ("`A@", r"row 2 of the train split .* has '`' at position 0"),
        ("", r"needs a sequence, but row 2 of the train split \(.*\) has none in column 'sequence'"),
        (None, r"needs a sequence, but row 2 of the train split \(.*\) has none in column 'sequence'"),
    ],
)
def test_refuses_sequences(sequence, message, tmp_path):
    path = write(tmp_path / "rows.parquet", ["ACD", "EFG", sequence], ["x", "y", "x"])
    with pytest.raises(ValueError, match=message):
        whole(path).load()


def test_refuses_sequences_that_are_no_text(tmp_path):
    path = write(tmp_path / "rows.parquet", [1, 2], ["x", "y"])
    with pytest.raises(
        ValueError, match=r"sequences are strings, but column 'sequence' .* name the column with --seq"
    ):
        whole(path).load()


def test_refuses_a_label_that_training_never_saw(tmp_path):
    train = write(tmp_path / "train.parquet")
    test = write(tmp_path / "test.parquet", ["A", "C"], ["a.1", "z.9"])
    with pytest.raises(
        ValueError, match=r"'z.9' in row 1 of the test split \(.*test.parquet\) .* not among the 3 labels"
    ):
        RemoteHomology(train_file=train, test_file=test).load()
    train = write(tmp_path / "numbers.parquet", labels=list(range(10)))
    test = write(tmp_path / "more.parquet", ["A", "C"], [9, 10])
    with pytest.raises(ValueError, match=r"lie in 0..9, but row 1 of the test split \(.*\) has 10"):
        RemoteHomology(train_file=train, test_file=test).load()


def test_refuses_numbers_for_labels_that_training_had_as_text(tmp_path):
    train, test = write(tmp_path / "train.parquet"), write(tmp_path / "test.parquet", ["A", "C"], [0, 1])
    with pytest.raises(
        ValueError, match="'label' has strings in the training rows but whole numbers in the test split"
    ):
        RemoteHomology(train_file=train, test_file=test).load()


def test_refuses_a_missing_label(tmp_path):
    path = write(tmp_path / "rows.csv", ["A", "C", "D"], ["x", None, "y"])
    with pytest.raises(ValueError, match=r"row 1 of the train split .* none in column 'label'.* \(1 of 3 rows"):
        whole(path).load()


def test_refuses_max_length_below_one():
    with pytest.raises(ValueError, match="max_length is a whole number of at least 1, got 0"):
        RemoteHomology(max_length=0)


def test_masks_agree_with_ids_on_random_lengths(tmp_path):
    lengths = np.random.default_rng(0).integers(1, 60, 30)
    task = whole(write(tmp_path / "rows.parquet", ["Z" * length for length in lengths], ["x"] * 30))
    batch = task.collate([task.load().train[i] for i in range(30)])
    assert batch["attention_mask"].sum(1).tolist() == lengths.tolist()
    assert torch.equal(batch["input_ids"] == 26, batch["attention_mask"].bool())


def test_rare_classes_are_dropped_from_every_split(tmp_path, caplog):
    path = write(tmp_path / "rows.parquet")
    with caplog.at_level(logging.WARNING):
        data = whole(path, min_label_examples=3).load()
    assert data.config["id2label"] == {0: "a.1", 1: "b.2"} and data.config["label2id"] == {"a.1": 0, "b.2": 1}
    kept = [(sequence, fold) for sequence, fold in zip(SEQUENCES, FOLDS, strict=True) if fold != "c.10"]
    for split in (data.train, data.validation, data.test):
        assert [data.config["id2label"][example["labels"]] for example in split] == [fold for _, fold in kept]
        assert [len(example["input_ids"]) for example in split] == [len(sequence) for sequence, _ in kept]
    assert "test keeps 8 of its 10 rows: those of the 2 classes (of 3) with at least 3 training rows." in caplog.text


def test_counts_rare_classes_in_the_rows_that_are_trained_on(tmp_path):
    path = write(tmp_path / "rows.parquet")
    data = RemoteHomology(train_file=path, test_file=path, validation_examples=5, min_label_examples=2).load()
    assert min(np.bincount(data.train.labels)) >= 2
    with pytest.raises(ValueError, match=r"no row of train is left: none of its classes has 11 training rows"):
        whole(path, min_label_examples=11).load()
