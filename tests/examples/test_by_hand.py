"""The examples by hand, one a modality: each with both Trainers, on tiny rows, from the file to the answers."""

import re
import runpy
import sys
import wave

import datasets
import numpy as np
import pandas
import pytest
from conftest import EXAMPLES
from PIL import Image

pytestmark = pytest.mark.usefixtures("quiet")
SCRIPTS = sorted((EXAMPLES / "by_hand").glob("*.py"))
ROWS = 16
SIDE = [number % 2 for number in range(ROWS)]
NAMES = ["left", "right"]
CLASSES = datasets.ClassLabel(names=NAMES)
RNG = np.random.default_rng(0)


def series():
    steps = [RNG.normal(size=(8 + number % 3, 2)) + 3 * side for number, side in enumerate(SIDE)]
    return datasets.Dataset.from_dict({"values": [one.tolist() for one in steps], "label": SIDE})


def images():
    pixels = [Image.fromarray(RNG.integers(0, 100, (8, 8), dtype=np.uint8) + np.uint8(100 * side)) for side in SIDE]
    features = datasets.Features({"image": datasets.Image(), "label": CLASSES})
    return datasets.Dataset.from_dict({"image": pixels, "label": SIDE}, features=features)


def sounds(folder):
    paths = [str(folder / f"{number}.wav") for number in range(ROWS)]
    for path, side in zip(paths, SIDE, strict=True):
        with wave.open(path, "wb") as file:
            file.setparams((1, 2, 4000, 0, "NONE", ""))
            tone = np.sin(np.arange(1600) * (0.3 + side)) + RNG.normal(size=1600) / 10
            file.writeframes((tone * 9000).astype("<i2").tobytes())
    return datasets.Dataset.from_dict({"audio": paths, "label": [NAMES[side] for side in SIDE]})


def table():
    columns = {"side": np.array(SIDE) + RNG.normal(size=ROWS) / 10, "kind": ["a", "b", None, "a"] * (ROWS // 4)}
    return pandas.DataFrame(columns | {"target": 1000 + 500 * np.array(SIDE) + RNG.normal(size=ROWS)})


def texts():
    words = [["very", "not"][number % 3 % 2] + [" good film", " bad film"][side] for number, side in enumerate(SIDE)]
    return datasets.Dataset.from_dict({"text": 8 * words, "labels": 8 * [["film", NAMES[side]] for side in SIDE]})


def words():
    tokens = [["Ann", "saw", ["Paris", "films"][side]] for side in SIDE]
    tags = [["left", "right", ["left", "right"][side]] for side in SIDE]
    return datasets.Dataset.from_dict({"tokens": 8 * tokens, "tags": 8 * tags})


def symbols():
    strings = ["ACDE"[number % 3] * 3 + "XY"[side] * 4 for number, side in enumerate(SIDE)]
    return datasets.Dataset.from_dict({"sequence": strings, "label": [NAMES[side] for side in SIDE]})


ROWS_OF = {  # by the name of the example: its rows, and what it answers
    "audio_classification": (sounds, r"'label': '(left|right)'"),
    "image_classification": (images, r"'label': '(left|right)'"),
    "sequence_classification": (symbols, r"'label': '(left|right)'"),
    "tabular_regression": (table, r"\n[0-2] +\d+\.\d+"),
    "text_classification": (texts, r"'label': '(?:left|right|film)'"),
    "time_series_classification": (series, r"'label': '(left|right)'"),
    "token_classification": (words, r"\('\w+', '(left|right)'\)"),
}


def test_every_example_is_tried():
    assert [script.stem for script in SCRIPTS] == sorted(ROWS_OF)


@pytest.mark.parametrize("flags", [[], ["--stock"]], ids=["FPTTrainer", "Trainer"])
@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.stem)
def test_an_example_trains_saves_and_answers_raw_rows(script, flags, text_base, tmp_path, monkeypatch, capsys):
    make, answer = ROWS_OF[script.stem]
    rows, ending = (make(tmp_path) if make is sounds else make()), ".csv" if make is table else ".parquet"
    if make is series:
        rows = rows.cast_column("label", CLASSES)
    file = str(tmp_path / f"rows{ending}")
    rows.to_csv(file, index=False) if make is table else rows.to_parquet(file)
    monkeypatch.setattr(sys, "argv", [str(script), str(text_base), file, file, str(tmp_path / "out"), *flags])
    runpy.run_path(str(script), run_name="__main__")
    printed = capsys.readouterr().out
    said = re.search(r"^(?:accuracy|micro-F1|mean absolute error) ([\d.]+)(%?).* ([\d.]+)%?$", printed, re.MULTILINE)
    score, unit, floor = float(said[1]), said[2], float(said[3])
    assert score > floor if unit else score < floor, said[0]
    assert len(re.findall(answer, printed[said.end() :])) >= 3
