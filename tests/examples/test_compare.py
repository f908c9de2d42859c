"""benchmarks/compare.py scores what it trains: a model that is always right reaches each goal."""

import pytest
import torch
from conftest import BENCHMARKS, load_script
from torch import nn


@pytest.fixture(scope="module")
def worker():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)  # as for a script that is run
        yield load_script(BENCHMARKS / "compare_worker.py")


class Knowing(nn.Module):
    """Answers labels that it was told, a given share of them wrongly."""

    def __init__(self, labels, classes, wrong=0):
        super().__init__()
        self.place = nn.Parameter(torch.zeros(()))
        answers = labels.clamp(min=0)
        answers[:wrong] = (answers[:wrong] + 1) % classes
        self.logits = nn.functional.one_hot(answers, classes).float()

    def forward(self, input_values):
        return {"logits": self.logits}


@pytest.mark.parametrize("goal", ["bit-xor", "digits"])
def test_an_accuracy_is_of_the_labels_that_count(worker, goal):
    _, held_out = worker.examples_of(goal)
    labels, classes = held_out.tensors["labels"], worker.GOALS[goal][0].classes
    assert worker.score(Knowing(labels, classes), held_out) == 1
    wrong = len(labels) // 2
    assert worker.score(Knowing(labels, classes, wrong), held_out) == pytest.approx(1 - wrong / len(labels))
