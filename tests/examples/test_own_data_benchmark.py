"""benchmarks/own_data.py chooses by validation rows alone, goes on where it stopped, and says first who wins."""

import json

import numpy as np
import pytest
from conftest import BENCHMARKS, load_script


@pytest.fixture(scope="module")
def script():
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(BENCHMARKS)  # as for a script that is run
        yield load_script(BENCHMARKS / "own_data.py")


class Constant:
    """Answers one class, whatever it is fitted on; it remembers the rows."""

    fitted = []

    def __init__(self, answer, seed):
        self.answer, self.seed = answer, seed

    def fit(self, X, y):
        self.fitted.append((self.seed, [row for (row,) in X]))
        return self

    def predict(self, X):
        return np.full(len(X), self.answer)


def data(script, refit=False, shots=None):
    """40 rows, of which the last 10, all of class 1, validate; of the test rows most are of class 0."""
    y = np.array([0, 1] * 15 + [1] * 10)
    X = [[number] for number in range(40)]
    fold = (np.arange(30), np.arange(30, 40))
    return script.Data("toy", X, y, [[0]] * 4, np.array([0, 0, 0, 1]), fold, refit=refit, shots=shots)


def contest(script, folder, contestant, seeds=3, **settings):
    ledger = script.Ledger(folder / "toy.jsonl")
    Constant.fitted = []
    script.Runs(data(script, **settings), "base", ledger, seeds).contest("constant", contestant)
    return [record for record in ledger.records if record["stage"] == "test"]


@pytest.fixture
def constant(script):
    settings = ({"answer": 0}, {"answer": 1})
    return script.Contestant(lambda base, numbers, seed, answer: Constant(answer, seed), settings, plain=True)


@pytest.mark.parametrize("refit", [False, True])
def test_validation_rows_choose_even_where_the_test_rows_would_choose_otherwise(script, constant, tmp_path, refit):
    tested = contest(script, tmp_path, constant, refit=refit)
    assert [record["settings"] for record in tested] == [{"answer": 1}] * 3
    assert [record["seed"] for record in tested] == [0, 1, 2]
    assert {record["test"] for record in tested} == {0.25} and {record["validation"] for record in tested} == {1.0}
    last_seed, rows = Constant.fitted[-1]
    assert last_seed == 2 and rows == list(range(40 if refit else 30))


def test_a_second_call_goes_on_and_does_nothing_twice(script, constant, tmp_path):
    contest(script, tmp_path, constant, seeds=2)
    assert len(Constant.fitted) == 3  # two settings, of which the better is a tested run too, and one more seed
    assert len(contest(script, tmp_path, constant, seeds=3)) == 3
    assert [seed for seed, _ in Constant.fitted] == [2]


def test_few_shots_are_drawn_anew_with_each_seed(script, constant, tmp_path):
    contest(script, tmp_path, constant, shots=4)
    drawn = {seed: rows for seed, rows in Constant.fitted}
    labels = data(script).y
    assert all(np.bincount(labels[rows]).tolist() == [4, 4] for rows in drawn.values())
    assert len({tuple(rows) for rows in drawn.values()}) == 3


SCORES = {  # the frozen model's, the plain model's, and what is said
    "the plain one is better": ([0.8, 0.81, 0.82], [0.9], "Not the frozen model: plain 90.0, frozen 81.0 ± 1.0."),
    "ours is better": ([0.9, 0.9, 0.9], [0.8], "The frozen model: frozen 90.0 ± 0.0, plain 80.0."),
    "within the spread": ([0.88, 0.9, 0.92], [0.91], "Not told apart: plain 91.0, frozen 90.0 ± 2.0."),
}


@pytest.mark.parametrize(("ours", "plain", "said"), SCORES.values(), ids=SCORES)
def test_the_page_says_first_who_wins(script, tmp_path, ours, plain, said):
    facts = {"stage": "data", "title": "Toy", "metric": "accuracy", "floor": 0.5, "train": 30, "validation": 10}
    lines = [facts | {"refit": False, "test": 4}]
    for name, scores, extra in (("frozen", ours, {"trained": 10, "parameters": 1000}), ("plain", plain, {})):
        for seed, score in enumerate(scores):
            run = {"stage": "test", "contestant": name, "seed": seed, "settings": {"C": 1}, "validation": 0.7}
            lines.append(run | {"test": score, "seconds": 3.0} | extra)
    (tmp_path / "toy.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    script.write_report(tmp_path, ["toy", "not run yet"])
    page = (tmp_path / "README.md").read_text()
    section = page[page.index("## Toy") :].splitlines()
    assert section[2].startswith(said) and (tmp_path / "scores.png").stat().st_size > 0
    names = [line.split("|")[1].strip() for line in section if line.startswith("| ") and "|" in line][1:]
    assert names == sorted(names, key=lambda name: -np.mean(ours if name == "frozen" else plain))
    assert "| 1.00% |" in page
