"""ListOps: the drawn expressions against a slow reading of their tokens, their law, and what a model is given."""

import random
import statistics

import numpy as np
import pytest
import torch
from transformers import HfArgumentParser

from fpt_adapters.tasks.listops import CLOSE, PAD, TOKENS, ListOps

SHORT = {
    "min_length": 8,
    "max_length": 60,
    "max_depth": 5,
    "max_args": 6,
    "train_examples": 1500,
    "eval_examples": 300,
}


def expressions(split):
    return [split.tokens[start:end].tolist() for start, end in zip(split.offsets[:-1], split.offsets[1:], strict=True)]


def read(tokens, depth=1):
    """Read one expression off the front of a list of tokens: its value, its depth, its operators' arities."""
    token = tokens.pop(0)
    if token.isdigit():
        return int(token), depth, []
    values, depths, arities = [], [], []
    while tokens[0] != "]":
        value, below, inner = read(tokens, depth + 1)
        values.append(value)
        depths.append(below)
        arities += inner
    tokens.pop(0)
    operation = {"[MIN": min, "[MAX": max, "[MED": lambda v: int(statistics.median(v)), "[SM": lambda v: sum(v) % 10}
    return operation[token](values), max(depths), [len(values), *arities]


@pytest.fixture(scope="module")
def short():
    return ListOps(variant="full", **SHORT).load(seed=3)


@pytest.fixture(scope="module")
def long():
    return ListOps(variant="full", train_examples=1500, eval_examples=50).load(seed=0)


def test_labels_are_the_values_of_well_formed_expressions(short, long):
    arities, depths = [], []
    for split, low, high in ((short.train, 8, 60), (short.test, 8, 60), (long.test, 500, 2000)):
        for ids, label in zip(expressions(split), split.labels, strict=True):
            tokens = [TOKENS[i] for i in ids]
            assert low < len(tokens) < high
            value, depth, inner = read(tokens)
            assert tokens == [], "tokens are left after the root's closing bracket"
            assert value == label
            if split is short.train:
                arities += inner
                depths.append(depth)
    assert set(arities) == {2, 3, 4, 5, 6}
    assert max(depths) == 5


def test_the_law_is_the_long_range_arenas():
    """Lengths, roots and depths against trees that are drawn one node at a time."""
    rng = random.Random(0)

    def draw(depth):
        if depth == 4 or rng.random() > 0.25:
            return 1
        return 2 + sum(draw(depth + 1) for _ in range(rng.randint(2, 5)))

    slow = np.array([length for length in (draw(1) for _ in range(100_000)) if 20 < length < 60][:3000])
    task = ListOps(
        "full", min_length=20, max_length=60, max_depth=4, max_args=5, train_examples=3000, eval_examples=10
    )
    split = task.load().train
    grid = np.arange(20, 60)
    gap = np.abs((slow[:, None] <= grid).mean(axis=0) - (split.lengths[:, None] <= grid).mean(axis=0)).max()
    assert gap < 1.95 * np.sqrt(1 / len(slow) + 1 / len(split)), "Kolmogorov-Smirnov, p = 0.001"
    roots = np.unique(split.root_operators, return_counts=True)[1] / len(split)
    assert len(roots) == 4 and np.abs(roots - 0.25).max() < 5 * np.sqrt(0.25 * 0.75 / 3000)


def test_default_lengths_and_labels(long):
    assert 900 < np.median(long.train.lengths) < 1010
    share = np.bincount(long.train.labels, minlength=10) / len(long.train)
    assert share[0] == pytest.approx(0.17, abs=0.04) and share[9] == pytest.approx(0.17, abs=0.04)
    assert ListOps().floor(long.train) == pytest.approx(0.363, abs=0.05)


def test_paper_variant_drops_the_brackets_and_cuts(long):
    whole = long.train
    paper = ListOps(variant="paper", train_examples=1500, eval_examples=50).load(seed=0).train
    np.testing.assert_array_equal(paper.labels, whole.labels)
    for cut, full in zip(expressions(paper), expressions(whole), strict=True):
        assert cut == [i for i in full if i != CLOSE][:512]
    assert paper.lengths.max() == 512 and paper.lengths.min() < 512


@pytest.mark.parametrize(
    "task, sequence_length", [(ListOps(**SHORT), 60), (ListOps(**{**SHORT, "variant": "full"}), 60)]
)
def test_config_fields(task, sequence_length):
    digits = [str(digit) for digit in range(10)]
    assert task.load(max_samples={"train": 5}).config == {
        "input_type": "tokens",
        "vocab_size": 16,
        "pad_token_id": 0,
        "sequence_length": sequence_length,
        "id2label": dict(enumerate(digits)),
        "label2id": {digit: index for index, digit in enumerate(digits)},
    }


def test_sequence_length_of_the_variants():
    assert ListOps().sequence_length == 512
    assert ListOps(variant="full").sequence_length == 2000


