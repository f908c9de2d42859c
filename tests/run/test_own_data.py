"""Rows of one's own, every kind: one command trains, and the raw rows are answered from what was saved alone."""

import json
import os
import re
import shutil
import subprocess
import sys
import wave
from pathlib import Path

import datasets
import numpy as np
import pandas
import pytest
import torch
from data_files import encoded, random_pixels
from hub_server import StandInHub
from PIL import Image
from test_native import CONFIGS
from transformers import ASTFeatureExtractor, AutoConfig, AutoModel, ViTImageProcessorPil, Wav2Vec2FeatureExtractor
from transformers import pipeline as transformers_pipeline

import fpt_adapters
from fpt_adapters.inputs.audio_feature_extraction_fpt import read_wave, resampled
from fpt_adapters.run.predicting import main as predict
from fpt_adapters.run.training import main as train

ROWS = 40
QUIET = ["--use_cpu", "--disable_tqdm", "true", "--save_strategy", "no", "--max_steps", "2"]


def labels():
    return ["left" if number % 2 else "right" for number in range(ROWS)]


def series(folder, label=None, gap=False):
    rng = np.random.default_rng(0)
    values = [rng.normal(size=(12 + number % 3, 2)).tolist() for number in range(ROWS)]
    if gap:
        values[3][5][1] = None
    rows = {"values": values, "label": labels() if label is None else label}
    datasets.Dataset.from_dict(rows).to_parquet(folder / "rows.parquet")
    return folder / "rows.parquet"


def steps(folder):
    rng = np.random.default_rng(0)
    rows = [
        {"id": number, "t": step, "x": rng.normal(), "y": rng.normal(), "label": label}
        for number, label in enumerate(labels())
        for step in range(9)
    ]
    pandas.DataFrame(rows).to_csv(folder / "rows.csv", index=False)
    return folder / "rows.csv"


def archive(folder):
    lines = ["# a comment", "@problemName toy", "@classLabel true left right", "@data"]
    lines += [f"1.5,2,?,4:{number},1,1,2e-1:{label}" for number, label in enumerate(labels())]
    (folder / "rows.ts").write_text("\n".join(lines))
    return folder / "rows.ts"


def sounds(folder):
    rng = np.random.default_rng(0)
    for number, label in enumerate(labels()):
        (folder / "clips" / label).mkdir(parents=True, exist_ok=True)
        with wave.open(str(folder / "clips" / label / f"{number}.wav"), "wb") as file:
            file.setnchannels(1 + number % 2)
            file.setsampwidth(2)
            file.setframerate(8000 if number % 5 else 4000)
            file.writeframes((rng.normal(size=2000 + 100 * number) * 3000).astype("<i2").tobytes())
    return folder / "clips"


def pictures(folder):
    rng = np.random.default_rng(0)
    for number, label in enumerate(labels()):
        (folder / "photos" / label).mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (20 + number % 3, 24, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / "photos" / label / f"{number}.png")
    return folder / "photos"


def zipped(folder):
    pictures(folder)
    (folder / "photos" / "__MACOSX").mkdir()
    (folder / "photos" / "__MACOSX" / "1.png").write_bytes(b"no picture")
    return Path(shutil.make_archive(str(folder / ".hidden" / "all"), "zip", folder, "photos"))


def paths(folder):
    files = [file.relative_to(folder) for file in sorted(pictures(folder).rglob("*.png"))]
    rows = {"image": map(str, files), "label": [file.parent.name for file in files]}
    pandas.DataFrame(rows).to_csv(folder / "rows.csv", index=False)
    return folder / "rows.csv"


NUMBERS = [float(number) * 1000 for number in range(ROWS)]
DATA = {  # task, what writes its rows, more flags
    "series": ("time-series-classification", series, []),
    "series with gaps": ("time-series-classification", lambda folder: series(folder, gap=True), []),
    "series in long form": ("time-series-classification", steps, ["--id_column", "id", "--step_column", "t"]),
    "series of the archive": ("time-series-classification", archive, []),
    "series to a number": ("time-series-regression", lambda folder: series(folder, NUMBERS), []),
    "series to two numbers": (
        "time-series-regression",
        lambda folder: series(folder, [[number, -number] for number in NUMBERS]),
        [],
    ),
    "series with several labels": (
        "time-series-classification",
        lambda folder: series(folder, [["a"] * (number % 2) + ["b"] * (number % 3 > 0) for number in range(ROWS)]),
        [],
    ),
    "sound": ("audio-classification", sounds, ["--mel_bands", "8"]),
    "waves": ("audio-classification", sounds, ["--mel_bands", "1", "--max_seconds", "0.2", "--patch_length", "200"]),
    "pictures": ("image-classification", pictures, []),
    "pictures in a zip": ("image-classification", zipped, []),
    "paths of pictures": ("image-classification", paths, []),
    "grey pictures": ("image-classification", pictures, ["--num_channels", "1", "--image_size", "16"]),
}


