"""Labels of data sets: what is wrong, in which row, without making an example."""

import math

import datasets
import numpy as np
import pytest
import torch
from torch.utils.data import Dataset, Subset
from transformers import DataCollatorWithPadding, default_data_collator

from fpt_adapters import FPTFeatureExtractor, FPTForSequenceClassification, FPTForTokenClassification
from fpt_adapters.training.label_checks import LabelRule, check_labels_at_hand

NAN = math.nan


class OwnDataset(Dataset):
    """Examples that are made when they are asked for, beside labels that can be looked at without."""

    def __init__(self, examples):
        self.examples = examples
        self.labels = [example["labels"] for example in examples]
        self.made = []

    def __len__(self):
        return len(self.examples)

    def __getitem__(self, index):
        self.made.append(index)
        return self.examples[index]


def as_table(examples):
    return datasets.Dataset.from_dict({name: [e[name] for e in examples] for name in examples[0]})


def shuffled(examples):
    """A table whose rows lie elsewhere in its file."""
    return as_table(examples[::-1]).select(range(len(examples) - 1, -1, -1))


def large(examples):
    """A table whose lists are of another type than those that Python's become."""
    data = as_table(examples)
    feature = data.features["labels"]
    if isinstance(feature, datasets.List) and isinstance(feature.feature, datasets.Value):
        lengths = {len(example["labels"]) for example in examples}
        fixed = len(lengths) == 1 and data.with_format("arrow")[:]["labels"].null_count == 0
        feature = (
            datasets.List(feature.feature, length=lengths.pop()) if fixed else datasets.LargeList(feature.feature)
        )
        data = data.cast_column("labels", feature)
    return data


def part(examples):
    """A part of a data set that has another row first."""
    return Subset([{"labels": "left out"}, *examples], range(1, len(examples) + 1))


def labelled(labels):
    """Examples with these labels, and without any input."""
    return [{"labels": one} for one in labels]


def as_they_are(examples):
    return {"labels": [example["labels"] for example in examples]}


def check(data, rule, collator=default_data_collator):
    check_labels_at_hand("the training set", data, rule, collator, own_loss=False)


FORMS = {"list": list, "part": part, "table": as_table, "large": large, "shuffled": shuffled, "own": OwnDataset}
ONE = FPTForSequenceClassification, {"num_labels": 4}
NUMBER = FPTForSequenceClassification, {"num_labels": 1}
SEVERAL = FPTForSequenceClassification, {"num_labels": 3, "problem_type": "multi_label_classification"}
EITHER = FPTForSequenceClassification, {"num_labels": 3}
TOKENS = FPTForTokenClassification, {"num_labels": 4}
BITS = FPTForTokenClassification, {"num_labels": 2, "labels_per_token": 2}
TOKEN_NUMBERS = FPTForTokenClassification, {"num_labels": 1}
WRONG = [  # a model, its labels, the row that is wrong, and what is said of it
    (ONE, [0, 3, -100, 4], 3, r"0\.\.3 \(num_labels=4\), got 4"),
    (ONE, [0, -1, 7], 1, "got -1"),
    (ONE, [1.0, 2.0], 0, "whole numbers, got 1.0, a float: write astype"),
    (ONE, [1.5, 1.0], 0, "got 1.5, a float: for a regression write problem_type='regression'"),
    (ONE, [1.0, NAN], 1, r"a label is missing \(nan\): fill it in, .*, and write the others as whole numbers, astype"),
    (ONE, [0, 1, None], 2, r"a label is missing \(None\): fill it in, drop the row, or write -100"),
    (ONE, ["cat", "dog"], 0, r"got 'cat': number the classes 0\.\.3 \(num_labels=4\), as config.label2id"),
    (ONE, [False, True], 0, "got False, one of two: write num_labels=2"),
    (ONE, [[0, 1], [1, 0]], 0, r"shape \(\) in each row, got \(2,\) .*: .* problem_type='multi_label_class"),
    (NUMBER, [0.5, NAN], 1, "targets of a regression are finite numbers, got nan: fill it in or drop the row"),
    (NUMBER, [2, None], 1, "a label is missing"),
    (NUMBER, ["0.5"], 0, "targets are numbers, got '0.5'"),
    (NUMBER, [True, False], 0, "got True: classes need num_labels=2"),
    (NUMBER, [[0.5, 1]], 0, r"shape \(1\) in each row, got \(2,\)"),
    (SEVERAL, [[0, 1, 1], [2, 1, 0]], 1, r"lie in 0\.\.1, one number for each of 3, got 2"),
    (SEVERAL, [[0.0, 0.5, 1.0], [0.0, NAN, 1.0]], 1, "one number for each of 3, got nan"),
    (SEVERAL, [[0, 1, 1], [0, 1]], 1, r"shape \(3\) in each row, got \(2,\)"),
    (SEVERAL, [1, 0], 0, r"shape \(3\) in each row, got \(\)"),
    (EITHER, [[0.0, 0.5, 1.0], [0.0, 2.0, 1.0]], 1, "multi_label_classification lie in .* got 2.0"),
    (EITHER, [[0, 1, 1]], 0, "for several labels at once write problem_type='multi_label_classification'"),
    (TOKENS, [[0, 1], [2, 3, -100], [4]], 2, r"0\.\.3 \(num_labels=4\), got 4"),
    (TOKENS, [0, 1], 0, r"shape \(tokens\) in each row, got \(\)"),
    (TOKENS, [[0, 1], [0, None]], 1, r"arrays of numbers of one length, got \[0, None\]"),
    (BITS, [[[0, 1]], [[1, 1], [0, 2]]], 1, r"num_labels=2\), got 2"),
    (BITS, [[0, 1]], 0, r"shape \(tokens, 2\) in each row, got \(2,\)"),
    (BITS, [[[0, 1], [1]]], 0, r"of one length, got \[\[0, 1\], \[1\]\]"),
    (TOKEN_NUMBERS, [[0.5, -100], [NAN]], 1, "finite numbers, got nan"),
]
RIGHT = [
    (ONE, [0, 3, -100]),
    (ONE, np.array([0, 3], np.uint8)),
    (ONE, torch.tensor([0, 3])),
    (ONE, [[0], [3]]),
    ((ONE[0], {"num_labels": 2}), [False, True]),
    (NUMBER, [-100, 7, 0.5]),
    (NUMBER, [[-7.0], [3.0]]),
    (SEVERAL, [[0, 1, -100], [0, 0, 0]]),
    (SEVERAL, [[False, True, True]]),
    ((ONE[0], {"num_labels": 1, "problem_type": "multi_label_classification"}), [1, 0]),
    (EITHER, [[0.0, 0.5, -100.0]]),
    (EITHER, [2, 1]),
    (TOKENS, [[0, 1], [2, 3, -100], []]),
    (TOKENS, [torch.tensor([0, 1]), torch.tensor([3])]),
    (BITS, [[[0, 1]], [[1, 1], [0, -100]]]),
    (TOKEN_NUMBERS, [[0.5, -100.0], [1.0]]),
]