def test_the_vocabulary_is_fixed():
    names = ("<pad>", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "[MIN", "[MAX", "[MED", "[SM", "]")
    assert names == TOKENS
    assert (PAD, CLOSE) == (0, 15)


def test_the_seed_changes_training_alone(short):
    task = ListOps(variant="full", **SHORT)
    again, other = task.load(seed=3), task.load(seed=4)
    for split in ("train", "validation", "test"):
        assert expressions(getattr(again, split)) == expressions(getattr(short, split))
        same = expressions(getattr(other, split)) == expressions(getattr(short, split))
        assert same == (split != "train")


@pytest.mark.parametrize("variant", ["paper", "full"])
def test_no_expression_is_shown_twice(variant):
    data = ListOps(variant=variant, min_length=5, max_length=12, train_examples=800, eval_examples=400).load()
    shown = [tuple(ids) for split in (data.train, data.validation, data.test) for ids in expressions(split)]
    assert len(set(shown)) == len(shown) == 1600


def test_max_samples_keeps_the_first_examples(short):
    cut = ListOps(variant="full", **SHORT).load(seed=3, max_samples={"train": 20, "test": 7, "validation": 10**6})
    assert (len(cut.train), len(cut.validation), len(cut.test)) == (20, 300, 7)
    assert expressions(cut.train) == expressions(short.train)[:20]
    assert expressions(cut.test) == expressions(short.test)[:7]


def test_collate_pads_to_the_longest_and_masks_the_padding(short):
    examples = [short.test[index] for index in range(12)]
    batch = ListOps().collate(examples)
    lengths = [len(example["input_ids"]) for example in examples]
    assert len(set(lengths)) > 1
    assert batch["input_ids"].shape == batch["attention_mask"].shape == (12, max(lengths))
    assert {tensor.dtype for tensor in batch.values()} == {torch.int64}
    for row, (example, length) in enumerate(zip(examples, lengths, strict=True)):
        assert torch.equal(batch["input_ids"][row, :length], example["input_ids"])
        assert (batch["input_ids"][row, length:] == PAD).all()
        assert batch["attention_mask"][row].tolist() == [1] * length + [0] * (max(lengths) - length)
        assert batch["labels"][row] == example["labels"] == short.test.labels[row]


def test_floor_is_the_best_answer_for_each_root_operator(short):
    split = short.validation
    hits = 0
    for operator in set(split.root_operators.tolist()):
        labels = split.labels[split.root_operators == operator].tolist()
        hits += max(labels.count(label) for label in labels)
    floor = ListOps().floor(split)
    assert floor == pytest.approx(hits / 300)
    assert floor > np.bincount(split.labels).max() / 300
    assert ListOps().floor(split.first(1)) == 1.0


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"variant": "short"}, "variant is 'paper' or 'full', got 'short'"),
        ({"min_length": 0}, "min_length is a whole number of at least 1, got 0"),
        ({"max_depth": 1}, "max_depth is a whole number of at least 2, got 1"),
        ({"max_args": 1}, "max_args is a whole number of at least 2, got 1"),
        ({"train_examples": 0}, "train_examples is a whole number of at least 1, got 0"),
        ({"eval_examples": 1.5}, "eval_examples is a whole number of at least 1, got 1.5"),
        ({"max_length": 501}, "got 500 and 501, write max_length=502 or more"),
        ({"min_length": 1, "max_length": 4}, "got 1 and 4, write max_length=5 or more"),
    ],
)
def test_wrong_arguments_are_refused_by_name(arguments, message):
    with pytest.raises(ValueError, match=message):
        ListOps(**arguments)


def test_too_few_expressions_are_refused():
    with pytest.raises(ValueError, match=r"found 400 of the 500 new examples for validation .* fewer than 5 tokens"):
        ListOps(variant="full", min_length=3, max_length=5, max_args=2, max_depth=2, eval_examples=500).load()
    with pytest.raises(ValueError, match="found 0 of the 2000 new examples for validation"):
        ListOps(min_length=500, max_length=600, max_args=2, max_depth=2).load()


def test_wrong_loads_are_refused():
    with pytest.raises(ValueError, match=r"seed is a whole number in 0..2\*\*64-1, got -1"):
        ListOps(**SHORT).load(seed=-1)
    with pytest.raises(ValueError, match="max_samples takes the splits train, validation, test; got 'dev'"):
        ListOps(**SHORT).load(max_samples={"dev": 1})


def test_an_index_outside_the_split_is_refused(short):
    with pytest.raises(IndexError, match=r"examples 0..299, got 300"):
        short.test[300]


def test_fields_are_flags_with_help():
    parser = HfArgumentParser(ListOps)
    (task,) = parser.parse_args_into_dataclasses(["--variant", "full", "--max_length", "900"])
    assert (task.variant, task.max_length) == ("full", 900)
    assert all(action.help for action in parser._actions)
