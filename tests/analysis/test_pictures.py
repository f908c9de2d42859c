"""The pictures of runs and of attention: PNGs of sensible size that show what they were given."""

import io
from functools import partial

import matplotlib
import numpy as np
import pytest
from matplotlib import pyplot
from PIL import Image

from fpt_adapters.analysis.pictures import (
    attention_grid,
    block_maxima,
    confusion_matrix,
    learning_curves,
    row_shares,
    tick_step,
)


def history(best, steps=50):
    rows = [{"step": 10 * i, "loss": 2.0 / (i + 1)} for i in range(1, steps)]
    return rows + [{"step": 100 * i, "eval_accuracy": best * i / 5, "eval_loss": 1.0} for i in range(1, 6)]


def read(file):
    with Image.open(file) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB")).astype(int)


def drawn(draw, *what, byte_range=(5_000, 3_000_000), **options):
    """The pixels of a picture: (height, width, 3)."""
    file = io.BytesIO()
    draw(*what, file, **options)
    assert byte_range[0] < len(file.getvalue()) < byte_range[1]
    return read(file)


curves = partial(drawn, learning_curves)


def matrix(counts, names=None, **options):
    return drawn(confusion_matrix, np.asarray(counts), names or ["x"] * len(counts), **options)


def grid(panels, **options):
    return drawn(attention_grid, {"a": panels} if isinstance(panels, np.ndarray) else panels, **options)


def grey_points(pixels):
    return (pixels == 217).all(axis=2).sum()


def blue(pixels):
    """The coloured points of a matrix, without the colour bar to its right."""
    return (pixels[..., 2] - pixels[..., 0] > 60)[:, : int(0.85 * pixels.shape[1])]


def dark(pixels):
    """The points of a panel that are darker blue than half of the scale, without the colour bar."""
    return (pixels[..., 0] < 60) & (pixels[..., 2] > 90) & (np.arange(pixels.shape[1]) < 0.85 * pixels.shape[1])


def orange(pixels):
    return (pixels[..., 0] > 200) & (pixels[..., 2] < 120)


def slope(points):
    """The correlation of the rows and columns of some points: 1 on the diagonal that falls to the right."""
    return np.corrcoef(*np.nonzero(points))[0, 1]


# Runs


