"""The pictures of runs and of attention: PNGs of sensible size that show what they were given."""

import io

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


def drawn(path):
    with Image.open(path) as picture:
        assert picture.format == "PNG"
        return np.asarray(picture.convert("RGB")).astype(int)


def coloured(pixels):
    """How many points are neither white, black nor grey (the curves), in the left half and in the right."""
    saturated = (pixels.max(axis=2) - pixels.min(axis=2)) > 50
    middle = pixels.shape[1] // 2
    return saturated[:, :middle].sum(), saturated[:, middle:].sum()


def test_a_png_of_sensible_size_is_written(tmp_path):
    file = tmp_path / "curve.png"
    learning_curves({"run": history(0.9)}, file, floor=0.5, title="Digits")
    pixels = drawn(file)
    height, width, _ = pixels.shape
    assert 800 <= width <= 3000 and 300 <= height <= 2000 and width > height
    assert 10_000 < file.stat().st_size < 500_000
    assert min(coloured(pixels)) > 300


def test_each_run_and_the_floor_are_drawn(tmp_path):
    files = [tmp_path / f"{i}.png" for i in range(3)]
    learning_curves({"a": history(0.9)}, files[0])
    learning_curves({"a": history(0.9), "b": history(0.6)}, str(files[1]))
    learning_curves({"a": history(0.9)}, files[2], floor=0.3)
    one, two, floored = (drawn(file) for file in files)
    colours = [len(np.unique(pixels.reshape(-1, 3), axis=0)) for pixels in (one, two)]
    assert colours[1] > colours[0]
    assert (one != two).any() and (one != floored).any()


@pytest.mark.parametrize("rows", [[], [{"step": 1, "loss": 1.0}], [{"step": 1, "eval_accuracy": 0.5}]])
def test_short_histories_are_drawn_too(rows, tmp_path):
    learning_curves({"run": rows}, tmp_path / "curve.png")
    assert drawn(tmp_path / "curve.png").min() < 128  # axes at least


def test_another_metric_is_drawn(tmp_path):
    rows = [{"step": i, "eval_masked_accuracy": i / 10, "loss": 1.0} for i in range(1, 6)]
    learning_curves({"run": rows}, tmp_path / "masked.png", metric="eval_masked_accuracy")
    learning_curves({"run": rows}, tmp_path / "first.png")
    assert (drawn(tmp_path / "masked.png") == drawn(tmp_path / "first.png")).all()