@pytest.fixture(autouse=True)
def cache_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def flags(task, base, file, folder, *more):
    rows = ["--task_name", task, "--model_name_or_path", str(base), "--train_file", str(file)]
    return [*rows, "--output_dir", str(folder), *QUIET, *more]


def raw_rows(file, folder):
    """Rows as a person has them: of a table, or the paths of files below `folder`."""
    if files := sorted([*folder.glob("photos/*t/*.png"), *folder.glob("clips/*/*.wav")]):
        return datasets.Dataset.from_dict({"file": [str(one) for one in files]})
    if file.suffix == ".ts":
        return [[[1.5, 3], [2, 1], [None, 1], [4, 0.2]]]
    data = datasets.load_dataset(file.suffix[1:], data_files=str(file), split="train")
    if file.suffix == ".csv":
        return [pandas.read_csv(file).query("id == 1")[["x", "y"]].to_numpy()]
    return data


@pytest.mark.parametrize(("task", "write", "more"), DATA.values(), ids=DATA)
def test_one_command_trains_and_the_raw_rows_are_answered_from_what_was_saved(
    task, write, more, saved_base, tmp_path, capsys
):
    file = write(tmp_path)
    results = train(flags(task, saved_base, file, tmp_path / "out", "--do_train", "--do_eval", "--do_predict", *more))
    assert np.isfinite(results["train_loss"]) and {"eval_floor", "test_floor"} <= results.keys()
    assert "column 'label'" in capsys.readouterr().out  # what was found is said
    answering = fpt_adapters.pipeline(tmp_path / "out", base_model_name_or_path=saved_base)
    rows = raw_rows(file, tmp_path)
    answers = answering(rows, batch_size=7)
    assert len(answers) == len(rows)
    for answer, alone in zip(answers, answering(rows, batch_size=1), strict=True):
        scores, expected = [*answer.values()][-1], [*alone.values()][-1]
        assert scores == pytest.approx(expected, rel=1e-4, abs=1e-4)
    config = answering.model.config
    for answer in answers:
        if config.problem_type == "regression":
            assert list(answer) == list(config.id2label.values()) and np.isfinite([*answer.values()]).all()
        elif config.problem_type == "multi_label_classification":
            assert set(answer["labels"]) <= {"a", "b"} and set(answer["scores"]) == {"a", "b"}
        else:
            assert answer["label"] in ("left", "right") and 0.5 <= answer["score"] <= 1


def broken_sound(folder):
    (sounds(folder) / "left" / "1.wav").write_bytes(b"no sound")
    return folder / "clips"


def broken_picture(folder):
    file = pictures(folder) / "left" / "1.png"
    file.write_bytes(file.read_bytes()[:100])
    return folder / "photos"