def test_a_png_of_sensible_size_is_written():
    pixels = curves({"run": history(0.9)}, floor=0.5, title="Digits", byte_range=(10_000, 500_000))
    height, width, _ = pixels.shape
    assert 800 <= width <= 3000 and 300 <= height <= 2000 and width > height
    coloured = pixels.max(axis=2) - pixels.min(axis=2) > 50  # neither white, black nor grey: the curves
    assert min(coloured[:, : width // 2].sum(), coloured[:, width // 2 :].sum()) > 300


def test_each_run_and_the_floor_are_drawn():
    one, two = curves({"a": history(0.9)}), curves({"a": history(0.9), "b": history(0.6)})
    colours = [len(np.unique(pixels.reshape(-1, 3), axis=0)) for pixels in (one, two)]
    assert colours[1] > colours[0]
    assert (one != two).any() and (one != curves({"a": history(0.9)}, floor=0.3)).any()


@pytest.mark.parametrize("rows", [[], [{"step": 1, "loss": 1.0}], [{"step": 1, "eval_accuracy": 0.5}]])
def test_short_histories_are_drawn_too(rows):
    assert curves({"run": rows}).min() < 128  # axes at least


def test_another_metric_is_drawn():
    rows = [{"step": i, "eval_masked_accuracy": i / 10, "loss": 1.0} for i in range(1, 6)]
    assert (curves({"run": rows}, metric="eval_masked_accuracy") == curves({"run": rows})).all()


@pytest.fixture
def axes_of(monkeypatch):
    """The axes of a picture of runs, which is not written."""
    kept = []
    monkeypatch.setattr("fpt_adapters.analysis.pictures._save", lambda figure, _: kept.append(figure))

    def axes_of(runs, **options):
        learning_curves(runs, "x.png", **options)
        return kept[-1].axes

    return axes_of


BOTH = ["Evaluation", "Training loss"]


@pytest.mark.parametrize(
    ("row", "titles", "label"),
    [
        ({"loss": 1.0, "eval_accuracy": 0.5}, BOTH, "accuracy (%)"),
        ({"loss": 1.0, "eval_accuracy": 96.3}, BOTH, "accuracy"),
        ({"loss": 1.0, "eval_mse": 0.353}, BOTH, "mse"),
        ({"loss": 1.0, "eval_loss": 0.353}, BOTH, "loss"),
        ({"eval_r2": float("nan"), "eval_mine": 0.353}, ["Evaluation"], "mine"),
        ({"loss": 1.0, "eval_list": [1]}, ["Training loss"], "loss"),
        (None, ["Training loss"], "loss"),
    ],
)
def test_each_panel_shows_something(row, titles, label, axes_of):
    axes = axes_of({"run": [] if row is None else [{"step": 1} | row]}, floor=0.25)
    assert [each.get_title() for each in axes] == titles and axes[0].get_ylabel() == label
    factor = 100 if "%" in label else 1
    floors = [line.get_ydata()[0] / factor for line in axes[0].lines if line.get_linestyle() == "--"]
    assert floors == ([0.25] if "Evaluation" in titles else [])


def test_a_run_has_one_colour_in_both_panels(axes_of):
    rows = history(0.9)
    axes = axes_of({"a": [row for row in rows if "loss" in row], "b": rows})
    left, right = ({line.get_label(): line.get_color() for line in each.lines} for each in axes)
    assert left == right and len(set(left.values())) == 2


@pytest.mark.parametrize(
    ("draw", "what"),
    [
        (learning_curves, [{"run": history(0.9)}]),
        (confusion_matrix, [np.eye(2, dtype=int), ["a", "b"]]),
    ],
)
def test_a_file_that_is_open_gets_the_same_png(draw, what, tmp_path):
    for file in (tmp_path / "a.png", str(tmp_path / "b.png")):
        draw(*what, file)
        assert (drawn(draw, *what) == read(file)).all()


# Confusion matrices


def mostly_right(size, examples):
    """Counts (size, size): right with 0.8, else any."""
    generator = np.random.default_rng(0)
    truth = np.repeat(np.arange(size), examples)
    answers = np.where(generator.random(len(truth)) < 0.8, truth, generator.integers(0, size, len(truth)))
    return np.bincount(truth * size + answers, minlength=size * size).reshape(size, size)


@pytest.mark.parametrize("size", [1, 10, 40, 1232])
def test_a_confusion_matrix_of_any_size(size):
    names = [f"label {i}" for i in range(size)]
    height, width, _ = matrix(mostly_right(size, 3), names, title=f"{size} labels", byte_range=(10_000, 500_000)).shape
    assert 500 <= height <= 2500 and height < width <= 2500


@pytest.mark.parametrize("size", [2, 400])
def test_right_answers_lie_on_the_diagonal(size):
    right = np.eye(size, dtype=int) * 7
    assert slope(blue(matrix(right))) > 0.7
    assert slope(blue(matrix(right[::-1]))) < -0.7


def test_colours_are_shares_of_a_row():
    """Rows of few examples are as dark as rows of many."""
    points = blue(matrix([[1, 0], [0, 100_000]]))
    middle = len(points) // 2
    assert 0.7 < points[:middle].sum() / points[middle:].sum() < 1.4


@pytest.mark.parametrize(("size", "same"), [(2, False), (21, True)])
def test_counts_are_written_where_there_is_room(size, same):
    """Two matrices of the same shares and the same sum, but of other counts."""
    one, other = np.zeros((2, size, size), int)
    one[:2, :2], other[:2, :2] = [[4, 4], [3, 1]], [[2, 2], [6, 2]]
    assert (matrix(one) == matrix(other)).all() == same


@pytest.mark.parametrize(("size", "same"), [(21, False), (61, True)])
def test_names_are_written_where_there_is_room(size, same):
    one, other = (matrix(np.eye(size, dtype=int), [name * 9, *["x"] * (size - 1)]) for name in "ab")
    assert np.array_equal(one, other) == same


def test_rows_without_truth_are_grey():
    counts = np.array([[3, 1, 0], [0, 0, 0], [0, 0, 5]])
    assert grey_points(matrix(counts)) > 10_000 > 100 > grey_points(matrix(counts + np.eye(3, dtype=int)))


def test_any_name_can_be_drawn():
    names = ["$x^{$", "a" * 200, "猫\nb", "", "<b>&_"]
    assert matrix(mostly_right(5, 50), names, title="$\\frac$").shape[1] < 2500
    curves({"$\\frac$": history(0.9, steps=3)}, title="$\\frac$")


@pytest.mark.parametrize(("shape", "labels"), [((2, 3), 2), ((2, 2), 3), ((4,), 4), ((0, 0), 0)])
def test_counts_that_do_not_fit_the_names_are_refused(shape, labels, tmp_path):
    with pytest.raises(ValueError, match=rf"of {labels} labels has counts \({labels}, {labels}\), got \({shape[0]},"):
        confusion_matrix(np.ones(shape, int), ["x"] * labels, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_row_shares_by_hand():
    np.testing.assert_array_equal(row_shares(np.array([[3, 1], [0, 0]])), [[0.75, 0.25], [np.nan, np.nan]])


def test_block_maxima_by_hand():
    nan = np.nan
    shares = np.array([[0.5, 0.5, 0.0], [0.0, 0.25, 0.75], [nan, nan, nan]])
    for side, maxima in ((1, shares), (2, [[0.5, 0.75], [nan, nan]]), (3, [[0.75]]), (5, [[0.75]])):
        np.testing.assert_array_equal(block_maxima(shares, side), maxima)


# Attention


def maps(count, tokens):
    """Maps whose tokens attend to themselves with one half, and to all with the other."""
    return {f"layer {i}": 0.5 * np.eye(tokens) + 0.5 / tokens for i in range(count)}


@pytest.mark.parametrize(("panels", "columns"), [(1, None), (6, None), (18, 9)])
@pytest.mark.parametrize("tokens", [1, 256])
def test_attention_of_any_number_of_panels_and_tokens(panels, columns, tokens):
    height, width, _ = grid(maps(panels, tokens), columns=columns, title="$x^{$").shape
    assert 300 <= height <= 5000 and 1000 <= width <= 5000


@pytest.mark.parametrize("tokens", [10, 256])
def test_attention_lies_where_it_is(tokens):
    assert slope(dark(grid(np.eye(tokens)))) > 0.9
    assert slope(dark(grid(np.eye(tokens)[::-1]))) < -0.9


def test_only_the_chosen_output_tokens_are_drawn():
    panel = np.zeros((10, 10))
    panel[:5, 0], panel[5:, 9] = 1, 1
    first, last, both = (grid(panel, rows=rows) for rows in (range(5), np.arange(5, 10), None))
    columns = [np.nonzero(dark(pixels))[1] for pixels in (first, last, both)]
    assert columns[0].max() < columns[1].min()
    assert set(columns[2]) == set(columns[0]) | set(columns[1])
    assert len(first) == len(last) < len(both)


@pytest.mark.parametrize("tokens", [10, 256])
def test_targets_are_marked_and_stay_visible(tokens):
    panel, targets = np.eye(tokens), np.eye(tokens, dtype=bool)
    plain, marked, elsewhere = (grid(panel, targets=where) for where in (None, targets, targets[::-1]))
    assert not orange(plain).any() and orange(marked).sum() > 200
    assert dark(marked).sum() > 0.8 * dark(plain).sum()
    assert slope(orange(elsewhere)) < -0.9


@pytest.mark.parametrize("tokens", [10, 256])
def test_a_single_output_token_is_marked_too(tokens):
    pixels = grid(maps(1, tokens), rows=[tokens - 1], targets=np.eye(tokens, dtype=bool))
    rows, columns = np.nonzero(orange(pixels))
    assert grey_points(pixels) < 100  # the row fills its panel
    assert len(rows) > 50 and columns.min() > 0.7 * pixels.shape[1]  # at its right edge, from top to bottom
    assert np.ptp(rows) > 0.3 * pixels.shape[0]


def test_no_target_at_all_is_drawn_too():
    assert not orange(grid(maps(1, 256), targets=np.zeros((256, 256), dtype=bool))).any()


def test_all_panels_share_a_scale():
    points = dark(grid({"strong": np.full((4, 4), 0.8), "weak": np.full((4, 4), 0.08)}, columns=2))
    middle = points.shape[1] // 2
    assert points[:, :middle].sum() > 10_000 and not points[:, middle:].any()


def test_rows_of_padding_are_grey():
    padded = np.eye(4)
    padded[2:] = np.nan
    none, half, all_rows = (grey_points(grid(panel)) for panel in (np.eye(4), padded, np.full((4, 4), np.nan)))
    assert none < 100 and all_rows > 1.9 * half > 100_000


def test_panels_stand_as_they_are_told():
    column, square, line = (np.divide(*grid(maps(4, 10), columns=columns).shape[:2]) for columns in (1, None, 4))
    assert column > 2 > 1.2 > square > 0.7 > 0.5 > line


@pytest.mark.parametrize(
    ("shapes", "targets"),
    [
        ([], None),
        ([(2, 3)], None),
        ([(2, 2), (3, 3)], None),
        ([(1, 2, 2)], None),
        ([(0, 0)], None),
        ([(2, 2)], (3, 3)),
    ],
)
def test_maps_that_are_no_squares_of_one_size_are_refused(shapes, targets, tmp_path):
    panels = {f"panel {number}": np.ones(shape) for number, shape in enumerate(shapes)}
    targets = None if targets is None else np.ones(targets, dtype=bool)
    with pytest.raises(ValueError, match=r"All panels, and the targets, have shape \(tokens, tokens\); got \["):
        attention_grid(panels, tmp_path / "a.png", targets=targets)
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("count", "room", "step"), [(10, 24, 1), (10, 6, 2), (256, 24, 20), (256, 6, 50), (5, 0.5, 5), (9999, 2, 1000)]
)
def test_as_many_tokens_are_numbered_as_can_be_read(count, room, step):
    assert tick_step(count, room) == step


def test_the_users_backend_and_figures_stay():
    backend, figure = matplotlib.get_backend(), pyplot.figure()
    try:
        curves({"run": history(0.9)})
        matrix(np.eye(2, dtype=int))
        assert matplotlib.get_backend() == backend and pyplot.get_fignums() == [figure.number]
    finally:
        pyplot.close(figure)
