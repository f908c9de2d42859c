"""The picture of training runs: a PNG of sensible size that shows what it was given."""

import numpy as np
import pytest
from PIL import Image

from fpt_adapters.pictures import learning_curves


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
    learning_curves({"run": rows}, tmp_path / "none.png")
    assert coloured(drawn(tmp_path / "masked.png"))[0] > coloured(drawn(tmp_path / "none.png"))[0] + 300
