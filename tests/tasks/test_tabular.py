"""Tables of one's own: rows of a file to a trained model and back, and each mistake in a file or a flag."""

import datasets
import numpy as np
import pandas
import pytest
import torch
from test_run_fpt import run
from transformers import AutoFeatureExtractor, AutoModelForSequenceClassification

from fpt_adapters.tasks import TabularClassification, TabularRegression


@pytest.fixture(autouse=True)
def cache_in_tmp(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    datasets.disable_progress_bars()
    yield
    datasets.enable_progress_bars()


def houses(rows=60):
    """Rows of each kind of column, some with gaps, and labels that follow from them."""
    draw = np.random.default_rng(0)
    table = pandas.DataFrame(
        {
            "area": draw.normal(100, 20, rows),
            "town": draw.choice(["Bern", "Oslo"], rows),
            "garden": draw.random(rows) > 0.5,
            "built": pandas.date_range("2001-01-01", periods=rows, freq="97D").strftime("%Y-%m-%d"),
            "rooms": draw.integers(1, 9, rows),
            "owner": [f"owner {number % 20}" for number in range(rows)],
            "key": [f"house {number}" for number in range(rows)],
        }
    )
    table["price"] = table["area"] * 3.5 + 90 * table["garden"] + draw.normal(0, 1, rows)
    table["kind"] = np.where(table["price"] > 400, "villa", "hut")
    for row, column in enumerate(["area", "town", "garden", "built"]):
        table[column] = table[column].astype(object).mask(table.index % 7 == row, None)
    return table


def written(folder, table, name="houses.csv"):
    path = folder / name
    table.to_parquet(path) if name.endswith("parquet") else table.to_csv(path, index=False)
    return str(path)


@pytest.mark.parametrize("name", ["houses.csv", "houses.parquet"])
def test_a_split_holds_what_the_processor_makes_of_raw_rows(name, tmp_path):
    table = houses()
    task = TabularRegression(
        train_file=written(tmp_path, table, name), label_column="price", drop_columns=["kind"], group_column="owner"
    )
    data = task.load()
    processor = task.processor()
    assert processor.column_names == ["area", "town", "garden", "built", "rooms"]
    assert data.config["column_sizes"] == [2, 3, 3, 2, 2, 2, 2, 1]
    for split in (data.train, data.validation, data.test):
        raw = table[np.isin(table["price"].astype(np.float32), split.labels[:, 0])]
        made = processor(raw.drop(columns="price"), return_tensors="pt")["input_values"]
        assert len(raw) == len(split) and torch.equal(
            made, torch.stack([example["input_values"] for example in split])
        )
        assert made.isfinite().all()
    owners = [
        set(table["owner"][np.isin(table["price"].astype(np.float32), s.labels[:, 0])])
        for s in (data.train, data.test)
    ]
    assert not owners[0] & owners[1]
    assert data.found[0].startswith("column 'price': a number (") and data.found[-1].startswith("rows: ")
    assert "categories: town (2), garden (2)" in data.found
    assert "dropped: key (another text in most rows: an id, or free text)" in data.found


def test_columns_are_chosen_and_their_kinds_said(tmp_path):
    path = written(tmp_path, houses())
    said = {"feature_columns": ["rooms", "town", "area"], "drop_columns": ["town"], "categorical_columns": ["rooms"]}
    task = TabularClassification(train_file=path, label_column="kind", **said)
    task.load()
    assert [(column["name"], column["kind"]) for column in task.processor().columns] == [
        ("rooms", "category"),
        ("area", "number"),
    ]


def test_numbers_that_have_names_are_categories(tmp_path):
    features = datasets.Features({"c": datasets.ClassLabel(names=["x", "y"]), "label": datasets.Value("int64")})
    data = datasets.Dataset.from_dict({"c": [0, 1] * 10, "label": [0, 0, 1, 1] * 5}, features=features)
    data.to_parquet(str(tmp_path / "rows.parquet"))
    task = TabularClassification(train_file=str(tmp_path / "rows.parquet"))
    task.load()
    assert task.processor().columns[0]["categories"] == ["0", "1"]


def test_values_that_training_never_saw_are_said(tmp_path, warned):
    test = houses(20).assign(town="Lima")
    task = TabularClassification(
        train_file=written(tmp_path, houses()),
        test_file=written(tmp_path, test, "test.csv"),
        label_column="kind",
    )
    task.load()
    assert "20 of 20 rows of the test split" in warned.text and "column 'town' that no training row has" in warned.text


def test_gaps_that_training_never_saw_are_said(tmp_path, warned):
    test = houses(20)
    files = {"train_file": written(tmp_path, houses().assign(area=np.arange(60.0)))}
    task = TabularClassification(**files, test_file=written(tmp_path, test, "test.csv"), label_column="kind")
    data = task.load()
    assert f"{test['area'].isna().sum()} of 20 rows of the test split" in warned.text
    assert "have gaps in column 'area' that no training row has" in warned.text
    assert all(example["input_values"].isfinite().all() for example in data.test)


DATES = {  # how the last day of 2024 is written -> the format that is found
    "31/12/2024": "%d/%m/%Y",
    "12/31/2024": "%m/%d/%Y",
    "31.12.2024": "%d.%m.%Y",
    "Dec 31, 2024": "%b %d, %Y",
    "31 December 2024": "%d %B %Y",
    "2024/12/31 23:59": "%Y/%m/%d %H:%M",
    "2024-12-31": "iso",
}


@pytest.mark.parametrize(("text", "form"), DATES.items())
def test_dates_are_read_as_all_rows_of_a_column_agree(text, form, tmp_path):
    days = pandas.date_range("2024-06-01", periods=60, freq="97h")
    texts = days.strftime("%Y-%m-%d" if form == "iso" else form)
    path = written(tmp_path, pandas.DataFrame({"day": texts, "label": np.arange(60) % 2}))
    task = TabularClassification(train_file=path)
    task.load()
    columns = task.processor().columns
    assert {column["kind"] for column in columns} == {"date"}
    assert {column.get("format", "iso") for column in columns} == {form}
    task.processor().save_pretrained(tmp_path)
    loaded = AutoFeatureExtractor.from_pretrained(tmp_path)
    same = pandas.DataFrame({"day": pandas.to_datetime([text], format=None if form == "iso" else form)})
    np.testing.assert_array_equal(loaded({"day": [text]})["input_values"], loaded(same)["input_values"])
    with pytest.raises(ValueError, match="column 'day' holds dates, but row 0 has 'soon': write "):
        loaded({"day": ["soon"]})


def test_dates_that_read_in_two_ways_are_said_and_times_as_numbers_are_numbers(tmp_path):
    days = [f"{1 + number % 12:02}/{1 + number // 12:02}/2024" for number in range(60)]
    table = pandas.DataFrame({"day": days, "unix": 1.7e9 + np.arange(60), "label": np.arange(60) % 2})
    path = written(tmp_path, table)
    message = r"'day' holds dates that read in two ways \(%d/%m/%Y and %m/%d/%Y: row \d+ of .*houses.csv"
    with pytest.raises(ValueError, match=message):
        TabularClassification(train_file=path).load()
    for said, kind in (({"date_format": "%m/%d/%Y"}, "date"), ({"categorical_columns": ["day"]}, "category")):
        task = TabularClassification(train_file=path, **said)
        task.load()
        kinds = {column["name"]: column["kind"] for column in task.processor().columns}
        assert kinds == {"day": kind, "unix": "number"}


MISTAKES = [  # what becomes of the table, the task's flags, and what is said
    ({"area": ["big"]}, {}, r"column 'area' holds numbers, but row 5 of the train split \(.*houses.csv\) has 'big'"),
    ({"rooms": [float("inf")]}, {}, r"column 'rooms' holds finite numbers, but row 5 of the train split .* has inf"),
    ({"built": ["2001-02-30"]}, {}, "column 'built' holds dates, but row 5 of the train split .* has '2001-02-30'"),
    ({"kind": [None]}, {}, "row 5 of the train split .*kind"),
    ({}, {"numeric_columns": ["town"]}, "column 'town' holds finite numbers, but row [0-9]+ of the train split"),
    ({}, {"feature_columns": ["aera"]}, "--feature_columns names columns of .* it has no column 'aera'"),
    ({}, {"feature_columns": ["area", "kind"]}, "--feature_columns .* it has the label in column 'kind'"),
    ({}, {"categorical_columns": ["kind"]}, "--categorical_columns .* it has the label in column 'kind'"),
    ({}, {"drop_columns": ["nothing"]}, "--drop_columns .* no column 'nothing'"),
    ({}, {"feature_columns": ["key"]}, "no column is left to learn from"),
    ({}, {"drop_columns": [*houses(1).columns]}, "has no column to learn from"),
    ({}, {"label_column": "prize"}, "no column 'prize'"),
    ({}, {"label_column": "price"}, "tabular-classification has labels that are .* name another --label_column"),
]


@pytest.mark.parametrize(("cells", "said", "words"), MISTAKES)
def test_mistakes_in_a_file_or_a_flag(cells, said, words, tmp_path):
    table = houses()
    for column, (value,) in cells.items():
        table[column] = table[column].astype(object)
        table.loc[5, column] = value
    path = written(tmp_path, table)
    with pytest.raises(ValueError, match=words):
        TabularClassification(**{"train_file": path, "label_column": "kind"} | said).load()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.drop(columns="area"), r"but row 0 of the test split \(.*test.csv\) has no area"),
        (lambda table: table.assign(rooms="many"), "column 'rooms' .* row 0 of the test split .* has 'many'"),
        (lambda table: table.assign(kind="castle"), "castle"),
    ],
)
def test_mistakes_in_test_rows(change, words, tmp_path):
    files = {"train_file": written(tmp_path, houses()), "test_file": written(tmp_path, change(houses(9)), "test.csv")}
    with pytest.raises(ValueError, match=words):
        TabularClassification(**files, label_column="kind").load()