@pytest.mark.parametrize(
    ("rows", "titles", "label"),
    [
        ([{"step": 1, "loss": 1.0, "eval_accuracy": 0.5}], ["Evaluation", "Training loss"], "accuracy (%)"),
        ([{"step": 1, "loss": 1.0, "eval_accuracy": 96.3}], ["Evaluation", "Training loss"], "accuracy"),
        ([{"step": 1, "loss": 1.0, "eval_mse": 0.353}], ["Evaluation", "Training loss"], "mse"),
        ([{"step": 1, "loss": 1.0, "eval_loss": 0.353}], ["Evaluation", "Training loss"], "loss"),
        ([{"step": 1, "eval_r2": float("nan"), "eval_mine": 0.353}], ["Evaluation"], "mine"),
        ([{"step": 1, "loss": 1.0, "eval_list": [1]}], ["Training loss"], "loss"),
        ([], ["Training loss"], "loss"),
    ],
)
def test_each_panel_shows_something(rows, titles, label, tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr("fpt_adapters.analysis.pictures._save", lambda figure, _: kept.append(figure))
    learning_curves({"run": rows}, tmp_path / "x.png", floor=0.25)
    axes = kept[0].axes
    assert [each.get_title() for each in axes] == titles and axes[0].get_ylabel() == label
    factor = 100 if "%" in label else 1
    floors = [line.get_ydata()[0] / factor for line in axes[0].lines if line.get_linestyle() == "--"]
    assert floors == ([0.25] if "Evaluation" in titles else [])


def test_a_run_has_one_colour_in_both_panels(tmp_path, monkeypatch):
    kept = []
    monkeypatch.setattr("fpt_adapters.analysis.pictures._save", lambda figure, _: kept.append(figure))
    rows = history(0.9)
    learning_curves({"a": [row for row in rows if "loss" in row], "b": rows}, tmp_path / "x.png")
    left, right = ({line.get_label(): line.get_color() for line in axes.lines} for axes in kept[0].axes)
    assert left == right and len(set(left.values())) == 2


def test_a_file_that_is_open_gets_the_same_png(tmp_path):
    for draw in (
        lambda to: learning_curves({"run": history(0.9)}, to),
        lambda to: confusion_matrix(np.eye(2, dtype=int), ["a", "b"], to),
    ):
        opened = io.BytesIO()
        draw(opened)
        draw(tmp_path / "a.png")
        assert (drawn(io.BytesIO(opened.getvalue())) == drawn(tmp_path / "a.png")).all()


def mostly_right(size, examples=50):
    """Counts (size, size): right with 0.8, else any."""
    generator = np.random.default_rng(0)
    truth = np.repeat(np.arange(size), examples)
    answers = np.where(generator.random(len(truth)) < 0.8, truth, generator.integers(0, size, len(truth)))
    return np.bincount(truth * size + answers, minlength=size * size).reshape(size, size)


def blue(pixels):
    return pixels[..., 2] - pixels[..., 0] > 60


def field(pixels):
    """The coloured points of a matrix, without the colour bar to its right."""
    return blue(pixels)[:, : int(0.85 * pixels.shape[1])]


@pytest.mark.parametrize("size", [1, 10, 40, 1232])
def test_a_confusion_matrix_of_any_size(size, tmp_path):
    file = tmp_path / "matrix.png"
    confusion_matrix(mostly_right(size, 3), [f"label {i}" for i in range(size)], file, title=f"{size} labels")
    height, width, _ = drawn(file).shape
    assert 500 <= height <= 2500 and height < width <= 2500
    assert 10_000 < file.stat().st_size < 500_000


@pytest.mark.parametrize("size", [2, 400])
def test_right_answers_lie_on_the_diagonal(size, tmp_path):
    names = ["name"] * size
    confusion_matrix(np.eye(size, dtype=int) * 7, names, tmp_path / "right.png")
    confusion_matrix(np.eye(size, dtype=int)[::-1] * 7, names, tmp_path / "wrong.png")
    rows, columns = np.nonzero(field(drawn(tmp_path / "right.png")))
    assert np.corrcoef(rows, columns)[0, 1] > 0.7
    rows, columns = np.nonzero(field(drawn(tmp_path / "wrong.png")))
    assert np.corrcoef(rows, columns)[0, 1] < -0.7


def test_colours_are_shares_of_a_row(tmp_path):
    """Rows of few examples are as dark as rows of many."""
    counts = np.array([[1, 0], [0, 100_000]])
    confusion_matrix(counts, ["a", "b"], tmp_path / "a.png")
    dark = field(drawn(tmp_path / "a.png"))
    middle = len(dark) // 2
    upper, lower = dark[:middle].sum(), dark[middle:].sum()
    assert 0.7 < upper / lower < 1.4


@pytest.mark.parametrize(("size", "same"), [(2, False), (21, True)])
def test_counts_are_written_where_there_is_room(size, same, tmp_path):
    """Two matrices of the same shares and the same sum, but of other counts."""
    for name, (first, second) in {"a": (8, 4), "b": (4, 8)}.items():
        counts = np.zeros((size, size), int)
        counts[0, :2], counts[1, :2] = first // 2, second // 4
        counts[1, 0] += second // 2
        confusion_matrix(counts, ["x"] * size, tmp_path / f"{name}.png")
    assert (drawn(tmp_path / "a.png") == drawn(tmp_path / "b.png")).all() == same


@pytest.mark.parametrize(("size", "same"), [(21, False), (61, True)])
def test_names_are_written_where_there_is_room(size, same, tmp_path):
    for name in ("a", "b"):
        confusion_matrix(np.eye(size, dtype=int), [name * 9, *["x"] * (size - 1)], tmp_path / f"{name}.png")
    pictures = [drawn(tmp_path / f"{name}.png") for name in ("a", "b")]
    assert (pictures[0].shape == pictures[1].shape and (pictures[0] == pictures[1]).all()) == same


def test_rows_without_truth_are_grey(tmp_path):
    counts = np.array([[3, 1, 0], [0, 0, 0], [0, 0, 5]])
    confusion_matrix(counts, ["a", "b", "c"], tmp_path / "a.png")
    confusion_matrix(counts + np.eye(3, dtype=int), ["a", "b", "c"], tmp_path / "b.png")
    grey = [(drawn(tmp_path / f"{name}.png") == 217).all(axis=2).sum() for name in ("a", "b")]
    assert grey[0] > 10_000 > 100 > grey[1]


def test_any_name_can_be_drawn(tmp_path):
    names = ["$x^{$", "a" * 200, "猫\nb", "", "<b>&_"]
    confusion_matrix(mostly_right(5), names, tmp_path / "a.png", title="$\\frac$")
    learning_curves({"$\\frac$": history(0.9, steps=3)}, tmp_path / "b.png", title="$\\frac$")
    assert drawn(tmp_path / "a.png").shape[1] < 2500


@pytest.mark.parametrize(("shape", "labels"), [((2, 3), 2), ((2, 2), 3), ((4,), 4), ((0, 0), 0)])
def test_counts_that_do_not_fit_the_names_are_refused(shape, labels, tmp_path):
    with pytest.raises(ValueError, match=rf"of {labels} labels has counts \({labels}, {labels}\), got \({shape[0]},"):
        confusion_matrix(np.ones(shape, int), ["x"] * labels, tmp_path / "a.png")
    assert not (tmp_path / "a.png").exists()


def test_row_shares_by_hand():
    shares = row_shares(np.array([[3, 1], [0, 0]]))
    assert shares[0].tolist() == [0.75, 0.25] and np.isnan(shares[1]).all()


def test_block_maxima_by_hand():
    nan = np.nan
    shares = np.array([[0.5, 0.5, 0.0], [0.0, 0.25, 0.75], [nan, nan, nan]])
    assert np.array_equal(block_maxima(shares, 1), shares, equal_nan=True)
    assert np.array_equal(block_maxima(shares, 2), [[0.5, 0.75], [nan, nan]], equal_nan=True)
    assert block_maxima(shares, 3).tolist() == block_maxima(shares, 5).tolist() == [[0.75]]


# Attention


def maps(count, tokens):
    """Maps whose tokens attend to themselves with one half, and to all with the other."""
    one = 0.5 * np.eye(tokens) + 0.5 / tokens
    return {f"layer {i}": one for i in range(count)}


def orange(pixels):
    return (pixels[..., 0] > 200) & (pixels[..., 2] < 120)


def dark(pixels):
    """The points of a panel that are darker blue than half of the scale, without the colour bar."""
    return (pixels[..., 0] < 60) & (pixels[..., 2] > 90) & (np.arange(pixels.shape[1]) < 0.85 * pixels.shape[1])


@pytest.mark.parametrize(("panels", "columns"), [(1, None), (6, None), (18, 9)])
@pytest.mark.parametrize("tokens", [1, 256])
def test_attention_of_any_number_of_panels_and_tokens(panels, columns, tokens, tmp_path):
    file = tmp_path / "maps.png"
    attention_grid(maps(panels, tokens), file, columns=columns, title="$x^{$")
    height, width, _ = drawn(file).shape
    assert 300 <= height <= 5000 and 1000 <= width <= 5000
    assert 5_000 < file.stat().st_size < 3_000_000


@pytest.mark.parametrize("tokens", [10, 256])
def test_attention_lies_where_it_is(tokens, tmp_path):
    for name, panel in {"own": np.eye(tokens), "mirrored": np.eye(tokens)[::-1]}.items():
        attention_grid({"a": panel}, tmp_path / f"{name}.png")
    for name, sign in {"own": 1, "mirrored": -1}.items():
        rows, columns = np.nonzero(dark(drawn(tmp_path / f"{name}.png")))
        assert sign * np.corrcoef(rows, columns)[0, 1] > 0.9


def test_only_the_chosen_output_tokens_are_drawn(tmp_path):
    panel = np.zeros((10, 10))
    panel[:5, 0], panel[5:, 9] = 1, 1
    for name, rows in {"first": range(5), "last": np.arange(5, 10), "all": None}.items():
        attention_grid({"a": panel}, tmp_path / f"{name}.png", rows=rows)
    places = {name: np.nonzero(dark(drawn(tmp_path / f"{name}.png")))[1] for name in ("first", "last", "all")}
    assert places["first"].max() < places["last"].min()
    assert set(places["all"]) == set(places["first"]) | set(places["last"])
    heights = {name: drawn(tmp_path / f"{name}.png").shape[0] for name in places}
    assert heights["first"] == heights["last"] < heights["all"]


@pytest.mark.parametrize("tokens", [10, 256])
def test_targets_are_marked_and_stay_visible(tokens, tmp_path):
    panel, targets = np.eye(tokens), np.eye(tokens, dtype=bool)
    attention_grid({"a": panel}, tmp_path / "plain.png")
    attention_grid({"a": panel}, tmp_path / "marked.png", targets=targets)
    attention_grid({"a": panel}, tmp_path / "elsewhere.png", targets=targets[::-1])
    plain, marked, elsewhere = (drawn(tmp_path / f"{name}.png") for name in ("plain", "marked", "elsewhere"))
    assert not orange(plain).any() and orange(marked).sum() > 200
    assert dark(marked).sum() > 0.8 * dark(plain).sum()
    rows, columns = np.nonzero(orange(elsewhere))
    assert np.corrcoef(rows, columns)[0, 1] < -0.9


@pytest.mark.parametrize("tokens", [10, 256])
def test_a_single_output_token_is_marked_too(tokens, tmp_path):
    last = {"rows": [tokens - 1], "targets": np.eye(tokens, dtype=bool)}
    attention_grid(maps(1, tokens), tmp_path / "a.png", **last)
    pixels = drawn(tmp_path / "a.png")
    rows, columns = np.nonzero(orange(pixels))
    height, width, _ = pixels.shape
    assert (pixels == 217).all(axis=2).sum() < 100  # the row fills its panel
    assert len(rows) > 50 and columns.min() > 0.7 * width  # at its right edge, from top to bottom
    assert np.ptp(rows) > 0.3 * height


def test_no_target_at_all_is_drawn_too(tmp_path):
    attention_grid(maps(1, 256), tmp_path / "a.png", targets=np.zeros((256, 256), dtype=bool))
    assert not orange(drawn(tmp_path / "a.png")).any()


def test_all_panels_share_a_scale(tmp_path):
    attention_grid({"strong": np.full((4, 4), 0.8), "weak": np.full((4, 4), 0.08)}, tmp_path / "a.png", columns=2)
    pixels = drawn(tmp_path / "a.png")
    middle = pixels.shape[1] // 2
    assert dark(pixels)[:, :middle].sum() > 10_000 and not dark(pixels)[:, middle:].any()


def test_rows_of_padding_are_grey(tmp_path):
    panel = np.eye(4)
    attention_grid({"a": panel}, tmp_path / "a.png")
    panel[2:] = np.nan
    attention_grid({"a": panel}, tmp_path / "b.png")
    attention_grid({"a": np.full((4, 4), np.nan)}, tmp_path / "c.png")
    grey = [(drawn(tmp_path / f"{name}.png") == 217).all(axis=2).sum() for name in ("a", "b", "c")]
    assert grey[0] < 100 and grey[2] > 1.9 * grey[1] > 100_000


def test_panels_stand_as_they_are_told(tmp_path):
    for name, columns in {"square": None, "line": 4, "column": 1}.items():
        attention_grid(maps(4, 10), tmp_path / f"{name}.png", columns=columns)
    ratios = {name: np.divide(*drawn(tmp_path / f"{name}.png").shape[:2]) for name in ("column", "square", "line")}
    assert ratios["column"] > 2 > 1.2 > ratios["square"] > 0.7 > 0.5 > ratios["line"]


@pytest.mark.parametrize(
    ("panels", "targets"),
    [
        ({}, None),
        ({"a": np.ones((2, 3))}, None),
        ({"a": np.eye(2), "b": np.eye(3)}, None),
        ({"a": np.ones((1, 2, 2))}, None),
        ({"a": np.ones((0, 0))}, None),
        ({"a": np.eye(2)}, np.ones((3, 3), dtype=bool)),
    ],
)
def test_maps_that_are_no_squares_of_one_size_are_refused(panels, targets, tmp_path):
    with pytest.raises(ValueError, match=r"All panels, and the targets, have shape \(tokens, tokens\); got \["):
        attention_grid(panels, tmp_path / "a.png", targets=targets)
    assert not (tmp_path / "a.png").exists()


@pytest.mark.parametrize(
    ("count", "room", "step"), [(10, 24, 1), (10, 6, 2), (256, 24, 20), (256, 6, 50), (5, 0.5, 5), (9999, 2, 1000)]
)
def test_as_many_tokens_are_numbered_as_can_be_read(count, room, step):
    assert tick_step(count, room) == step


def test_the_users_backend_and_figures_stay(tmp_path):
    backend, figure = matplotlib.get_backend(), pyplot.figure()
    try:
        learning_curves({"run": history(0.9)}, tmp_path / "x.png")
        confusion_matrix(np.eye(2, dtype=int), ["a", "b"], tmp_path / "x.png")
        assert matplotlib.get_backend() == backend and pyplot.get_fignums() == [figure.number]
    finally:
        pyplot.close(figure)
