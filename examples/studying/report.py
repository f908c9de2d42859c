"""A study's tables in Markdown: scores with the paper's and the floor, learning rates, steps, and disagreements."""

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from .drawing import draw
from .ledger import RESULTS
from .plan import Model, Study, Task
from .summary import Cell, Speed, Spread, compare_steps, compare_with_paper, study_seeds, summarise

REPORT = "README.md"


def write_report(study: Study, records: Mapping[str, Mapping[str, Any]], folder: Path, command: str) -> Path:
    """Write tables and pictures of the finished runs into `folder`. Returns the Markdown file."""
    cells = summarise(study, records)
    pictures = draw(study, cells, folder)
    file = folder / REPORT
    partial = file.with_suffix(f".{os.getpid()}.tmp")
    partial.write_text("\n".join(render(study, records, cells, pictures, command)) + "\n", encoding="utf-8")
    os.replace(partial, file)
    return file


def render(
    study: Study,
    records: Mapping[str, Mapping[str, Any]],
    cells: Mapping[tuple[str, str], Cell],
    pictures: list[str],
    command: str,
) -> list[str]:
    """The lines of the report."""
    done = [run for run in study.runs if run.id in records]
    seconds = sum(records[run.id]["seconds"] for run in done)
    seeds = study_seeds(study)
    lines = [f"# {study.title}", "", study.about.strip(), "", "```", command, "```", ""]
    lines += [
        f"{len(done)} of {len(study.runs)} runs, {seconds / 3600:.1f} hours of runs in all; every run is a line of "
        f"[{RESULTS}]({RESULTS}). Seeds: {', '.join(map(str, seeds))}.",
        "",
    ]
    lines += [f"## Test {' and '.join(dict.fromkeys(task.metric for task in study.tasks))} (%)", ""]
    lines += [
        "Mean ± standard deviation over the seeds; in brackets the paper's figure on its own task and backbone.",
        "",
    ]
    lines += table(study, lambda model, task: score_text(study, model, task, cells), floor_row(study, cells))
    lines += ["", "## Learning rate", "", "Chosen by the mean validation score, which is behind it (%).", ""]
    lines += table(study, lambda model, task: rate_text(cells.get((model.name, task.name))))
    lines += ["", "## Steps to converge", "", convergence_rule(study), ""]
    lines += table(study, lambda model, task: steps_text(study, model, task, cells))
    lines += ["", "## Trained parameters", ""]
    lines += table(study, lambda model, task: parameters_text(cells.get((model.name, task.name))))
    lines += notes(study, cells)
    for name in pictures:
        lines += ["", f"![{Path(name).stem.replace('_', ' ')}]({name})"]
    return lines


def table(study: Study, text: Callable[[Model, Task], str], last: list[str] | None = None) -> list[str]:
    """A Markdown table with a row per model and a column per task; models without any text are left out."""
    header = ["model", *(task.label for task in study.tasks)]
    rows = [[model.label, *(text(model, task) for task in study.tasks)] for model in study.models]
    rows = [row for row in rows if any(row[1:])] + ([last] if last else [])
    return ["| " + " | ".join(row) + " |" for row in (header, ["---"] * len(header), *rows)]


def percent(spread: Spread) -> str:
    """Mean and deviation in percent: `97.1 ± 0.3`."""
    return f"{100 * spread.mean:.1f} ± {100 * spread.deviation:.1f}"


def score_text(study: Study, model: Model, task: Task, cells: Mapping[tuple[str, str], Cell]) -> str:
    """The test score of a cell, with the paper's in brackets."""
    cell = cells.get((model.name, task.name))
    paper = study.paper_figure("accuracy", model, task)
    beside = f" [{paper:g}]" if paper is not None else ""
    return percent(cell.test) + beside if cell is not None else beside.strip()


def floor_row(study: Study, cells: Mapping[tuple[str, str], Cell]) -> list[str]:
    """The table row of the scores that need no learning."""
    row = ["*floor*"]
    for task in study.tasks:
        floors = [cells[m.name, task.name].floors["test"] for m in study.models if (m.name, task.name) in cells]
        row.append(f"*{100 * floors[0]:.1f}*" if floors else "")
    return row


def rate_text(cell: Cell | None) -> str:
    """The chosen learning rate, whether it is the lowest or highest of those tried, and the validation score."""
    if cell is None:
        return ""
    edge = len(cell.by_rate) > 1 and cell.learning_rate in (min(cell.by_rate), max(cell.by_rate))
    return f"{cell.learning_rate:g}{' (edge)' if edge else ''}: {percent(cell.validation)}"


def convergence_rule(study: Study) -> str:
    """How the steps to converge are counted, in words."""
    targets = sorted({task.target for task in study.tasks if task.target is not None})
    rule = "The first evaluation within one point of the run's best validation score"
    if targets:
        rule = f"The first evaluation at {', '.join(f'{100 * t:g} %' for t in targets)} on validation, where runs stop"
        if any(task.target is None for task in study.tasks):
            rule += "; for tasks without such a target, the first one within one point of the run's best"
    return rule + ". Mean ± standard deviation over the seeds; in brackets the paper's figure."


def steps_text(study: Study, model: Model, task: Task, cells: Mapping[tuple[str, str], Cell]) -> str:
    """The steps to converge of a cell, with the paper's in brackets."""
    cell = cells.get((model.name, task.name))
    paper = study.paper_figure("steps", model, task)
    beside = f" [{paper:g}]" if paper is not None else ""
    if cell is None:
        return beside.strip()
    if cell.steps is None:
        return f"not in {cell.budget:,}{beside}"
    missing = (
        f" ({cell.not_converged} of {len(cell.records)} seeds not in {cell.budget:,})" if cell.not_converged else ""
    )
    return f"{cell.steps.mean:,.0f} ± {cell.steps.deviation:,.0f}{missing}{beside}"


def speed_text(speed: Speed) -> str:
    """How many times as many steps the slower model took, as far as this study can tell."""
    if speed.here is not None:
        return f"{speed.here:.3g} times"
    return f"over {speed.at_least:.3g} times" if speed.at_least is not None else "not known"


def parameters_text(cell: Cell | None) -> str:
    """The number of trained parameters, and their share."""
    if cell is None:
        return ""
    trained, every = (cell.records[0][name] for name in ("trained_parameters", "parameters"))
    return f"{trained:,} ({100 * trained / every:.2f} %)"


def notes(study: Study, cells: Mapping[tuple[str, str], Cell]) -> list[str]:
    """Whether the paper's order of two models holds, does not, or cannot be told; and which runs diverged."""
    lines = []
    compared, speeds = list(compare_with_paper(study, cells)), list(compare_steps(study, cells))
    if compared or speeds:
        lines += ["", "## Beside the paper"]
    if compared:
        lines += ["", "| task | paper: better than | paper | here | verdict |", "| --- | --- | --- | --- | --- |"]
    for one in compared:
        better = f"{one.better.label} > {one.worse.label}"
        here = f"{one.here:+.1f} ± {one.spread:.1f}"
        lines.append(f"| {one.task.label} | {better} | +{one.paper:.1f} | {here} | {one.verdict} |")
    if speeds:
        lines += ["", "| task | steps of | over those of | paper | here |", "| --- | --- | --- | --- | --- |"]
    for speed in speeds:
        both = f"{speed.slower.label} | {speed.faster.label}"
        lines.append(f"| {speed.task.label} | {both} | {speed.paper:.3g} times | {speed_text(speed)} |")
    for (model, task), cell in cells.items():
        if cell.diverged:
            lines += ["", f"Diverged: {cell.diverged} runs of {model} on {task}."]
    return lines
