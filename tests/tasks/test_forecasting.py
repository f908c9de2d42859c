"""Forecasts of series of one's own: a table to a trained model, beside its floors, and back to a table with times."""

from itertools import chain

import datasets
import numpy as np
import pandas
import pytest
import torch
from test_run_fpt import run
from transformers import EvalPrediction, Trainer, TrainingArguments

from fpt_adapters import FPTForTimeSeriesPrediction, FPTTimeSeriesProcessor, FPTTrainer, pipeline
from fpt_adapters.run.predicting import main as predict
from fpt_adapters.tasks import TimeSeriesForecasting

LENGTHS = {"context_length": 24, "prediction_length": 6}
FLAGS = "--context_length 24 --prediction_length 6 --patch_length 8"
FEW = "--max_steps 4 --per_device_train_batch_size 8 --do_train --do_eval --do_predict"


@pytest.fixture(autouse=True)
def cache_in_tmp(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.chdir(tmp_path)
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def waves(steps=200, start="2024-01-01", seed=0, **columns):
    draw, step = np.random.default_rng(seed), np.arange(steps)
    rows = {"date": pandas.date_range(start, periods=steps, freq="h")} | columns
    rows["a"] = np.sin(step * np.pi / 12) * 5 + 20 + draw.normal(0, 0.5, steps)
    rows["b"] = step * 2.0 + draw.normal(0, 5, steps)
    return pandas.DataFrame(rows)


def written(table, name="waves.csv"):
    table.to_parquet(name) if name.endswith("parquet") else table.to_csv(name, index=False)
    return name


def loaded(table, name="waves.csv", **fields):
    task = TimeSeriesForecasting(train_file=written(table, name), **(LENGTHS | fields))
    return task, task.load()


@pytest.mark.parametrize("name", ["waves.csv", "waves.parquet"])
def test_parts_follow_one_another_and_only_the_first_gives_the_scale(name):
    table = waves()
    task, data = loaded(table, name)
    assert [len(part) for part in (data.train, data.validation, data.test)] == [160 - 24 - 6 + 1, 15, 15]
    train = table.iloc[:160]
    assert task.processor().mean == pytest.approx([train["a"].mean(), train["b"].mean()], rel=1e-5)
    assert data.config["channel_scale"] == pytest.approx([train["a"].std(ddof=0), train["b"].std(ddof=0)], rel=1e-5)
    np.testing.assert_allclose(data.test[0]["past_values"], table[["a", "b"]][156:180], rtol=1e-6)
    np.testing.assert_allclose(data.test[-1]["labels"], table[["a", "b"]][194:], rtol=1e-6)
    last = task.processor()(table.iloc[:-6])["past_values"][0]
    assert np.array_equal(last, data.test[-1]["past_values"])
    assert "times in column 'date', steps of h" in data.found and data.found[-1] == "season: 24 steps"
    assert "test: 15 windows, 20 steps from 2024-01-08 12:00:00 to 2024-01-09 07:00:00" in data.found


@pytest.mark.parametrize(
    ("fields", "windows"),
    [
        ({"splits": [100, 30, 20]}, [71, 25, 15]),
        ({"splits": [0.5, 0.25, 0.25]}, [71, 45, 45]),
        ({"validation_examples": 50}, [71, 45, 45]),
        ({"train_fraction": 0.25}, [24 + 34 - 24 - 6 + 1, 15, 15]),
        ({"train_stride": 10}, [14, 15, 15]),
        ({"validation_file": "own"}, [180 - 29, 200 - 29, 15]),
        ({"validation_file": "own", "test_file": "own"}, [200 - 29] * 3),
        ({"rows_are_steps": True, "frequency": None}, [131, 15, 15]),
    ],
)
def test_parts_as_they_are_said(fields, windows):
    written(waves(seed=1), "own.csv")
    _, data = loaded(waves(), **{name: "own.csv" if value == "own" else value for name, value in fields.items()})
    assert [len(part) for part in (data.train, data.validation, data.test)] == windows


def test_series_of_several_lengths_with_gaps():
    long = pandas.concat([waves(200, id="x"), waves(120, "2024-01-04", id="y"), waves(3, id="z")])
    long = pandas.concat([long.drop(index=[60, 61]), long.iloc[[5]]]).sample(frac=1, random_state=0)
    _, data = loaded(long, id_column="id")
    assert any("3 series, 323 steps, 4 of them missing, 1 row came twice" in line for line in data.found)
    starts = dict(zip(data.train.table.grid.ids, data.train.table.starts, strict=True))
    spans = {key: (data.test.spans[n] - starts[key]).tolist() for n, key in enumerate(data.train.table.grid.ids)}
    assert spans == {"x": [180, 200], "y": [108, 120], "z": [3, 3]}
    assert len(data.test) == 15 + 7 and np.isnan(data.train.batch(np.arange(len(data.train)))[0]).any()


def test_a_run_stands_beside_its_floors_and_its_model_answers_a_table(saved_base, tmp_path):
    path = written(waves(), "waves.parquet")
    results = run("time-series-forecasting", saved_base, f"{FLAGS} {FEW} --train_file {path}")
    for split in ("eval", "test"):
        assert results[f"{split}_mse"] == pytest.approx(results[f"{split}_loss"], rel=1e-4)
        each = {name: results[f"{split}_floor_{name}_mse"] for name in ("last_value", "seasonal_naive", "linear")}
        assert results[f"{split}_floor"] == results[f"{split}_floor_mse"] == min(each.values())
        assert each["seasonal_naive"] < each["last_value"]
    assert "seasonal naive mse floor" in (tmp_path / "out" / "README.md").read_text()
    answering = pipeline("out", base_model_name_or_path=saved_base)
    forecast = answering(waves())
    assert forecast.columns.tolist() == ["date", "a", "b"] and len(forecast) == 6
    assert str(forecast["date"].iloc[0]) == "2024-01-09 08:00:00"
    windows = answering.processor(waves(), return_tensors="pt")
    with torch.no_grad():
        expected = answering.model(**windows).prediction_outputs[0]
    np.testing.assert_allclose(forecast[["a", "b"]], expected, rtol=1e-5)
    for ending in ("csv", "parquet", "jsonl"):
        output = f"next.{ending}"
        more = ["--output", output, "--base_model_name_or_path", str(saved_base)]
        assert predict(["--model", "out", "--file", path, *more]) == 6
        read = {
            "csv": pandas.read_csv,
            "parquet": pandas.read_parquet,
            "jsonl": lambda f: pandas.read_json(f, lines=True),
        }
        found = read[ending](output)
        assert pandas.to_datetime(found["date"]).tolist() == forecast["date"].tolist()
        np.testing.assert_allclose(found[["a", "b"]], forecast[["a", "b"]], rtol=1e-5)


@pytest.mark.parametrize("quantiles", [None, [0.1, 0.5, 0.9]])
@pytest.mark.parametrize("trainer_class", [Trainer, FPTTrainer])
def test_scores_are_the_same_for_batches_and_for_all(trainer_class, quantiles, make_model, tmp_path):
    task, data = loaded(waves().drop(index=[185]), quantiles=quantiles, patch_length=8)
    model = make_model("gpt2", FPTForTimeSeriesPrediction, **data.config)
    found = []
    for batches in (True, False):
        args = TrainingArguments(
            tmp_path / "out", per_device_eval_batch_size=4, batch_eval_metrics=batches, use_cpu=True, report_to="none"
        )
        trainer = trainer_class(
            *(model, args, task.collate),
            eval_dataset=data.test,
            compute_metrics=task.compute_metrics,
            preprocess_logits_for_metrics=task.preprocess_logits_for_metrics,
        )
        found.append({name: value for name, value in trainer.evaluate().items() if "_per_second" not in name})
    names = ["mse", "mae"] if quantiles is None else ["mse", "mae", "weighted_quantile_loss", "coverage"]
    assert [found[0][f"eval_{name}"] for name in names] == pytest.approx([found[1][f"eval_{name}"] for name in names])
    with torch.no_grad():
        past, labels = (torch.from_numpy(part) for part in data.test.batch(np.arange(len(data.test))))
        answers = model(past_values=past).prediction_outputs
    point = answers if quantiles is None else answers[..., 1]
    mse = torch.nanmean(((point - labels) / torch.tensor(task.processor().std)) ** 2)
    assert found[0]["eval_mse"] == pytest.approx(mse.item(), rel=1e-4)
    assert set(task.floors(data.test)) >= set(names) - {"coverage"}


def test_the_linear_map_is_fitted_to_training_windows_only():
    table = waves()
    changed = table.assign(a=table["a"].where(table.index < 180, 0.0), b=table["b"].where(table.index < 180, -9.0))
    maps = []
    for rows in (table, changed):
        task, data = loaded(rows)
        task.floors(data.test)
        maps.append((task._weights, task.processor().std))
    assert np.array_equal(maps[0][0], maps[1][0]) and maps[0][1] == maps[1][1]


def test_a_table_in_which_every_window_has_a_gap_has_floors_too():
    table = waves()
    task, data = loaded(table[table.index % 5 > 0])
    assert {"last_value_mse", "seasonal_naive_mse"} <= set(task.floors(data.test))
    assert "linear_mse" not in task.floors(data.test)


def test_windows_are_drawn_in_another_order_each_epoch(make_model, tmp_path):
    _, data = loaded(waves(), patch_length=8)
    model, drawn = make_model("gpt2", FPTForTimeSeriesPrediction, **data.config), []

    def collate(examples):
        drawn.append([float(example["labels"][0, 1]) for example in examples])
        return TimeSeriesForecasting().collate(examples)

    args = TrainingArguments(tmp_path, num_train_epochs=2, use_cpu=True, report_to="none", disable_tqdm=True)
    args.set_dataloader(train_batch_size=50)
    FPTTrainer(model, args, collate, data.train).train()
    sizes = [len(batch) for batch in drawn if len(batch) > 1]
    batches = [batch for batch in drawn if len(batch) > 1]
    assert sizes == [50, 50, 31] * 2
    first, second = (list(chain(*epoch)) for epoch in (batches[:3], batches[3:]))
    assert first != second and sorted(first) == sorted(second) == sorted(data.train.batch(np.arange(131))[1][:, 0, 1])


MISTAKES = {
    "splits": ({"splits": [0.5, 0.5]}, "steps of train, validation and test"),
    "mixed splits": ({"splits": [0.5, 10, 10]}, "steps of train, validation and test"),
    "too large": ({"splits": [150, 50, 50]}, "at most the 200 steps"),
    "two ways": ({"splits": [100, 50, 50], "validation_examples": 9}, "leave --validation_examples out"),
    "a file too": ({"splits": [100, 50, 50], "test_file": "waves.csv"}, "leave --splits out"),
    "all held out": ({"validation_share": 0.5}, "leave none of 200 to train on"),
    "no window": ({"prediction_length": 30}, "validation has no window"),
    "no time": ({"time_column": "when"}, "no 'when'"),
    "both": ({"time_column": "date", "rows_are_steps": True}, "leave time_column out"),
    "season": ({"season": 25}, "within context_length=24"),
    "fraction": ({"train_fraction": 0.0}, "train_fraction lies above 0"),
    "labels": ({"label_column": "a"}, "--target_columns"),
    "a text": ({"target_columns": ["date"], "rows_are_steps": True}, "column 'date' .* row 0 of the train split"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_flag_is_refused_before_training(mistake):
    fields, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        loaded(waves(), **fields)


def test_a_wrong_row_is_named_with_its_file():
    table = waves().astype({"b": object})
    table.loc[77, "b"] = "none"
    with pytest.raises(ValueError, match=r"column 'b' .* row 77 of the train split \(waves.csv\) has 'none'"):
        loaded(table, target_columns=["a", "b"])
    with pytest.raises(ValueError, match="no column called date"):
        loaded(waves().rename(columns={"date": "moment"}))


def test_a_stream_is_refused_and_the_processor_waits_for_the_rows():
    with pytest.raises(ValueError, match="leave --streaming out"):
        TimeSeriesForecasting().stream()
    with pytest.raises(ValueError, match="call load first"):
        TimeSeriesForecasting().processor()


def test_a_pipeline_needs_the_models_own_processor(make_model):
    _, data = loaded(waves(), patch_length=8)
    model = make_model("gpt2", FPTForTimeSeriesPrediction, **data.config)
    other = FPTTimeSeriesProcessor.fit(waves(), 12, 6, time="date")
    with pytest.raises(ValueError, match="context_length=12, but the model 24"):
        pipeline(model, processor=other)
    with pytest.raises(ValueError, match="leave input_column out"):
        pipeline(model, processor=other, input_column="a")


def test_metrics_may_come_as_lists_of_batches():
    task, data = loaded(waves())
    past, labels = data.test.batch(np.arange(len(data.test)))
    whole = task.compute_metrics(EvalPrediction(labels + 1, labels))
    parts = task.compute_metrics(EvalPrediction([labels[:5] + 1, labels[5:] + 1], [labels[:5], labels[5:]]))
    assert whole == pytest.approx(parts) and past.shape == (15, 24, 2)
    assert whole["mae"] == pytest.approx(np.mean(1 / np.array(task.processor().std)))
