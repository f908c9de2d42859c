"""The numbers of a study: the learning rate chosen on validation, means and spreads over seeds, steps to converge."""

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from .plan import Model, Study, Task

WITHIN = 0.01  # without a target, a run has converged when it is this close to its best validation score


@dataclass(frozen=True)
class Spread:
    """Mean, sample standard deviation (0 for one value), least and greatest value over `count` seeds."""

    mean: float
    deviation: float
    least: float
    greatest: float
    count: int

    @classmethod
    def of(cls, values: Sequence[float]) -> "Spread":
        """The spread of at least one value."""
        deviation = statistics.stdev(values) if len(values) > 1 else 0.0
        return cls(statistics.fmean(values), deviation, min(values), max(values), len(values))


@dataclass(frozen=True)
class Cell:
    """One model on one task, at the learning rate with the best mean validation score (of equals, the fewest steps).

    Scores lie in 0..1. `by_rate`: the validation score of every learning rate that was tried with all seeds;
    `diverged`: the number of diverged runs at any learning rate; `steps`: of those chosen runs that converged;
    `records`: of the chosen runs.
    """

    learning_rate: float
    test: Spread
    validation: Spread
    by_rate: Mapping[float, Spread]
    steps: Spread | None
    not_converged: int
    budget: int  # the steps that a run may take
    diverged: int
    floors: Mapping[str, float]  # means over the seeds' splits
    records: tuple[Mapping[str, Any], ...]


def summarise(study: Study, records: Mapping[str, Mapping[str, Any]]) -> dict[tuple[str, str], Cell]:
    """A cell for every (model, task) that has finished runs of all seeds for at least one learning rate."""
    cells = {}
    for model in study.models:
        for task in study.tasks:
            runs = [run for run in study.runs if run.model is model and run.task is task and run.id in records]
            cell = _cell(task, [records[run.id] for run in runs], len(study_seeds(study)))
            if cell is not None:
                cells[model.name, task.name] = cell
    return cells


def study_seeds(study: Study) -> list[int]:
    """The seeds of a study, in its order."""
    return list(dict.fromkeys(run.seed for run in study.runs))


def _cell(task: Task, done: list[Mapping[str, Any]], seeds: int) -> Cell | None:
    rates = sorted({record["learning_rate"] for record in done})
    by_rate = {rate: [record for record in done if record["learning_rate"] == rate] for rate in rates}
    complete = {rate: found for rate, found in by_rate.items() if len(found) == seeds}
    whole = {rate: found for rate, found in complete.items() if all(r["status"] == "finished" for r in found)}
    if not whole:
        return None
    validation = {rate: Spread.of([r["validation"] for r in found]) for rate, found in whole.items()}
    most = task.target if task.target is not None else 1.0  # beyond the target scores are chance, and steps decide

    def merit(rate: float) -> tuple[float, float]:
        reached = statistics.fmean(min(record["validation"], most) for record in whole[rate])
        return reached, -statistics.fmean(record["steps"] for record in whole[rate])

    best = max(whole, key=merit)
    chosen = whole[best]
    steps = [step for step in (converged_at(record, task.target) for record in chosen) if step is not None]
    return Cell(
        learning_rate=best,
        test=Spread.of([record["test"] for record in chosen]),
        validation=validation[best],
        by_rate=validation,
        steps=Spread.of(steps) if steps else None,
        not_converged=len(chosen) - len(steps),
        budget=max(record["steps"] for found in whole.values() for record in found),
        diverged=sum(record["status"] == "diverged" for record in done),
        floors={split: statistics.fmean(r["floors"][split] for r in chosen) for split in ("validation", "test")},
        records=tuple(chosen),
    )


def converged_at(record: Mapping[str, Any], target: float | None) -> int | None:
    """The first evaluated step whose score reached `target`, or with None came within 0.01 of the run's best.

    Returns None if the target was not reached.
    """
    goal = target if target is not None else max((score for _, score in record["curve"]), default=math.inf) - WITHIN
    return next((int(step) for step, score in record["curve"] if score >= goal), None)


@dataclass(frozen=True)
class Comparison:
    """Two models on one task, in the paper and here, in percent."""

    task: Task
    better: Model  # in the paper
    worse: Model
    paper: float  # the paper's difference, positive
    here: float
    spread: float  # of `here`: both deviations together

    @property
    def verdict(self) -> str:
        """What this study says of the paper's order."""
        if abs(self.here) <= self.spread:
            return "not told apart"
        if self.here < 0:
            return "the opposite order"
        return "the same order" if self.here >= self.paper / 2 else "the same order, by less than half"


def compare_with_paper(study: Study, cells: Mapping[tuple[str, str], Cell]) -> Iterable[Comparison]:
    """Compare all pairs of models that ran here and whose accuracies in the paper differ by a point or more."""
    for task in study.tasks:
        paper = {model.name: study.paper_figure("accuracy", model, task) for model in study.models}
        known = [m for m in study.models if (m.name, task.name) in cells and paper[m.name] is not None]
        for index, one in enumerate(known):
            for other in known[index + 1 :]:
                difference = paper[one.name] - paper[other.name]
                better, worse = (one, other) if difference > 0 else (other, one)
                if abs(difference) >= 1:
                    first, second = cells[better.name, task.name].test, cells[worse.name, task.name].test
                    spread = math.hypot(first.deviation, second.deviation)
                    yield Comparison(
                        task, better, worse, abs(difference), 100 * (first.mean - second.mean), 100 * spread
                    )


@dataclass(frozen=True)
class Speed:
    """How many times as many steps as `faster` the model `slower` took on one task, in the paper and here."""

    task: Task
    faster: Model  # in the paper
    slower: Model
    paper: float
    here: float | None  # None if one of them did not converge for all seeds
    at_least: float | None  # if only `slower` did not: its budget over the steps of `faster`


def compare_steps(study: Study, cells: Mapping[tuple[str, str], Cell]) -> Iterable[Speed]:
    """Compare all pairs of models that ran here and whose steps to converge are in the paper."""
    for task in study.tasks:
        paper = {model.name: study.paper_figure("steps", model, task) for model in study.models}
        known = [m for m in study.models if (m.name, task.name) in cells and paper[m.name] is not None]
        for faster in known:
            for slower in known:
                if paper[faster.name] < paper[slower.name]:
                    one, other = cells[faster.name, task.name], cells[slower.name, task.name]
                    first = one.steps.mean if one.steps is not None and not one.not_converged else None
                    second = other.steps.mean if other.steps is not None and not other.not_converged else None
                    yield Speed(
                        task,
                        faster,
                        slower,
                        paper[slower.name] / paper[faster.name],
                        here=second / first if first and second else None,
                        at_least=other.budget / first if first and not second else None,
                    )
