"""Pictures of a study: accuracy against steps, accuracy against learning rate, steps to converge."""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from fpt_adapters.analysis.extras import extra

with extra("examples", "A study's pictures are drawn with matplotlib"):
    import matplotlib

matplotlib.use("Agg")
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from .plan import Study, Task
from .summary import Cell

CURVES, RATES, STEPS = "accuracy_against_steps.png", "accuracy_against_learning_rate.png", "steps_to_converge.png"
DOTS_PER_INCH = 130
LONG_LABEL = 30  # letters; with longer labels, only one column of the legend fits under a panel


def draw(study: Study, cells: Mapping[tuple[str, str], Cell], folder: Path) -> list[str]:
    """Draw the pictures of what has finished into `folder`. Returns their file names."""
    tasks = [task for task in study.tasks if any((model.name, task.name) in cells for model in study.models)]
    panels = {CURVES: draw_curves, RATES: draw_rates, STEPS: draw_steps} if tasks else {}
    if all(len(cell.by_rate) == 1 for cell in cells.values()):
        panels.pop(RATES, None)
    for name, panel in panels.items():
        draw_picture(study, tasks, cells, panel, folder / name)
    return list(panels)


def draw_picture(
    study: Study, tasks: list[Task], cells: Mapping[tuple[str, str], Cell], panel: Callable, file: Path
) -> None:
    """Draw a panel for each task, and one legend."""
    columns = min(3, len(tasks))
    rows = -(-len(tasks) // columns)
    size = (5 * columns, 4 * rows)  # inches
    figure, axes = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for axis in axes.flat[len(tasks) :]:
        axis.set_visible(False)
    for axis, task in zip(axes.flat, tasks, strict=False):
        panel(axis, study, task, cells)
        axis.set_title(task.label, fontsize=10)
    legends = [axis.get_legend_handles_labels() for axis in axes.flat]
    handles = {label: handle for found in legends for handle, label in zip(*found, strict=True)}
    if handles:
        across = columns * (1 if max(map(len, handles)) > LONG_LABEL else 2)
        look = {"loc": "outside lower center", "ncols": across, "frameon": False, "fontsize": 8}
        figure.legend(handles.values(), handles.keys(), **look)
    figure.suptitle(study.title, fontsize=11)
    figure.savefig(file, dpi=DOTS_PER_INCH)
    plt.close(figure)


def draw_curves(axis: Axes, study: Study, task: Task, cells: Mapping[tuple[str, str], Cell]) -> None:
    """Draw validation scores at the chosen learning rate: the mean over seeds, and the range."""
    for index, model in enumerate(study.models):
        cell = cells.get((model.name, task.name))
        if cell is None:
            continue
        steps = sorted({step for record in cell.records for step, _ in record["curve"]})
        # A run that stopped at its target keeps its last score.
        scores = np.array([np.interp(steps, *zip(*record["curve"], strict=True)) for record in cell.records])
        color = f"C{index % 10}"
        axis.plot(steps, 100 * scores.mean(axis=0), color=color, label=model.label, linewidth=1.5)
        axis.fill_between(steps, *(100 * edge(axis=0) for edge in (scores.min, scores.max)), color=color, alpha=0.15)
        axis.axhline(100 * cell.floors["validation"], color="grey", linestyle="--", linewidth=0.8)
    axis.set(xlabel="step", ylabel=f"validation {task.metric} (%)")
    axis.grid(alpha=0.3)


def draw_rates(axis: Axes, study: Study, task: Task, cells: Mapping[tuple[str, str], Cell]) -> None:
    """Draw validation scores at the last step for each learning rate: the mean over seeds, and the range."""
    for index, model in enumerate(study.models):
        cell = cells.get((model.name, task.name))
        if cell is None:
            continue
        rates = sorted(cell.by_rate)
        means, least, greatest = (
            [100 * getattr(cell.by_rate[rate], what) for rate in rates] for what in ("mean", "least", "greatest")
        )
        color = f"C{index % 10}"
        axis.plot(rates, means, color=color, label=model.label, marker="o", markersize=3)
        axis.fill_between(rates, least, greatest, color=color, alpha=0.15)
    axis.set(xscale="log", xlabel="learning rate", ylabel=f"validation {task.metric} (%)")
    rates = sorted({rate for model in study.models for rate in rates_of(cells.get((model.name, task.name)))})
    axis.set_xticks(rates, [f"{rate:g}" for rate in rates])
    axis.minorticks_off()
    axis.grid(alpha=0.3)


def rates_of(cell: Cell | None) -> list[float]:
    """The learning rates with results in a cell."""
    return list(cell.by_rate) if cell is not None else []


def draw_steps(axis: Axes, study: Study, task: Task, cells: Mapping[tuple[str, str], Cell]) -> None:
    """Draw steps to converge at the chosen learning rate; a bar is hatched if the model did not for some seed."""
    models = [model for model in study.models if (model.name, task.name) in cells]
    for row, model in enumerate(models):
        cell = cells[model.name, task.name]
        known, color = cell.steps is not None and not cell.not_converged, f"C{study.models.index(model) % 10}"
        length = cell.steps.mean if known else cell.budget
        text = f" {cell.steps.mean:,.0f}" if known else f" over {cell.budget:,}"
        style = {"color": color, "alpha": 0.8} if known else {"facecolor": "none", "edgecolor": color, "hatch": "//"}
        axis.barh(row, length, **style)
        axis.text(length, row, text, va="center", fontsize=7)
    axis.set_yticks(range(len(models)), [model.label for model in models], fontsize=7)
    axis.invert_yaxis()
    axis.set(xlabel="steps to converge")
    axis.margins(x=0.27)  # at a quarter, the last number is often cut off at the edge