def short_sound(folder):
    with wave.open(str(sounds(folder) / "left" / "1.wav"), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(b"\x01\x00" * 9)
    return folder / "clips"


NATIVE = {  # task, what writes its rows, family, the base's own processor (None: random weights), tokens
    "pictures": ("image-classification", pictures, "vit", ViTImageProcessorPil(size={"height": 8, "width": 8}), 5),
    "waves": ("audio-classification", sounds, "wav2vec2", Wav2Vec2FeatureExtractor(), 318),
    "mels": (
        *("audio-classification", sounds, "audio-spectrogram-transformer"),
        *(ASTFeatureExtractor(num_mel_bins=8, max_length=16), 10),
    ),
    "pictures, random": ("image-classification", pictures, "vit", None, 5),
    "waves, random": ("audio-classification", sounds, "hubert", None, 318),
    "mels, random": ("audio-classification", sounds, "audio-spectrogram-transformer", None, 10),
    "Whisper's mels, random": ("audio-classification", sounds, "whisper", None, 10),
}


@pytest.fixture
def native_flags(tmp_path):
    """A function that saves a tiny base with its processor, and gives the flags of a run that it reads natively."""

    def save(task, write, family, processor, *more):
        config, file, base = AutoConfig.for_model(family, **CONFIGS[family]), write(tmp_path), tmp_path / "base"
        more = ["--do_train", "--input_type", "native", *more]
        if processor is None:
            described = ["--backbone_config", json.dumps(CONFIGS[family] | {"model_type": family})]
            rows = ["--task_name", task, "--train_file", str(file), "--output_dir", str(tmp_path / "out"), *QUIET]
            return [*rows, *described, "--backbone_init", "random", *more]
        torch.manual_seed(1)
        AutoModel.from_config(config).save_pretrained(base)
        processor.save_pretrained(base)
        return flags(task, base, file, tmp_path / "out", *more)

    return save


@pytest.mark.parametrize(("task", "write", "family", "processor", "tokens"), NATIVE.values(), ids=NATIVE)
def test_a_base_reads_natively_what_it_was_made_for(task, write, family, processor, tokens, native_flags, tmp_path):
    more = ["--max_seconds", "0.2"] if tokens == 318 else []
    results = train([*native_flags(task, write, family, processor, *more), "--do_eval"])
    assert np.isfinite([results["train_loss"], results["eval_loss"]]).all()
    place = {} if processor is None else {"base_model_name_or_path": str(tmp_path / "base")}
    answering = fpt_adapters.pipeline(tmp_path / "out", **place)
    assert answering.model.config.input_type == "native" and answering.model.config.num_tokens == tokens
    files = sorted(str(one) for one in write(tmp_path).rglob("*.*"))[:3]
    answers = answering(datasets.Dataset.from_dict({"file": files}), batch_size=1)
    stock = transformers_pipeline(task, model=str(tmp_path / "out"), model_kwargs=place)
    for file, answer in zip(files, answers, strict=True):
        if task == "audio-classification":
            extractor = stock.feature_extractor  # whose pipeline cuts nothing
            file = resampled(*read_wave(file, "clip"), extractor.sampling_rate)[: 3200 if tokens == 318 else None]
        best = max(stock(file), key=lambda one: one["score"])
        assert (best["label"], best["score"]) == (answer["label"], pytest.approx(answer["score"], abs=1e-5))
    if processor is None:  # the card's own code finds all that it needs
        card = (tmp_path / "out" / "README.md").read_text().replace("your-name/out", str(tmp_path / "out"))
        exec(re.search(r"From an? [a-z ]+ to [a-z]+:\n\n```python\n(.*?)```", card, re.DOTALL)[1], {})
    datasets.Dataset.from_dict({"file": files}).to_csv(tmp_path / "new.csv")
    new = ["--file", str(tmp_path / "new.csv"), "--output", str(tmp_path / "answers.csv"), "--model"]
    assert predict([*new, str(tmp_path / "out"), *[f"--{name}={value}" for name, value in place.items()]]) == 3


SMALL = ViTImageProcessorPil(size={"height": 12, "width": 12})
NOT_NATIVE = {  # task, rows, family, its processor, more flags, message
    "a language model": (
        "image-classification",
        pictures,
        "gpt2",
        SMALL,
        [],
        r"made for pictures \(deit, .*vit.* gpt2 is",
    ),
    "sound for pictures": ("image-classification", pictures, "hubert", SMALL, [], "and hubert is none"),
    "pictures for sound": (
        "audio-classification",
        sounds,
        "vit",
        SMALL,
        [],
        r"made for sound \(data2vec-audio, .*whisper",
    ),
    "another size": (
        "image-classification",
        pictures,
        "vit",
        SMALL,
        [],
        r"of \(3, 8, 8\), but .* gives \(3, 12, 12\)",
    ),
    "a patch": ("image-classification", pictures, "vit", SMALL, ["--patch_size", "4"], "--patch_size is for patches"),
    "a size": ("image-classification", pictures, "vit", SMALL, ["--image_size", "8"], "--image_size is for patches"),
    "bands": ("audio-classification", sounds, "hubert", SMALL, ["--mel_bands", "8"], "--mel_bands is for patches"),
    "a rate": (
        *("audio-classification", sounds, "hubert", Wav2Vec2FeatureExtractor(), ["--sampling_rate", "8000"]),
        "reads sound at 16000 Hz, got --sampling_rate 8000",
    ),
    "seconds of mels": (
        *("audio-classification", sounds, "audio-spectrogram-transformer", None, ["--max_seconds", "1"]),
        "reads clips of one length: leave --max_seconds out",
    ),
    "a broken picture": ("image-classification", broken_picture, "vit", None, [], r"row 0 of .* cannot be decoded"),
    "too short a wave": (
        "audio-classification",
        short_sound,
        "hubert",
        None,
        [],
        r"row 0 of .* makes no token of hubert",
    ),
}


@pytest.mark.parametrize(
    ("task", "write", "family", "processor", "more", "message"), NOT_NATIVE.values(), ids=NOT_NATIVE
)
def test_what_a_base_cannot_read_natively_is_said(
    task, write, family, processor, more, message, native_flags, tmp_path
):
    with pytest.raises(ValueError) as error:
        train(native_flags(task, write, family, processor, *more))
    assert re.search(message, str(error.value)), error.value
    assert not Path(tmp_path / "out").exists()


def test_a_base_without_its_processor_is_said(native_flags, tmp_path):
    given = native_flags("image-classification", pictures, "vit", SMALL)
    (tmp_path / "base" / "preprocessor_config.json").unlink()
    with pytest.raises(ValueError, match=r"has no preprocessor_config\.json beside its weights, .*: copy it there"):
        train(given)


@pytest.mark.slow
def test_a_data_set_of_the_hub_is_read_by_its_id(saved_base, tmp_path):
    features = datasets.Features({"image": datasets.Image(), "kind": datasets.Value("string")})
    files = {}
    for split, count in (("train", ROWS), ("test", 10)):
        rows = {"image": [{"bytes": encoded(one), "path": None} for one in random_pixels(count, (8, 8, 3))]}
        rows["kind"] = labels()[:count]
        datasets.Dataset.from_dict(rows, features=features).to_parquet(tmp_path / "part.parquet")
        files[f"data/{split}-00000-of-00001.parquet"] = (tmp_path / "part.parquet").read_bytes()
    given = ["--dataset_name", "owner/rows", "--label_column", "kind", "--do_train", "--do_predict", "--output_dir"]
    given = ["--task_name", "image-classification", "--model_name_or_path", str(saved_base), *given, "out", *QUIET]
    with StandInHub() as hub:
        hub.add_repo("owner/rows", files, repo_type="dataset")
        environment = hub.environment(tmp_path) | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-m", "fpt_adapters", "train", *given]
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=200)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "36 to train on, 4 to validate, 10 to test" in done.stdout
    assert "owner/rows" in (tmp_path / "out" / "README.md").read_text()


