"""Pictures of runs and of attention, drawn with matplotlib (the extra "examples" installs it)."""

import math
import os
import warnings
from collections.abc import Mapping, Sequence
from typing import BinaryIO

import numpy as np

from ..heads.scores import is_number
from ..hub.card_metrics import is_share, main_metric, metric_name
from ..hub.card_template import score
from .extras import extra

CELLS_COUNTED = 20  # up to this many labels, every cell shows its count
LABELS_NAMED = 60  # up to this many, the axes show the labels' names
POINTS_DRAWN = 300  # points across; if there are more labels, several share a point
NAME_LENGTH = 24
DOTS_PER_INCH = 150
PANEL_WIDTHS = ((1, 6.0), (3, 3.6), (6, 2.4))  # up to this many panels in a row: inches of each
MANY_PANELS_WIDTH = 1.7  # inches of each, where there are more
OUTLINED_CELL = 6  # the least size of a cell, in points, to outline it alone
TICK_STEPS = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000)


def learning_curves(
    histories: Mapping[str, Sequence[Mapping[str, float]]],
    path_or_file: str | os.PathLike | BinaryIO,
    *,
    metric: str | None = None,
    floor: float | None = None,
    title: str = "",
) -> None:
    """Draw a metric and the training loss against steps, a line for each run, into an image file.

    `histories`: Trainer's `state.log_history` by run name. `path_or_file`: a path whose ending is the format, or an
    open binary file, which gets a PNG. `metric`: its name in the log (None: `main_metric`); shares are drawn as
    percentages. `floor`: the score that needs no learning, drawn as a dashed line. Without logged values, no panel.
    """
    metric = metric or main_metric([row for history in histories.values() for row in history])
    scores, losses = _curves(histories, metric), _curves(histories, "loss")
    panels = [curves for curves in (scores, losses) if any(steps for steps, _ in curves.values())] or [losses]
    figure = _figure(5 * len(panels), 4, layout="constrained")
    grid = figure.subplots(1, len(panels), squeeze=False)
    for axes, curves in zip(grid.flat, panels, strict=True):
        if curves is scores:
            _draw_scores(axes, metric, scores, floor)
        else:
            for name, (steps, values) in losses.items():
                axes.plot(steps, values, marker="o" if len(steps) == 1 else None, markersize=3, label=name)
            axes.set(ylabel="loss", ylim=(0, None), title="Training loss")
        axes.set(xlabel="step", xlim=(0, None))
        axes.locator_params(axis="x", integer=True)
        axes.grid(alpha=0.3)
    grid.flat[0].legend(loc="best", frameon=False)
    figure.suptitle(_literal(title))
    _save(figure, path_or_file)


def _curves(histories: Mapping[str, Sequence[Mapping[str, float]]], key: str | None) -> dict[str, tuple[list, list]]:
    """Steps and values that were logged under `key`, by the run's name; both may be empty."""
    rows = {name: [row for row in history if is_number(row.get(key))] for name, history in histories.items()}
    return {_literal(name): ([r["step"] for r in found], [r[key] for r in found]) for name, found in rows.items()}


def _draw_scores(axes, metric: str, scores: Mapping[str, tuple[list, list]], floor: float | None) -> None:
    name = metric_name(metric)
    values = [value for _, run in scores.values() for value in run] + ([] if floor is None else [floor])
    share = is_share(name, values)
    factor = 100 if share else 1
    for run, (steps, of_run) in scores.items():
        axes.plot(steps, [factor * value for value in of_run], marker="o", markersize=3, label=run)
    if floor is not None:
        axes.axhline(factor * floor, color="grey", linestyle="--", linewidth=1, label=f"floor {score(name, floor)}")
    axes.set(ylabel=_literal(f"{name} (%)" if share else name), title="Evaluation")
    if share:
        axes.set(ylim=(max(100 * min(values) - 5, -1), 101))  # so that no point lies on an edge


