"""What label columns hold: found or said, read, scored beside the one constant answer; and rows held out in blocks."""

import re

import datasets
import numpy as np
import pyarrow as pa
import pytest

from fpt_adapters.data.entities import spans_of
from fpt_adapters.data.sources import Source
from fpt_adapters.data.splits import held_out
from fpt_adapters.data.targets import choose_target
from fpt_adapters.data.token_targets import TokenTarget

CLASSES, LABELS, NUMBERS = "single_label_classification", "multi_label_classification", "regression"


def source(**columns):
    return Source(datasets.Dataset.from_dict(columns), "the train split (rows.csv)")


KINDS = {  # values of the column, what is said of it -> kind, names, labels
    "text": (["b", "a", "b"], {}, CLASSES, ["a", "b"], [1, 0, 1]),
    "whole numbers": ([0, 2, 1], {}, CLASSES, ["0", "1", "2"], [0, 2, 1]),
    "truth values": ([True, False], {}, CLASSES, ["False", "True"], [1, 0]),
    "numbers": ([0.5, 1.5], {}, NUMBERS, ["y"], [[0.5], [1.5]]),
    "whole numbers as numbers": ([3, 5], {"problem_type": NUMBERS}, NUMBERS, ["y"], [[3], [5]]),
    "several numbers": ([[1.0, 2.0], [3.0, 5.0]], {}, NUMBERS, ["y_0", "y_1"], [[1, 2], [3, 5]]),
    "lists of text": ([["b"], ["a", "b"], []], {}, LABELS, ["a", "b"], [[0, 1], [1, 1], [0, 0]]),
    "text with a separator": (["a; b", "b", ""], {"separator": ";"}, LABELS, ["a", "b"], [[1, 1], [0, 1], [0, 0]]),
    "text of a csv file, with an empty cell": (
        pa.array(["a;b", None], pa.large_string()),
        {"separator": ";"},
        LABELS,
        ["a", "b"],
        [[1, 1], [0, 0]],
    ),
}


@pytest.mark.parametrize(("values", "said", "kind", "names", "labels"), KINDS.values(), ids=KINDS)
def test_the_kind_is_found_or_said(values, said, kind, names, labels):
    target = choose_target(source(y=values), ["y"], **said)
    read = target.read(source(y=values))
    fields = target.fitted(read).config
    assert (target.problem_type, fields["problem_type"]) == (kind, kind)
    assert list(fields["id2label"].values()) == names and read.tolist() == labels


def test_columns_are_a_number_each_and_standardised_by_the_training_rows():
    target = choose_target(source(a=[1, 3], b=[10.0, 30.0]), ["a", "b"])
    fields = target.fitted(target.read(source(a=[1, 3], b=[10.0, 30.0]))).config
    assert (fields["label_mean"], fields["label_scale"]) == ([2, 20], [1, 10])


def test_a_number_that_means_no_label_to_transformers_is_kept():
    target = choose_target(source(y=[-100.0, 1.0]), ["y"])
    read = target.read(source(y=[-100.0, 1.0]))
    assert read[0, 0] != -100 and read[0, 0] == pytest.approx(-100)


WRONG = {
    "missing class": ({"y": ["a", None]}, {}, "row 1 of the train split .* has none in column 'y'"),
    "missing number": ({"y": [1.0, None]}, {}, "row 1 of the train split .* has none in column 'y'"),
    "infinite number": ({"y": [1.0, float("inf")]}, {}, "row 1 .* has inf in column 'y'"),
    "text as numbers": ({"y": ["a", "b"]}, {"problem_type": NUMBERS}, "row 0 .* has 'a' .* in column 'y'"),
    "text among numbers": ({"y": ["1.5", "much"]}, {"problem_type": NUMBERS}, "row 1 .* has 'much' .* in column 'y'"),
    "the same labels": ({"y": [["a", "b"]] * 3}, {}, "all 3 training rows have a, b in column 'y': name another"),
    "lists of several lengths": ({"y": [[1.0], [1.0, 2.0]]}, {}, r"have lengths \[1, 2\]"),
    "text without a separator": ({"y": ["a", "b"]}, {"problem_type": LABELS}, "--label_separator"),
    "one class only": ({"y": ["a", "a"]}, {}, "two classes, but all 2 training rows have 'a'"),
    "one number only": ({"y": [2.5, 2.5]}, {}, "numbers that differ, but all 2 training rows have 2.5"),
    "no label at all": ({"y": [[], []]}, {"problem_type": LABELS}, "no row of .* has a label"),
}


@pytest.mark.parametrize(("columns", "said", "message"), WRONG.values(), ids=WRONG)
def test_wrong_labels_are_named(columns, said, message):
    with pytest.raises(ValueError, match=message):
        target = choose_target(source(**columns), ["y"], **said)
        target.fitted(target.read(source(**columns)))


WITHOUT_ROWS = {  # labels of the file, and of the rows that are left to train on
    "class": (["a", "b", "c"], [0, 1], r"no row to train on has 1 of them \(c\): give more rows"),
    "label": ([["a"], ["b"], ["c"]], [0, 2], r"no row to train on has 1 of them \(b\): give more rows"),
    "amounts": ([1990, 2024], [0, 1], r"no row to train on has 2023 of them .*choose a regression"),
}


