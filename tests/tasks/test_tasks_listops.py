"""ListOps: the drawn expressions against a slow reading of their tokens, their law, and what a model is given."""

import random
import statistics

import numpy as np
import pytest

from fpt_adapters.tasks.listops import CLOSE, PAD, TOKENS, ListOps

SHORT = {"min_length": 8, "max_length": 60, "max_depth": 5, "max_args": 6, "train_examples": 1500}


def expressions(split):
    return [example["input_ids"].tolist() for example in split]


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
    return ListOps(variant="full", **SHORT, eval_examples=300).load(seed=3)


@pytest.fixture(scope="module")
def long():
    return ListOps(variant="full", train_examples=1500, eval_examples=50).load(seed=0)


def test_labels_are_the_values_of_well_formed_expressions(short, long):
    arities, depths = [], []
    for split, low, high in ((short.train, 8, 60), (short.test, 8, 60), (long.test, 500, 2000)):
        for ids, example in zip(expressions(split), split, strict=True):
            tokens = [TOKENS[i] for i in ids]
            assert low < len(tokens) < high
            value, depth, inner = read(tokens)
            assert tokens == [], "tokens are left after the root's closing bracket"
            assert value == example["labels"]
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


@pytest.mark.parametrize("variant", ["paper", "full"])
def test_config_fields(variant):
    digits = [str(digit) for digit in range(10)]
    assert ListOps(variant=variant, **SHORT).load(max_samples={"train": 5}).config == {
        "input_type": "tokens",
        "vocab_size": 16,
        "pad_token_id": 0,
        "sequence_length": 60,
        "id2label": dict(enumerate(digits)),
        "label2id": {digit: index for index, digit in enumerate(digits)},
    }
    assert ListOps(variant=variant).sequence_length == {"paper": 512, "full": 2000}[variant]


def test_the_vocabulary_is_fixed():
    names = ("<pad>", "0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "[MIN", "[MAX", "[MED", "[SM", "]")
    assert names == TOKENS
    assert (PAD, CLOSE) == (0, 15)


@pytest.mark.parametrize("variant", ["paper", "full"])
def test_no_expression_is_shown_twice(variant):
    data = ListOps(variant=variant, min_length=5, max_length=12, train_examples=800, eval_examples=400).load()
    shown = [tuple(ids) for split in (data.train, data.validation, data.test) for ids in expressions(split)]
    assert len(set(shown)) == len(shown) == 1600


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
    ("lengths", "message"),
    [
        ((3, 5), r"found 400 of the 500 new examples for validation .* fewer than 5 tokens"),
        ((500, 600), "found 0 of the 500 new examples for validation"),
    ],
)
def test_too_few_expressions_are_refused(lengths, message):
    task = ListOps("full", min_length=lengths[0], max_length=lengths[1], max_depth=2, max_args=2, eval_examples=500)
    with pytest.raises(ValueError, match=message):
        task.load()
