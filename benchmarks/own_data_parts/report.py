"""The page of `own_data.py`: a table for each data set, the best first, and a picture of all."""

import json
from dataclasses import dataclass
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt

PICTURE = "scores.png"
COLUMNS = ("", "test", "validation", "chosen", "trained", "share", "s")
FROZEN, OTHERS = "#1f77b4", "#7f7f7f"


@dataclass(frozen=True)
class Row:
    """A contestant's test runs, one a seed."""

    name: str
    runs: list[dict[str, Any]]

    @property
    def tests(self) -> list[float]:
        """The test score of each seed."""
        return [run["test"] for run in self.runs]

    @property
    def mean(self) -> float:
        """The mean test score."""
        return mean(self.tests)

    @property
    def spread(self) -> float:
        """The standard deviation over seeds; 0 for one."""
        return stdev(self.tests) if len(self.tests) > 1 else 0.0

    @property
    def frozen(self) -> bool:
        """Whether it is a frozen model, which the others are compared with."""
        return self.name.startswith("frozen")

    def score(self, metric: str) -> str:
        """The test score in words."""
        scale, digits = (100, 1) if metric == "accuracy" else (1, 3)
        spread = f" ± {scale * self.spread:.{digits}f}" if len(self.tests) > 1 else ""
        return f"{scale * self.mean:.{digits}f}{spread}"

    def cells(self, metric: str) -> tuple[str, ...]:
        """The cells of its line."""
        scale, digits = (100, 1) if metric == "accuracy" else (1, 3)
        run = self.runs[0]
        chosen = ", ".join(f"{name} {value:g}" for name, value in run["settings"].items()) or "-"
        trained = f"{run['trained']:,}" if "trained" in run else "-"
        share = f"{run['trained'] / run['parameters']:.2%}" if "trained" in run else "-"
        seconds = min(one["seconds"] for one in self.runs)
        return (
            *(self.name, self.score(metric), f"{scale * run['validation']:.{digits}f}"),
            *(chosen, trained, share, f"{seconds:.3g}"),
        )


@dataclass(frozen=True)
class Contest:
    """All that was run on a data set."""

    facts: dict[str, Any]
    rows: list[Row]  # the best test score first

    def winner(self) -> str:
        """Who wins, in a sentence, and by how much beside the spread of both."""
        metric = self.facts["metric"]
        frozen = [row for row in self.rows if row.frozen]
        others = [row for row in self.rows if not row.frozen]
        if not frozen or not others:
            return f"The best: {self.rows[0].name}, {self.rows[0].score(metric)}."
        one, other = frozen[0], others[0]
        said = ", ".join(f"{row.name} {row.score(metric)}" for row in self.rows if row in (one, other))
        if abs(one.mean - other.mean) <= one.spread + other.spread:
            return f"Not told apart: {said}."
        return f"Not the frozen model: {said}." if other.mean > one.mean else f"The frozen model: {said}."


def read(file: Path) -> Contest | None:
    """The contest in a file of results; None while nothing of it was tested."""
    records = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    tested: dict[str, list[dict[str, Any]]] = {}
    for record in records:
        if record["stage"] == "test":
            tested.setdefault(record["contestant"], []).append(record)
    if not tested:
        return None
    rows = [Row(name, runs) for name, runs in tested.items()]
    return Contest(records[0], sorted(rows, key=lambda row: -row.mean))


def section(contest: Contest) -> list[str]:
    """The lines of a data set."""
    facts = contest.facts
    scale, digits, unit = (100, 1, " %") if facts["metric"] == "accuracy" else (1, 3, "")
    chosen = f"{facts['validation']:,} {'of them, in choosing settings, ' if facts['refit'] else ''}validate"
    return [
        f"## {facts['title']}",
        "",
        f"{contest.winner()} {facts['train']:,} rows train, {chosen}, {facts['test']:,} test; {facts['metric']}"
        f"{', %' if unit else ''}, floor {scale * facts['floor']:.{digits}f}{unit}.",
        "",
        "| " + " | ".join(COLUMNS) + " |",
        "|" + "---|" * len(COLUMNS),
        *("| " + " | ".join(row.cells(facts["metric"])) + " |" for row in contest.rows),
        "",
    ]


def draw(contests: list[Contest], file: Path) -> None:
    """A panel for each data set: a dot for each seed, frozen models in blue; the floor, if near, is a dotted line."""
    columns = 3
    lines = -(-len(contests) // columns)
    figure, axes = plt.subplots(lines, columns, figsize=(15, 2.1 * lines), squeeze=False, layout="constrained")
    for axis in axes.flat[len(contests) :]:
        axis.set_visible(False)
    for axis, contest in zip(axes.flat, contests, strict=False):
        for place, row in enumerate(reversed(contest.rows)):
            axis.plot(row.tests, [place] * len(row.tests), "o", color=FROZEN if row.frozen else OTHERS, alpha=0.7)
        scores, floor = [score for row in contest.rows for score in row.tests], max(contest.facts["floor"], 0)
        if floor > min(scores) - 3 * (max(scores) - min(scores)):  # else it would squeeze the dots
            axis.axvline(floor, color="black", linestyle=":", linewidth=1)
        axis.set_yticks(range(len(contest.rows)), [row.name for row in reversed(contest.rows)], fontsize=8)
        axis.margins(y=0.25)
        axis.set_title(f"{contest.facts['title']}: {contest.facts['metric']} on test rows", fontsize=9)
        axis.tick_params(axis="x", labelsize=8)
        axis.grid(axis="x", alpha=0.3)
    figure.savefig(file, dpi=110)
    plt.close(figure)


def write_report(folder: Path, names: list[str]) -> None:
    """Write README.md and the picture into `folder`, of all that was tested so far."""
    contests = [contest for name in names if (contest := read(folder / f"{name}.jsonl")) is not None]
    if not contests:
        return
    draw(contests, folder / PICTURE)
    lines = [
        "# Data of one's own",
        "",
        "Written by `python benchmarks/own_data.py`, from the runs in the files beside it. Mean ± standard deviation",
        "over seeds of weights, batches and (few-shot) drawn rows; without ± there is one seed, or none is drawn.",
        'Settings were chosen by the validation score, with the first seed. "share": of all weights. "s": the',
        "quickest training, on one core beside other work. The backbone is all-MiniLM-L6-v2 in bfloat16; what trains",
        "is float32. Frozen features for a regression are computed once, and not in its time.",
        "",
        f"![A dot for each seed; blue: frozen models, grey: others, dotted: the floor]({PICTURE})",
        "",
    ]
    for contest in contests:
        lines += section(contest)
    (folder / "README.md").write_text("\n".join(lines).rstrip() + "\n")