def rule_of(make_model, model):
    return LabelRule.of(make_model("gpt2", model[0], **model[1]))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("model", "labels", "row", "message"), WRONG)
def test_a_wrong_label_is_named_with_its_row(form, model, labels, row, message, make_model):
    collator = as_they_are if form == "own" else default_data_collator
    with pytest.raises(ValueError, match=rf"{message}.*\. This is row {row} of the training set, "):
        check(FORMS[form](labelled(labels)), rule_of(make_model, model), collator)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(("model", "labels"), RIGHT)
def test_right_labels_are_let_through(form, model, labels, make_model):
    data = FORMS[form](labelled(labels))
    check(data, rule_of(make_model, model))
    assert form != "own" or data.made == []


@pytest.mark.parametrize("name", ["label", "label_ids"])
def test_labels_are_found_by_every_name_that_collators_read(name, make_model):
    rule = rule_of(make_model, ONE)
    for data, place in (
        ([{name: 0}, {name: 9}], repr(name)),
        (datasets.Dataset.from_dict({name: [0, 9]}), f"column {name!r}"),
    ):
        for collator in (default_data_collator, DataCollatorWithPadding(FPTFeatureExtractor(3, 10))):
            with pytest.raises(ValueError, match=rf"got 9\. This is row 1 of the training set, {place}\."):
                check(data, rule, collator)


NAMES = ["cat", "dog", "bee", "ant"]


def numbered(examples):
    return {"labels": torch.tensor([NAMES.index(example["labels"]) for example in examples])}


class Numbered(OwnDataset):
    def __getitem__(self, index):
        return {"labels": NAMES.index(self.labels[index])}


def transformed(examples):
    data = as_table(examples)
    data.set_transform(lambda rows: {"labels": [NAMES.index(name) for name in rows["labels"]]})
    return data


@pytest.mark.parametrize(
    ("form", "collator"),
    [(transformed, default_data_collator), (Numbered, default_data_collator), (list, numbered), (as_table, numbered)],
)
def test_labels_that_become_right_on_their_way_are_let_through(form, collator, make_model):
    check(form(labelled(NAMES)), rule_of(make_model, ONE), collator)
    with pytest.raises(ValueError, match=r"got 3\. This is row 0 of the training set"):
        check(form(labelled(NAMES)[3:] + labelled(NAMES)), LabelRule(None, 3, ()), collator)


@pytest.mark.parametrize("data", [[], [(1, 2)], [{"input_values": 1}], datasets.Dataset.from_dict({"a": [1]})])
def test_a_data_set_without_labels_at_hand_is_left_alone(data, make_model):
    check(data, rule_of(make_model, ONE))