def test_waves_are_cut_where_the_flag_says_and_a_delta_goes_on(native_flags, tmp_path):
    given = native_flags(
        "audio-classification", sounds, "wav2vec2", Wav2Vec2FeatureExtractor(), "--max_seconds", "0.1"
    )
    train(given)
    answering = fpt_adapters.pipeline(tmp_path / "out", base_model_name_or_path=tmp_path / "base")
    assert answering.model.config.sequence_length == answering.processor.max_length == 1600
    again = [
        {str(tmp_path / "base"): str(tmp_path / "out"), str(tmp_path / "out"): str(tmp_path / "more")}.get(one, one)
        for one in given
    ]
    train([*again, "--base_model_name_or_path", str(tmp_path / "base")])
    assert (tmp_path / "more" / "model.safetensors").is_file()


def test_a_regression_answers_in_the_datas_units(saved_base, tmp_path):
    file = series(tmp_path, NUMBERS)
    results = train(flags("time-series-regression", saved_base, file, tmp_path / "out", "--do_train", "--do_eval"))
    answers = fpt_adapters.pipeline(tmp_path / "out", base_model_name_or_path=saved_base)(raw_rows(file, tmp_path))
    numbers = np.array([answer["label"] for answer in answers])
    assert abs(numbers.mean() - np.mean(NUMBERS)) < 2 * np.std(NUMBERS)
    assert results["eval_mse"] > 1e6 and results["eval_loss"] < 100  # in the data's units, and in none