def confusion_matrix(
    counts: np.ndarray, labels: Sequence[str], path_or_file: str | os.PathLike | BinaryIO, title: str = ""
) -> None:
    """Draw how often each label (column) was answered for each true label (row) into an image file.

    `counts`: (labels, labels), whole numbers. `labels`: their names in that order. `path_or_file`: as for
    `learning_curves`. Colours are shares of a row; rows of labels that were never true are grey. Up to 20 labels get
    counts in the cells, up to 60 get names on the axes; with more than 300, neighbouring labels share a point, which
    shows the largest of their shares. Raises ValueError if counts and names do not fit.
    """
    counts, size = np.asarray(counts), len(labels)
    if counts.shape != (size, size) or size == 0:
        raise ValueError(f"A confusion matrix of {size} labels has counts ({size}, {size}), got {counts.shape}.")
    shares, block = row_shares(counts), -(-size // POINTS_DRAWN)
    named, counted = size <= LABELS_NAMED, size <= CELLS_COUNTED
    side = 4.0 + (0.45 if counted else 0.17) * size if named else 9.0  # inches
    figure = _figure(side + 1, side, layout="constrained")
    axes = figure.subplots()
    axes.set_facecolor("0.85")
    drawn = block_maxima(shares, block)
    edge = block * len(drawn) - 0.5  # in labels, each centred on its number
    image = axes.imshow(100 * drawn, cmap="Blues", vmin=0, vmax=100, extent=(-0.5, edge, edge, -0.5))
    figure.colorbar(image, ax=axes, label="share of the true label (%)", shrink=0.8)
    if named:
        names = [_literal(_shortened(name)) for name in labels]
        look = {"fontsize": 9 if counted else 7}
        axes.set_xticks(range(size), names, rotation=90 if max(map(len, names)) > 3 else 0, **look)
        axes.set_yticks(range(size), names, **look)
    if counted:
        look = {"fontsize": 12 if size <= 5 else 8, "ha": "center", "va": "center"}
        for row, column in np.argwhere(counts > 0):
            color = "white" if shares[row, column] > 0.5 else "black"
            axes.text(column, row, f"{counts[row, column]:,}", color=color, **look)
    absent = int((counts.sum(axis=1) == 0).sum())
    notes = [f"{int(counts.sum()):,} answers"]
    notes += [f"labels that are never true (grey): {absent:,} of {size:,}"] if absent else []
    notes += [f"a point shows the largest share among {block} x {block} labels"] if block > 1 else []
    which = "" if named else f" (number, of {size:,})"
    axes.set(xlabel=f"answered label{which}", ylabel=f"true label{which}")
    axes.set_title("; ".join(notes), fontsize=9)
    figure.suptitle(_literal(title))
    _save(figure, path_or_file)


def row_shares(counts: np.ndarray) -> np.ndarray:
    """Counts (labels, labels) -> shares of each row in 0..1; NaN in a row without counts."""
    totals = np.asarray(counts).sum(axis=1, keepdims=True)
    return np.where(totals > 0, counts / np.maximum(totals, 1), np.nan)


def block_maxima(shares: np.ndarray, block: int) -> np.ndarray:
    """The largest value in each `block` x `block` square of shares (labels, labels): (blocks, blocks).

    The last squares may reach over the edge. NaN in a square without values.
    """
    blocks = -(-len(shares) // block)
    missing = blocks * block - len(shares)
    padded = np.pad(shares, (0, missing), constant_values=np.nan)
    squares = padded.reshape(blocks, block, blocks, block)
    return np.fmax.reduce(np.fmax.reduce(squares, axis=3), axis=1)


def attention_grid(
    panels: Mapping[str, np.ndarray],
    path_or_file: str | os.PathLike | BinaryIO,
    *,
    columns: int | None = None,
    rows: Sequence[int] | None = None,
    targets: np.ndarray | None = None,
    title: str = "",
) -> None:
    """Draw which tokens (columns of a panel) each output token (row) attends to into an image file.

    `panels`: title -> map (tokens, tokens) of shares in 0..1, as `attention_panels` returns them; NaN is grey.
    `columns`: panels in a row (None: a square of panels). `rows`: the output tokens to draw (None: all).
    `targets`: boolean (tokens, tokens), whose true cells are outlined; small cells are framed with their neighbours.
    `path_or_file`: as for `learning_curves`. Tokens count from 0; all panels share one scale. Raises ValueError for
    maps of other shapes.
    """
    tokens = _tokens_of([*panels.values()] if targets is None else [*panels.values(), targets])
    rows = list(range(tokens)) if rows is None else list(rows)
    columns = columns or math.ceil(math.sqrt(len(panels)))
    width = next((inches for most, inches in PANEL_WIDTHS if columns <= most), MANY_PANELS_WIDTH)
    height = width * min(max(len(rows) / tokens, 0.25), 1.0)
    figure, grid, bar = _panel_grid(-(-len(panels) // columns), columns, width, height)
    maps = {name: 100 * np.asarray(panel)[rows] for name, panel in panels.items()}
    ceiling = max(panel[np.isfinite(panel)].max(initial=0) for panel in maps.values())
    for axes, (name, panel) in zip(grid.flat, maps.items(), strict=False):
        image = axes.imshow(panel, cmap="Blues", vmin=0, vmax=ceiling, aspect="auto")
        axes.set(visible=True, facecolor="0.85")
        axes.set_title(_literal(name), fontsize=8)
        if targets is not None:
            _outline(axes, np.asarray(targets)[rows], 72 * width / tokens)
    _label_tokens(grid, rows, tokens, width, height)
    figure.colorbar(image, cax=bar).set_label("share of the output token's attention (%)", fontsize=8)
    bar.tick_params(labelsize=8)
    figure.suptitle(_literal(title), fontsize=10)
    _save(figure, path_or_file)


def _tokens_of(maps: Sequence[np.ndarray]) -> int:
    shapes = {np.shape(each) for each in maps}
    tokens = len(maps[0]) if maps else 0
    if tokens == 0 or shapes != {(tokens, tokens)}:
        raise ValueError(f"All panels, and the targets, have shape (tokens, tokens); got {sorted(shapes)}.")
    return tokens


def _panel_grid(lines: int, columns: int, width: float, height: float):
    """A figure with hidden panels of `width` x `height` inches, and the axes of its colour bar."""
    left, right, top, bottom, between = 0.7, 1.2, 0.8, 0.6, 0.35  # inches
    across = left + columns * width + (columns - 1) * between + right
    down = top + lines * height + (lines - 1) * between + bottom
    figure = _figure(across, down)
    edges = {"left": left / across, "right": 1 - right / across, "bottom": bottom / down, "top": 1 - top / down}
    gaps = {"wspace": between / width, "hspace": between / height}
    grid = figure.subplots(lines, columns, squeeze=False, gridspec_kw=edges | gaps, subplot_kw={"visible": False})
    bar_height = min(down - top - bottom, 4.0)
    bar = (edges["right"] + 0.3 / across, edges["top"] - bar_height / down, 0.15 / across, bar_height / down)
    return figure, grid, figure.add_axes(bar)


def _label_tokens(grid: np.ndarray, rows: Sequence[int], tokens: int, width: float, height: float) -> None:
    """Number as many tokens as can be read: rows on the left panels, columns on the lowest ones."""
    step, row_step = tick_step(tokens, width / 0.25), tick_step(len(rows), height / 0.15)
    ticks = [place for place, row in enumerate(rows) if row % row_step == 0]
    for (line, column), axes in np.ndenumerate(grid):
        lowest = line + 1 == len(grid) or not grid[line + 1, column].get_visible()
        axes.set_xticks(range(0, tokens, step), range(0, tokens, step) if lowest else [], fontsize=7)
        axes.set_yticks(ticks, [rows[place] for place in ticks] if column == 0 else [], fontsize=7)
        axes.set_xlabel("attended token" if lowest else "", fontsize=8)
        axes.set_ylabel("output token" if column == 0 else "", fontsize=8)


def tick_step(count: int, room: float) -> int:
    """The smallest step that leaves at most `room` of `count` ticks."""
    return next((step for step in TICK_STEPS if count / step <= max(room, 1)), TICK_STEPS[-1])


def _outline(axes, targets: np.ndarray, cell: float) -> None:
    """Outline the true cells of `targets` (rows, tokens), or frame them at a distance if `cell` points are few."""
    from matplotlib.collections import PolyCollection

    axes.autoscale(False)
    if cell >= OUTLINED_CELL:
        corners = np.array([(-0.5, -0.5), (0.5, -0.5), (0.5, 0.5), (-0.5, 0.5)])
        centres = np.argwhere(targets)[:, None, ::-1]  # (cells, 1, column and row)
        squares = PolyCollection(centres + corners, facecolors="none", edgecolors="tab:orange", linewidths=1)
        axes.add_collection(squares)
    elif targets.any():
        near = math.ceil(OUTLINED_CELL / 2 / cell)
        windows = np.lib.stride_tricks.sliding_window_view(np.pad(targets, near), (2 * near + 1, 2 * near + 1))
        framed = windows.any(axis=(2, 3))  # (rows, tokens): at most `near` cells from a target
        framed = np.pad(framed, ((1, 1), (0, 0)), mode="edge")  # (1 + rows + 1, tokens): beyond the panel's edges
        places = np.arange(framed.shape[1]), np.arange(-1, len(framed) - 1)
        axes.contour(*places, framed, levels=[0.5], colors="tab:orange", linewidths=0.6)


def _figure(width: float, height: float, **kwargs):
    """A figure of `width` x `height` inches outside pyplot: no window opens, and the user's backend stays."""
    with extra("examples", "Pictures are drawn with matplotlib"):
        from matplotlib.figure import Figure
    return Figure(figsize=(width, height), **kwargs)


def _save(figure, path_or_file: str | os.PathLike | BinaryIO) -> None:
    image_format = None if isinstance(path_or_file, (str, os.PathLike)) else "png"
    with warnings.catch_warnings():  # characters that the font lacks are drawn as boxes
        warnings.filterwarnings("ignore", message="Glyph")
        figure.savefig(path_or_file, dpi=DOTS_PER_INCH, format=image_format)


def _literal(text: str) -> str:
    """Escape text so that matplotlib does not read it as a formula."""
    return text.replace("$", r"\$")


def _shortened(name: str) -> str:
    name = " ".join(str(name).split())
    return name if len(name) <= NAME_LENGTH else name[: NAME_LENGTH - 1] + "…"