@pytest.mark.parametrize(("values", "rows", "message"), WITHOUT_ROWS.values(), ids=WITHOUT_ROWS)
def test_a_class_without_rows_to_train_on_is_said(values, rows, message):
    target = choose_target(source(y=values), ["y"])
    labels = target.read(source(y=values))
    assert re.search(message, target.fitted(labels[rows]).describe())
    if len(values) == 3:
        assert "train on" not in target.fitted(labels).describe()
        with pytest.raises(
            ValueError, match=r"those of others are held out or not there: give more rows|or give rows with others"
        ):
            target.fitted(labels[:1])


@pytest.mark.parametrize(
    ("trained", "tested"), [(["a", "b"], ["c"]), ([["a"], ["b"]], [["c"]])], ids=["class", "label"]
)
def test_a_label_that_training_never_saw_is_named(trained, tested):
    target = choose_target(source(y=trained), ["y"])
    with pytest.raises(ValueError, match=r"label 'c' in row 0 of the test split .* is not among the 2"):
        target.read(Source(datasets.Dataset.from_dict({"y": tested}), "the test split (rows.csv)"))


def test_scores_stand_beside_those_of_the_constant_answer():
    two = choose_target(source(y=["a", "b"]), ["y"])
    logits, labels = np.array([[2.0, 0], [0, 1], [1, 0], [3, 0]]), np.array([0, 1, 1, 0])
    assert two.scores(logits, labels) == pytest.approx({"accuracy": 0.75, "macro_f1": 11 / 15, "roc_auc": 1})
    assert two.floors(np.array([0, 0, 0, 1])) == pytest.approx({"accuracy": 0.75, "macro_f1": 3 / 7, "roc_auc": 0.5})
    sets = choose_target(source(y=[["a"], ["b"]]), ["y"])
    scores = sets.scores(np.array([[1.0, -1], [1, 1]]), np.array([[1.0, 0], [0, 1]]))
    assert scores == pytest.approx({"exact_match": 0.5, "micro_f1": 0.8, "macro_f1": 5 / 6})
    numbers = choose_target(source(y=[1.0, 3.0]), ["y"])
    assert numbers.scores(np.array([[1.0], [2]]), np.array([[1.0], [3]])) == {"mse": 0.5, "mae": 0.5, "r2": 0.5}
    assert numbers.floors(np.array([[1.0], [3]])) == {"mse": 1, "mae": 1, "r2": 0}


SPANS = {  # tags of a row -> its entities
    "O O": [],
    "B-PER I-PER O": [(0, 2, "PER")],
    "B-PER B-PER": [(0, 1, "PER"), (1, 2, "PER")],
    "B-PER I-LOC": [(0, 1, "PER"), (1, 2, "LOC")],
    "O I-PER I-PER": [(1, 3, "PER")],
    "S-PER B-LOC I-LOC E-LOC": [(0, 1, "PER"), (1, 4, "LOC")],
    "B-LOC E-LOC E-LOC I-LOC": [(0, 2, "LOC"), (2, 3, "LOC"), (3, 4, "LOC")],
    "B-first-name I-first-name": [(0, 2, "first-name")],
}


@pytest.mark.parametrize(("tags", "spans"), SPANS.items())
def test_entities_are_spans_of_tags(tags, spans):
    assert sorted(spans_of(tags.split())) == spans


def test_tags_are_scored_as_entities_beside_their_words():
    rows = [["B-PER", "I-PER", "O"], ["O", "B-LOC"]]
    target = TokenTarget.of_column(source(tags=rows), "tags")
    assert target.names.names == ("B-LOC", "B-PER", "I-PER", "O")
    labels = np.array([[1, -100, 2, 3], [3, 0, -100, -100]])  # as they stand on the pieces of words
    answers = np.array([[1, 0, 3, 3], [3, 0, 1, 1]])  # the person is cut short
    scores = target.scores(np.eye(4)[answers], labels)
    assert scores["accuracy"] == pytest.approx(0.8)
    assert {name: scores[f"entity_{name}"] for name in ("precision", "recall", "f1")} == pytest.approx(
        {"precision": 0.5, "recall": 0.5, "f1": 0.5}
    )
    floors = target.floors(target.read(source(tags=rows)))
    assert floors["accuracy"] == pytest.approx(0.4) and floors["entity_f1"] == 0
    plain = TokenTarget.of_column(source(tags=[["NOUN", "O"]]), "tags")
    assert "entity_f1" not in plain.scores(np.eye(2)[[[0, 1]]], np.array([[0, 1]]))


def test_blocks_stay_together():
    rows, speakers = np.arange(12), np.repeat(["a", "b", "c", "d"], 3)
    for seed in range(5):
        left, held = held_out(rows, 4, seed, 0, speakers)
        assert not {*speakers[left]} & {*speakers[held]} and len(held) == 6  # two whole blocks
        assert sorted([*left, *held]) == rows.tolist()


def test_the_latest_rows_are_held():
    times = np.array([3, 1, 2, 5, 5, 4])
    left, held = held_out(np.arange(6), 1, 0, 0, times, latest=True)
    assert times[held].tolist() == [5, 5] and times[left].max() == 4  # rows of one time are not parted
    with pytest.raises(ValueError, match="all rows"):
        held_out(np.arange(2), 1, 0, 0, np.array([1, 1]), latest=True)