def test_paths_in_a_file_are_relative_to_it(saved_base, tmp_path, monkeypatch):
    file = paths(tmp_path)
    train(flags("image-classification", saved_base, file, tmp_path / "out", "--do_train"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    new = ["--model", str(tmp_path / "out"), "--base_model_name_or_path", str(saved_base), "--file", str(file)]
    assert predict([*new, "--output", "answers.csv"]) == ROWS


@pytest.mark.parametrize("ending", ["csv", "jsonl", "parquet"])
def test_answers_stand_beside_the_rows_of_a_file(ending, saved_base, tmp_path):
    file = series(tmp_path)
    train(flags("time-series-classification", saved_base, file, tmp_path / "out", "--do_train"))
    new = ["--model", str(tmp_path / "out"), "--base_model_name_or_path", str(saved_base), "--file", str(file)]
    output = tmp_path / f"answers.{ending}"
    assert predict([*new, "--output", str(output), "--batch_size", "7"]) == ROWS
    read = {"csv": pandas.read_csv, "parquet": pandas.read_parquet, "jsonl": pandas.read_json}[ending]
    answers = read(output, lines=True) if ending == "jsonl" else read(output)
    assert list(answers.columns) == ["label", "predicted_label", "predicted_score"]
    assert answers["label"].tolist() == labels() and set(answers["predicted_label"]) <= {"left", "right"}
    with pytest.raises(ValueError, match="nothing is overwritten"):
        predict([*new, "--output", str(output)])


def test_a_wrong_row_is_named_and_leaves_no_answers(saved_base, tmp_path):
    file = series(tmp_path)
    train(flags("time-series-classification", saved_base, file, tmp_path / "out", "--do_train"))
    values = [[[1.0, 2.0]], [[1.0, 2.0, 3.0]]]
    datasets.Dataset.from_dict({"values": values}).to_parquet(tmp_path / "new.parquet")
    new = ["--model", str(tmp_path / "out"), "--base_model_name_or_path", str(saved_base)]
    new += ["--file", str(tmp_path / "new.parquet"), "--output", str(tmp_path / "answers.csv")]
    with pytest.raises(ValueError, match=r"^row 1 of .*new\.parquet: a sequence has shape"):
        predict(new)
    assert not (tmp_path / "answers.csv").exists()


def test_a_wrong_cell_is_named_by_its_row_in_the_file(saved_base, tmp_path):
    table = pandas.DataFrame({"area": np.arange(ROWS) + 0.5, "label": labels()})
    table.to_csv(tmp_path / "rows.csv", index=False)
    train(flags("tabular-classification", saved_base, tmp_path / "rows.csv", tmp_path / "out", "--do_train"))
    table["area"] = table["area"].astype(object)
    table.loc[9, "area"] = "big"
    table.to_csv(tmp_path / "new.csv", index=False)
    new = ["--model", str(tmp_path / "out"), "--base_model_name_or_path", str(saved_base), "--batch_size", "4"]
    new += ["--file", str(tmp_path / "new.csv"), "--output", str(tmp_path / "answers.csv")]
    with pytest.raises(ValueError, match=r"^row 9 of .*new\.csv: column 'area' .* row 9 has 'big'"):
        predict(new)


def change(file, edit):
    rows = pandas.read_csv(file)
    edit(rows)
    rows.to_csv(file, index=False)


def loose_picture(folder):
    (pictures(folder) / "left" / "1.png").rename(folder / "photos" / "1.png")
    return folder / "photos"


def one_step_late(folder):
    change(steps(folder), lambda rows: rows.__setitem__("t", rows["t"].where(rows.index != 10, 0)))
    return folder / "rows.csv"


def one_label_else(folder):
    change(steps(folder), lambda rows: rows.__setitem__("label", rows["label"].where(rows.index != 10, "up")))
    return folder / "rows.csv"


def text_channel(folder):
    change(steps(folder), lambda rows: rows.__setitem__("x", rows["x"].astype(object).where(rows.index != 3, "high")))
    return folder / "rows.csv"


LONG = ["--id_column", "id", "--step_column", "t"]
WRONG = {  # task, rows, more flags, message
    "sound that is none": (
        "audio-classification",
        broken_sound,
        [],
        r"row 0 of .*column 'audio' cannot be read as one",
    ),
    "picture that is cut off": ("image-classification", broken_picture, [], r"row 0 of .*'image' cannot be decoded"),
    "picture outside a class": ("image-classification", loose_picture, [], r"'1\.png' lies outside one"),
    "time that goes back": ("time-series-classification", one_step_late, LONG, r"row 10 of .* has 0 in column 't'"),
    "two labels": ("time-series-classification", one_label_else, LONG, "row 10 of .* has 'up' after 'left'"),
    "text in a channel": ("time-series-classification", text_channel, LONG, "row 3 of .* has 'high' in column 'x'"),
    "ragged steps": (
        "time-series-classification",
        lambda folder: ragged(folder),
        [],
        r"column 'values' of row 2 of .* have \[1, 2\]",
    ),
    "numbers for a classifier": (
        "time-series-classification",
        lambda folder: series(folder, NUMBERS),
        [],
        "time-series-classification has labels that are",
    ),
}


def ragged(folder):
    values = [[[1.0, 2.0]] * 5 for _ in range(ROWS)]
    values[2] = [[1.0], [1.0, 2.0]]
    datasets.Dataset.from_dict({"values": values, "label": labels()}).to_parquet(folder / "rows.parquet")
    return folder / "rows.parquet"


@pytest.mark.parametrize(("task", "write", "more", "message"), WRONG.values(), ids=WRONG)
def test_wrong_rows_are_named_before_training(task, write, more, message, saved_base, tmp_path):
    with pytest.raises(ValueError) as error:
        train(flags(task, saved_base, write(tmp_path), tmp_path / "out", "--do_train", *more))
    assert re.search(message, str(error.value)), error.value
    assert not Path(tmp_path / "out").exists()


MISSING = {  # a column that is not there: more flags, what to write
    "group": ["--group_column", "speaker"],
    "time": ["--time_column", "speaker"],
    "values": ["--values_column", "speaker"],
    "label": ["--label_column", "speaker"],
    "id": ["--id_column", "speaker"],
}


@pytest.mark.parametrize("more", MISSING.values(), ids=MISSING)
def test_a_column_that_is_not_there_is_named_with_its_flag(more, saved_base, tmp_path):
    with pytest.raises(ValueError, match=f"has no column 'speaker' but .*: write one of these as {more[0]}"):
        train(flags("time-series-classification", saved_base, series(tmp_path), tmp_path / "out", "--do_train", *more))


def test_a_column_that_only_the_test_rows_lack_is_named_with_its_flag(saved_base, tmp_path):
    datasets.Dataset.from_dict({"series": [[1.0]], "label": ["left"]}).to_parquet(tmp_path / "test.parquet")
    more = ["--do_train", "--test_file", str(tmp_path / "test.parquet")]
    with pytest.raises(ValueError, match=r"the test split .* has no column 'values' .* as --values_column"):
        train(flags("time-series-classification", saved_base, series(tmp_path), tmp_path / "out", *more))


def test_a_group_is_in_one_split(saved_base, tmp_path):
    rows = {"values": [[1.0, 2.0, float(number)] for number in range(ROWS)], "label": labels()}
    rows["speaker"] = [f"speaker {number // 4}" for number in range(ROWS)]
    for split in ("train", "test"):
        datasets.Dataset.from_dict(rows).to_parquet(tmp_path / f"{split}.parquet")
    more = ["--do_train", "--group_column", "speaker"]
    task = "time-series-classification"
    train(flags(task, saved_base, tmp_path / "train.parquet", tmp_path / "out", *more))
    more += ["--test_file", str(tmp_path / "test.parquet")]
    with pytest.raises(ValueError, match="'speaker 0' in column 'speaker' is in the training rows and in the test"):
        train(flags(task, saved_base, tmp_path / "train.parquet", tmp_path / "again", *more))


def test_the_loss_of_numbers_has_no_scale():
    """The same data in other units gives the same loss and gradient, and answers in its own units."""
    from conftest import tiny_config

    outputs = []
    for unit in (1.0, 1000.0):
        torch.manual_seed(0)
        model = fpt_adapters.FPTForSequenceClassification.from_backbone(
            tiny_config("gpt2"), backbone_init="random", input_type="values", input_size=3, sequence_length=4,
            num_labels=2, label_mean=[5 * unit, unit], label_scale=[unit, 2 * unit],
        ).eval()  # fmt: skip
        labels = torch.tensor([[5.0, 2.0], [3.0, -1.0]]) * unit
        output = model(input_values=torch.ones(2, 4, 3), labels=labels)
        output.loss.backward()
        outputs.append((output.loss.detach(), output.logits.detach() / unit, model.head.weight.grad))
    for one, other in zip(*outputs, strict=True):
        torch.testing.assert_close(one, other)


def test_the_report_of_a_finished_run_names_every_floor(saved_base, tmp_path):
    file = series(tmp_path)
    train(flags("time-series-classification", saved_base, file, tmp_path / "out", "--do_train", "--do_eval"))
    written = json.loads((tmp_path / "out" / "all_results.json").read_text())
    assert {"eval_floor_accuracy", "eval_floor_macro_f1", "eval_accuracy", "eval_macro_f1"} <= written.keys()
    assert written["eval_floor"] == written["eval_floor_accuracy"]
    card = (tmp_path / "out" / "README.md").read_text()
    assert "fpt_task: time-series-classification" in card and "--task_name time-series-classification" in card
