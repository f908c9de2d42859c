"""Pictures of training runs, drawn with matplotlib (an extra: `pip install fpt_adapters[examples]`)."""

import os
import warnings
from collections.abc import Mapping, Sequence
from typing import BinaryIO

import numpy as np

CELLS_COUNTED = 20  # up to so many labels, every cell shows its count
LABELS_NAMED = 60  # and up to so many, the axes show the labels' names
NAME_LENGTH = 24
DOTS_PER_INCH = 150


def learning_curves(
    histories: Mapping[str, Sequence[Mapping[str, float]]],
    path_or_file: str | os.PathLike | BinaryIO,
    *,
    metric: str = "eval_accuracy",
    floor: float | None = None,
    title: str = "",
) -> None:
    """Draw accuracy and training loss against steps, a line for each run, into an image file.

    `histories`: Trainer's `state.log_history` by run name. `path_or_file`: a path whose ending names the format, or an
    open binary file, which gets a PNG. `metric` lies in 0..1. `floor`: a dashed line at the score that needs no
    learning.
    """
    plt = _pyplot()
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for name, history in histories.items():
        scored = [row for row in history if metric in row]
        lost = [row for row in history if "loss" in row]
        left.plot([r["step"] for r in scored], [100 * r[metric] for r in scored], marker="o", markersize=3, label=name)
        right.plot([r["step"] for r in lost], [r["loss"] for r in lost], label=name)
    if floor is not None:
        left.axhline(100 * floor, color="grey", linestyle="--", linewidth=1, label=f"floor {100 * floor:.1f} %")
    left.set(xlabel="step", ylabel=f"{metric.removeprefix('eval_')} (%)", ylim=(None, 101), title="Evaluation")
    right.set(xlabel="step", ylabel="loss", ylim=(0, None), title="Training loss")
    for axis in (left, right):
        axis.grid(alpha=0.3)
    left.legend(loc="best", frameon=False)
    figure.suptitle(_literal(title))
    _save(figure, path_or_file)


def confusion_matrix(
    counts: np.ndarray, labels: Sequence[str], path_or_file: str | os.PathLike | BinaryIO, title: str = ""
) -> None:
    """Draw what was answered (columns) for each true label (rows) into an image file.

    `counts`: (labels, labels), whole numbers. `labels`: their names in that order. `path_or_file`: as for
    `learning_curves`. Colours are shares of a row; rows of labels that never were true are grey. Up to 20 labels have
    their counts in the cells, up to 60 their names on the axes; more are drawn in the order of their numbers.
    Raises ValueError where counts and names do not fit each other.
    """
    counts = np.asarray(counts)
    if counts.shape != (len(labels), len(labels)) or not len(labels):
        raise ValueError(f"A confusion matrix of {len(labels)} labels is square in them; counts are {counts.shape}.")
    plt = _pyplot()
    size = len(labels)
    shares = row_shares(counts)
    named = size <= LABELS_NAMED
    side = 4.0 + (0.45 if size <= CELLS_COUNTED else 0.17) * size if named else 9.0  # inches
    figure, axes = plt.subplots(figsize=(side + 1, side), layout="constrained")
    axes.set_facecolor("0.85")
    image = axes.imshow(100 * shares, cmap="Blues", vmin=0, vmax=100)
    figure.colorbar(image, ax=axes, label="share of the true label (%)", shrink=0.8)
    if named:
        names = [_literal(_shortened(name)) for name in labels]
        fontsize = 9 if size <= CELLS_COUNTED else 7
        axes.set_xticks(range(size), names, rotation=90 if max(map(len, names)) > 3 else 0, fontsize=fontsize)
        axes.set_yticks(range(size), names, fontsize=fontsize)
    if size <= CELLS_COUNTED:
        for row, column in np.argwhere(counts > 0):
            dark = shares[row, column] > 0.5
            text = f"{counts[row, column]:,}"
            axes.text(column, row, text, ha="center", va="center", fontsize=8, color="white" if dark else "black")
    absent = int((counts.sum(axis=1) == 0).sum())
    note = f"; {absent:,} of {size:,} labels are never true (grey)" if absent else ""
    unit = "" if named else f" (number of {size:,})"
    axes.set(xlabel=f"answered label{unit}", ylabel=f"true label{unit}")
    axes.set_title(f"{int(counts.sum()):,} examples{note}", fontsize=9)
    figure.suptitle(_literal(title))
    _save(figure, path_or_file)


def row_shares(counts: np.ndarray) -> np.ndarray:
    """Counts (labels, labels) -> each row's shares in 0..1; NaN in a row that has none."""
    totals = np.asarray(counts).sum(axis=1, keepdims=True)
    return np.where(totals > 0, counts / np.maximum(totals, 1), np.nan)


def _pyplot():
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    return pyplot


def _save(figure, path_or_file: str | os.PathLike | BinaryIO) -> None:
    from matplotlib import pyplot

    image_format = None if isinstance(path_or_file, (str, os.PathLike)) else "png"
    try:
        with warnings.catch_warnings():  # a name in a script that the font lacks is drawn as boxes
            warnings.filterwarnings("ignore", message="Glyph")
            figure.savefig(path_or_file, dpi=DOTS_PER_INCH, format=image_format)
    finally:
        pyplot.close(figure)


def _literal(text: str) -> str:
    """Text that matplotlib does not read as a formula."""
    return text.replace("$", r"\$")


def _shortened(name: str) -> str:
    name = " ".join(str(name).split())
    return name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…"