@pytest.mark.parametrize(
    ("task", "label", "score"),
    [("tabular-classification", "kind", "accuracy"), ("tabular-regression", "price", "mse")],
)
def test_from_a_file_to_answers_on_raw_rows(task, label, score, tmp_path, saved_base, monkeypatch):
    monkeypatch.chdir(tmp_path)
    table = houses()
    path = written(tmp_path, table.drop(columns={"kind", "price"} - {label}))
    more = f"--do_train --do_predict --train_file {path} --label_column {label} --max_steps 60 --learning_rate 0.02"
    results = run(task, saved_base, f"{more} --per_device_train_batch_size 20 --drop_columns owner")
    better = (results[f"test_{score}"] - results[f"test_floor_{score}"]) * (1 if score == "accuracy" else -1)
    assert np.isfinite(results["train_loss"]) and better > 0
    model = AutoModelForSequenceClassification.from_pretrained("out", base_model_name_or_path=saved_base).eval()
    inputs = AutoFeatureExtractor.from_pretrained("out")(pandas.read_csv(path), return_tensors="pt")
    with torch.no_grad():
        answers = model(**inputs).logits.numpy()
    saved = np.load("out/test_predictions.npz")["predictions"]
    assert all(np.isclose(answers, row, rtol=1e-4, atol=1e-4).all(axis=1).any() for row in saved)
    if label == "price":
        assert 200 < answers.mean() < 600  # in the data's units
