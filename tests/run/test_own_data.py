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
from fpt_adapters.run.predicting import Writer
from fpt_adapters.run.predicting import main as predict
from fpt_adapters.run.training import main as train
from fpt_adapters.tasks import TabularClassification, TimeSeriesClassification

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


def flat(answer):
    """The numbers of an answer, one level of names."""
    numbers = {name: value for name, value in answer.items() if isinstance(value, float)}
    return numbers | answer.get("scores", {})


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
    for batch_size in (1, len(rows)):  # no answer depends on the batch it stands in
        for answer, again in zip(answers, answering(rows, batch_size=batch_size), strict=True):
            assert flat(again) == pytest.approx(flat(answer), rel=1e-3, abs=1e-4)
    if isinstance(rows, datasets.Dataset):  # one record by itself has one answer
        assert flat(answering({**rows[0], "row": 0})) == pytest.approx(flat(answers[0]), rel=1e-3, abs=1e-4)
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
    "a size": (
        "image-classification",
        pictures,
        "vit",
        None,
        ["--image_size", "9"],
        "images of 8 x 8 pixels, got --image_size 9",
    ),
    "bands": ("audio-classification", sounds, "hubert", SMALL, ["--mel_bands", "8"], "--mel_bands is for patches"),
    "a rate": (
        *("audio-classification", sounds, "hubert", Wav2Vec2FeatureExtractor(), ["--sampling_rate", "8000"]),
        "reads sound at 16000 Hz, got --sampling_rate 8000",
    ),
    "seconds of mels": (
        *("audio-classification", sounds, "audio-spectrogram-transformer", None, ["--max_seconds", "1"]),
        "reads clips of one length: leave --max_seconds out",
    ),
    "a broken picture": (
        "image-classification",
        broken_picture,
        "vit",
        None,
        [],
        r"left/1\.png of .* cannot be decoded",
    ),
    "too short a wave": (
        "audio-classification",
        short_sound,
        "hubert",
        None,
        [],
        r"left/1\.wav of .* makes no token of hubert",
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


def test_series_in_long_form_are_answered_one_by_one(saved_base, tmp_path):
    file = steps(tmp_path)
    train(flags("time-series-classification", saved_base, file, tmp_path / "out", "--do_train", *LONG))
    new = ["--model", str(tmp_path / "out"), "--base_model_name_or_path", str(saved_base), "--batch_size", "7", *LONG]
    output = tmp_path / "answers.csv"
    assert predict([*new, "--file", str(file), "--input_column", "x,y", "--output", str(output)]) == ROWS
    answers = pandas.read_csv(output)
    assert answers["id"].tolist() == list(range(ROWS))
    answering = fpt_adapters.pipeline(tmp_path / "out", base_model_name_or_path=saved_base)
    values = [part[["x", "y"]].to_numpy() for _, part in pandas.read_csv(file).groupby("id")]
    assert answers["predicted_score"].tolist() == pytest.approx([one["score"] for one in answering(values)], abs=1e-5)
    for number, (write, message) in enumerate(
        (
            (cell("t", 11, 0), "row 11 of .* has 0 in column 't' after 1"),
            (cell("x", 30, "high"), "row 30 of .* has 'high' in column 'x': mend it"),
            (by_time, "row 40 of .* is of series 0 again"),
        )
    ):
        wrong = ["--file", str(write(tmp_path)), "--input_column", "x,y", "--output", f"{output}.{number}.csv"]
        with pytest.raises(ValueError, match=message):
            predict([*new, *wrong])


def test_paths_in_a_file_are_relative_to_it(saved_base, tmp_path, monkeypatch):
    file = paths(tmp_path)
    train(flags("image-classification", saved_base, file, tmp_path / "out", "--do_train"))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    new = ["--model", str(tmp_path / "out"), "--base_model_name_or_path", str(saved_base), "--file", str(file)]
    assert predict([*new, "--output", "answers.csv"]) == ROWS


def test_one_row_has_one_answer_and_what_may_be_several_is_refused(saved_base, tmp_path):
    folder = pictures(tmp_path)
    train(flags("image-classification", saved_base, folder, tmp_path / "out", "--do_train"))
    answering = fpt_adapters.pipeline(tmp_path / "out", base_model_name_or_path=saved_base)
    file = folder / "left" / "1.png"
    image = Image.open(file).copy()
    for one in (file, str(file), file.read_bytes(), image, {"path": str(file)}, {"image": image, "id": 3}):
        assert answering(one) == answering([image])[0]
    stream = datasets.Dataset.from_dict({"file": [str(file)] * 3}).to_iterable_dataset()
    assert answering(stream, batch_size=2) == answering([image] * 3)
    for wrong, message in (
        ({"image": [image, image]}, r"each value of this one is a list: write \[record\]"),
        (np.asarray(image), r"looks like one image: write \[array\]"),
        ([image, 3], "row 1 is 3"),
        (None, "got NoneType"),
        (pandas.DataFrame({"one": [image], "other": [image]}), "columns one, other: write which"),
    ):
        with pytest.raises(ValueError, match=message):
            answering(wrong)


def test_a_file_of_rows_is_answered_by_a_model_of_series(saved_base, tmp_path):
    file = archive(tmp_path)
    train(flags(SERIES, saved_base, file, tmp_path / "out", "--do_train"))
    answering = fpt_adapters.pipeline(tmp_path / "out", base_model_name_or_path=saved_base)
    lines = file.read_text().replace("@classLabel true left right", "@classLabel false").splitlines()
    (tmp_path / "new.ts").write_text("\n".join(line.removesuffix(":left").removesuffix(":right") for line in lines))
    assert answering(str(file)) == answering(tmp_path / "new.ts") and len(answering(file)) == ROWS
    with pytest.raises(ValueError, match=r"'no.ts' is not there"):
        answering("no.ts")


@pytest.mark.parametrize("write", [pictures, zipped])
def test_a_folder_of_files_is_answered_file_by_file(write, saved_base, tmp_path, monkeypatch):
    rows = write(tmp_path)
    train(flags("image-classification", saved_base, rows, tmp_path / "out", "--do_train"))
    new = ["--model", str(tmp_path / "out"), "--base_model_name_or_path", str(saved_base)]
    monkeypatch.chdir(tmp_path / "out")  # paths are relative to the folder that was named
    assert predict([*new, "--file", str(rows), "--output", "answers.csv", "--batch_size", "7"]) == ROWS
    answers = pandas.read_csv("answers.csv")
    answering = fpt_adapters.pipeline(tmp_path / "out", base_model_name_or_path=saved_base)
    files = sorted((tmp_path / "photos").glob("*t/*.png"))
    assert [Path(name).name for name in answers["file"]] == [file.name for file in files]
    assert answers["predicted_score"].tolist() == pytest.approx([one["score"] for one in answering(files)], abs=1e-5)
    assert predict([*new, "--file", str(files[0]), "--output", "one.csv"]) == 1


NO_ROWS = {  # what stands in a file -> what is said of it
    "nothing": ("", "rows.csv' cannot be read: No columns"),
    "a header": ("area,note\n", "rows.csv has no rows"),
    "a row too long": ("area\n1\n1,2,3\n", "rows.csv' cannot be read: .* line 3"),
}


@pytest.mark.parametrize(("text", "message"), NO_ROWS.values(), ids=NO_ROWS)
@pytest.mark.filterwarnings("ignore")
def test_a_file_that_cannot_be_answered_is_named_and_leaves_nothing(text, message, saved_base, tmp_path):
    table = pandas.DataFrame({"area": np.arange(ROWS) + 0.5, "label": labels()})
    table.to_csv(tmp_path / "train.csv", index=False)
    train(flags(TABLE, saved_base, tmp_path / "train.csv", tmp_path / "out", "--do_train"))
    new = ["--model", str(tmp_path / "out"), "--base_model_name_or_path", str(saved_base)]
    (tmp_path / "rows.csv").write_text(text)
    with pytest.raises(ValueError, match=message):
        predict([*new, "--file", str(tmp_path / "rows.csv"), "--output", str(tmp_path / "answers.csv")])
    with pytest.raises(ValueError, match="photos' is a folder"):
        predict([*new, "--file", str(pictures(tmp_path)), "--output", str(tmp_path / "answers.csv")])
    assert not [*tmp_path.glob("answers*")]


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


def test_a_wrong_row_in_the_middle_leaves_the_answers_before_it(saved_base, tmp_path):
    table = pandas.DataFrame({"area": np.arange(ROWS) + 0.5, "label": labels()})
    table.to_csv(tmp_path / "rows.csv", index=False)
    train(flags("tabular-classification", saved_base, tmp_path / "rows.csv", tmp_path / "out", "--do_train"))
    table["area"] = table["area"].astype(object)
    table.loc[9, "area"] = "big"
    table.to_csv(tmp_path / "new.csv", index=False)
    new = ["--model", str(tmp_path / "out"), "--base_model_name_or_path", str(saved_base), "--batch_size", "4"]
    new += ["--file", str(tmp_path / "new.csv"), "--output", str(tmp_path / "answers.csv")]
    with pytest.raises(ValueError, match=r"^row 9 of .*new\.csv: column 'area' .* row 9 has 'big'.*8 rows .*\.part\."):
        predict(new)
    assert pandas.read_csv(tmp_path / "answers.csv.part")["area"].tolist() == table["area"][:8].tolist()


def test_columns_of_a_file_are_kept_whatever_comes_later(saved_base, tmp_path):
    """Text that grows long, a column that begins empty, and dates; a parquet file says what it cannot hold."""
    table = pandas.DataFrame({"area": np.arange(ROWS) + 0.5, "label": labels()})
    table.to_csv(tmp_path / "rows.csv", index=False)
    train(flags("tabular-classification", saved_base, tmp_path / "rows.csv", tmp_path / "out", "--do_train"))
    table["note"] = [None] * 8 + ["long " * 400] * (ROWS - 8)
    table["day"] = pandas.Timestamp("2024-12-31")
    table.to_parquet(tmp_path / "new.parquet")
    place = ["--model", str(tmp_path / "out"), "--base_model_name_or_path", str(saved_base), "--batch_size", "4"]
    for ending, read in (("csv", pandas.read_csv), ("parquet", pandas.read_parquet)):
        output = tmp_path / f"answers.{ending}"
        assert predict([*place, "--file", str(tmp_path / "new.parquet"), "--output", str(output)]) == ROWS
        answers = read(output)
        assert answers["note"].isna().tolist() == table["note"].isna().tolist()
        assert answers["note"][9] == table["note"][9] and pandas.Timestamp(answers["day"][0]) == table["day"][0]
    with Writer(tmp_path / "mixed.parquet", ".parquet") as writer:
        writer.write({"code": [1, 2]})
        with pytest.raises(ValueError, match=r"later ones differ .* write --output with a name that ends in \.csv"):
            writer.write({"code": ["x"]})


INF = float("inf")


def cell(column, row, value):
    """A function that writes steps in long form with one cell changed."""

    def write(folder):
        rows = pandas.read_csv(steps(folder)).astype(object)
        rows.loc[row, column] = value
        rows.to_csv(folder / "rows.csv", index=False)
        return folder / "rows.csv"

    return write


def by_time(folder):
    pandas.read_csv(steps(folder)).sort_values(["t", "id"]).to_csv(folder / "rows.csv", index=False)
    return folder / "rows.csv"


def no_label(folder):
    rows = pandas.read_csv(steps(folder))
    rows["label"] = rows["label"].mask(rows["id"] == 1)
    rows.to_csv(folder / "rows.csv", index=False)
    return folder / "rows.csv"


def step(value):
    """A function that writes series, one of them with another step."""

    def write(folder):
        values = [[[1.0 * number, 2.0]] * 5 for number in range(ROWS)]
        values[2] = value
        datasets.Dataset.from_dict({"values": values, "label": labels()}).to_parquet(folder / "rows.parquet")
        return folder / "rows.parquet"

    return write


def line(text):
    """A function that writes an archive's file with another last line."""

    def write(folder):
        archive(folder).write_text("@classLabel true left right\n@data\n1,2:left\n1,3:right\n" + text)
        return folder / "rows.ts"

    return write


def csv(text):
    """A function that writes this file."""

    def write(folder):
        (folder / "rows.csv").write_text(text)
        return folder / "rows.csv"

    return write


def loose_picture(folder):
    (pictures(folder) / "left" / "1.png").rename(folder / "photos" / "1.png")
    return folder / "photos"


LONG = ["--id_column", "id", "--step_column", "t"]
SERIES, TABLE = "time-series-classification", "tabular-classification"
WRONG = {  # task, rows, more flags, message
    "sound that is none": (
        "audio-classification",
        broken_sound,
        [],
        r"left/1\.wav of .*column 'audio' cannot be read as one",
    ),
    "picture that is cut off": ("image-classification", broken_picture, [], r"left/1\.png of .* cannot be decoded"),
    "pictures of one class": (
        "image-classification",
        lambda folder: [shutil.rmtree(pictures(folder) / "left"), folder / "photos"][1],
        [],
        "folder of one class only, 'right'",
    ),
    "a folder that is not there": ("image-classification", lambda folder: folder / "no", [], "no' is not there"),
    "a folder for a table": (TABLE, pictures, [], "is a file here, but .* is a folder"),
    "picture outside a class": ("image-classification", loose_picture, [], r"'1\.png' lies outside one"),
    "time that goes back": (SERIES, cell("t", 11, 0), LONG, r"row 11 of .* has 0 in column 't' after 1 in row 10"),
    "time that stands still": (SERIES, cell("t", 10, 0), LONG, r"row 10 of .* has 0 .* after 0 .*drop one of the two"),
    "time that is missing": (SERIES, cell("t", 10, None), LONG, "row 10 of .* has none in column 't'"),
    "time that is text": (
        SERIES,
        cell("t", 10, "soon"),
        LONG,
        "times are numbers or dates, but row 10 of .* has 'soon'",
    ),
    "rows apart without a time": (SERIES, by_time, LONG[:2], "series 0 goes on in row 40 of .* write --step_column"),
    "id that is missing": (SERIES, cell("id", 10, None), LONG, "row 10 of .* has no id in column 'id'"),
    "two labels": (SERIES, cell("label", 10, "up"), LONG, "row 10 of .* has 'up' after 'left' in row 9"),
    "no label": (SERIES, no_label, LONG, r"series 1 \(row 9 and on\) of .* has none in column 'label'"),
    "text in a channel": (SERIES, cell("x", 3, "high"), LONG, "row 3 of .* has 'high' in column 'x'"),
    "infinity in a channel": (SERIES, cell("x", 3, INF), LONG, "row 3 of .* has inf in column 'x'"),
    "ragged steps": (SERIES, step([[1.0], [1.0, 2.0]]), [], r"row 2 of .* \(column 'values'\) have \[1, 2\]"),
    "another channel": (SERIES, step([[1.0] * 3]), [], "row 0 of .* has 2 in column 'values' and row 2 of .* has 3"),
    "infinity": (SERIES, step([[1.0, 2.0], [INF, 0.0]]), [], "row 2 of .* has inf in step 1"),
    "beyond float32": (SERIES, step([[1e99, 0.0]]), [], "row 2 of .* has 1e.99 in step 0"),
    "empty series": (SERIES, step([]), [], "row 2 of .* has none: drop the row"),
    "archive with text": (SERIES, line("1,a:left"), [], "line 5 of .* has 'a', which is no number"),
    "archive without a label": (SERIES, line("1,2:"), [], "one of left, right, but line 5 of .* has ''"),
    "archive with another class": (SERIES, line("1,2:up"), [], "one of left, right, but line 5 of .* has 'up'"),
    "numbers for a classifier": (SERIES, lambda folder: series(folder, NUMBERS), [], "has labels that are"),
    "column twice": (TABLE, csv("a,label,label\n1,2,3"), [], r"'.*rows\.csv' has two called 'label'"),
    "semicolons": (TABLE, csv("a;label\n1;2"), [], r"'.*rows\.csv' has ';' between"),
    "empty file": (TABLE, csv(""), [], r"rows\.csv\) is an empty file"),
    "a header only": (TABLE, csv("a,label\n"), [], r"rows\.csv\) has no rows"),
    "three rows": (TABLE, csv("a,label\n1,x\n2,y\n3,x"), [], "has 3 rows, of which 1 is left .* too few"),
    "one row": (TABLE, csv("a,label\n1,x"), [], "1 row of .* would be held out for test, but it has 1 left"),
}


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


def test_rows_of_several_series_in_turn_are_the_same_as_one_series_after_another(tmp_path):
    loaded = []
    for write in (steps, by_time):
        task = TimeSeriesClassification(train_file=str(write(tmp_path)), id_column="id", step_column="t")
        data = task.load()
        loaded.append((data.config, [example["input_values"] for example in data.test]))
    assert loaded[0][0] == loaded[1][0]
    torch.testing.assert_close(loaded[0][1], loaded[1][1])


def test_a_gap_in_the_rows_that_are_held_out_is_one_that_the_model_knows(tmp_path):
    """Row 3 is the only one with a gap, and some seed holds it out."""
    file = str(series(tmp_path, gap=True))
    held = 0
    for seed in range(12):
        data = TimeSeriesClassification(train_file=file).load(seed)
        assert data.config["num_channels"] == 4  # two numbers, and whether each is missing
        gaps = [example["input_values"][:, 1::2].sum() for example in data.validation]
        held += int(sum(gaps))
        assert all(torch.isfinite(example["input_values"]).all() for example in data.validation)
    assert held
    datasets.Dataset.from_dict({"values": [[[1.0, None]]], "label": ["left"]}).to_parquet(tmp_path / "test.parquet")
    whole = str(series(tmp_path))
    with pytest.raises(
        ValueError, match=r"row 0 of the test split .* has one in column 'values', and no training row"
    ):
        TimeSeriesClassification(train_file=whole, test_file=str(tmp_path / "test.parquet")).load()


def test_an_id_is_in_one_split(tmp_path):
    shutil.copy(steps(tmp_path), tmp_path / "test.csv")
    files = {"train_file": str(tmp_path / "rows.csv"), "test_file": str(tmp_path / "test.csv")}
    with pytest.raises(
        ValueError, match=r"0 in column 'id' is in the train split .* and in the test split .*test\.csv"
    ):
        TimeSeriesClassification(**files, id_column="id", step_column="t").load()


TIMES = {  # times of rows, in order -> whether they are ones
    "days": [f"{day:02}/01/2024" for day in range(1, 32)] + [f"{day:02}/02/2024" for day in range(1, 10)],
    "numbers": list(range(ROWS)),
    "ISO": [f"2024-01-{day:02}T09:00:00+01:00" for day in range(1, 31)]
    + [f"2024-02-{day:02}" for day in range(1, 11)],
}


@pytest.mark.parametrize("times", TIMES.values(), ids=TIMES)
def test_the_latest_rows_are_held_out_however_times_are_written(times, tmp_path):
    table = pandas.DataFrame({"when": times, "x": np.arange(ROWS), "label": labels()})
    table.sample(frac=1, random_state=0).to_csv(tmp_path / "rows.csv", index=False)
    task = TabularClassification(train_file=str(tmp_path / "rows.csv"), time_column="when")
    data = task.load()
    scale = task.processor().columns[0]
    x = [example["input_values"][0, 1].item() * scale["std"] + scale["mean"] for example in data.test]
    assert sorted(np.round(x)) == [36, 37, 38, 39]


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
    with pytest.raises(ValueError, match=r"'speaker 0' in column 'speaker' is in the train split .* and in the test"):
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
