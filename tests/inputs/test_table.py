"""Tables: the processor finds the kinds and scales of columns in training rows, and the model has a token for each."""

import datetime
import decimal
import json
import re

import datasets
import numpy as np
import pandas
import pytest
import torch
from transformers import AutoFeatureExtractor, AutoProcessor, TrainingArguments

from fpt_adapters import FPTCard, FPTConfig, FPTForSequenceClassification, FPTTableProcessor, FPTTrainer

NO_VALUES = {"input_size": None, "sequence_length": None}


def frame(rows=40, seed=0):
    """A column of each kind, with gaps in some."""
    draw = np.random.default_rng(seed)
    columns = {
        "age": draw.normal(40, 10, rows),
        "city": draw.choice(["Bern", "Lima", "Oslo"], rows),
        "member": draw.random(rows) > 0.5,
        "since": pandas.date_range("2023-01-01", periods=rows, freq="41h"),
        "key": [f"u{number}" for number in range(rows)],
        "same": 3,
        "visits": pandas.array(draw.integers(0, 9, rows), dtype="Int64"),
    }
    table = pandas.DataFrame(columns)
    for column, row in (("age", 3), ("city", 4), ("since", 5), ("visits", 6)):
        table.loc[row, column] = None
    return table


def array_of(processor, rows):
    return processor(rows)["input_values"]


FORMS = {
    "columns": lambda table: table.to_dict("list"),
    "records": lambda table: table.to_dict("records"),
    "arrays": lambda table: {name: table[name].to_numpy(dtype=object) for name in table},
    "datasets": datasets.Dataset.from_pandas,
    "columns of datasets": lambda table: datasets.Dataset.from_pandas(table)[:],
    "other order": lambda table: table[table.columns[::-1]],
    "more columns": lambda table: table.assign(label=[[1]] * len(table)),
    "dates as text": lambda table: table.assign(since=[None if d is pandas.NaT else str(d) for d in table["since"]]),
    "time zones": lambda table: table.assign(since=table["since"].dt.tz_localize("UTC").dt.tz_convert("Asia/Tokyo")),
    "numbers as text": lambda table: table.assign(age=[None if a != a else repr(a) for a in table["age"].tolist()]),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_table_is_the_same_in_every_form(form):
    table = frame()
    processor = FPTTableProcessor.fit(table)
    expected = array_of(processor, table)
    assert expected.shape == (40, 8, 2) and expected.dtype == np.float32 and np.isfinite(expected).all()
    other = FORMS[form](table)
    assert np.array_equal(array_of(processor, other), expected)
    if form not in ("other order", "more columns"):
        assert FPTTableProcessor.fit(other).to_dict() == processor.to_dict()


@pytest.mark.parametrize("convert", [np.asarray, torch.tensor, list, lambda rows: np.array(rows, dtype=object)])
def test_an_array_has_numbered_columns(convert):
    rows = [[1.0, 10, 5], [2.0, 30, 5], [3.0, 20, 5]]
    processor = FPTTableProcessor.fit(convert(rows))
    assert processor.column_names == ["x0", "x1"] and processor.dropped == {"x2": "always 5"}
    root = 1.5**0.5
    expected = np.array([[-root, -root], [0, root], [root, 0]], dtype=np.float32)
    np.testing.assert_allclose(array_of(processor, convert(rows))[..., 1], expected, rtol=1e-6)


def test_what_was_found_is_said():
    assert FPTTableProcessor.fit(frame()).describe() == [
        "8 tokens of 5 columns",
        "numbers: age, visits",
        "categories: city (3), member (2)",
        "dates: since month, since day, since weekday, since hour",
        "with missing values: age, city, since, visits",
        "dropped: key (another text in most rows: an id, or free text)",
        "dropped: same (always 3)",
    ]


DAY, NOON = datetime.date(2024, 2, 29), datetime.datetime(2024, 3, 1, 12, 30)
KINDS = [  # values, what is said of them, and kind, part or categories of the tokens
    ([1, 2, 2], {}, ["number"]),
    ([1, None, 1], {}, ["number"]),
    ([decimal.Decimal("1.5"), 2, np.float32(3)], {}, ["number"]),
    (np.array([1, 2, 3], dtype="timedelta64[s]"), {}, ["number"]),
    (["1", "2.5", " -3e2 "], {}, ["number"]),
    (["007", "123", "123"], {}, [["007", "123"]]),
    ([1, 2, 2], {"categorical": ["c"]}, [["1", "2"]]),
    ([1.0, 2.5, None], {"categorical": ["c"]}, [["1", "2.5"]]),
    (["007", "123", "123"], {"numeric": ["c"]}, ["number"]),
    ([True, False, None], {}, [["False", "True"]]),
    (np.array([True, False, False]), {}, [["False", "True"]]),
    (["b", "a", "b"], {}, [["a", "b"]]),
    (["a", "", None, "a"], {}, [["a"]]),
    (pandas.Series(["a", "b"], dtype="category"), {}, [["a", "b"]]),
    (["z"] * 50 + [f"{n} words" for n in range(49)], {}, "another text in most rows: an id, or free text"),
    (["z"] * 51 + [f"{n} words" for n in range(49)], {}, [[*sorted(f"{n} words" for n in range(49)), "z"]]),
    ([f"{n} words" for n in range(50)], {}, "another text in most rows: an id, or free text"),
    ([f"{n} words" for n in range(50)], {"categorical": ["c"]}, [sorted(f"{n} words" for n in range(50))]),
    ([DAY, datetime.date(2024, 3, 1)], {}, ["month", "day", "weekday"]),
    ([NOON, NOON.replace(hour=3)], {}, ["hour"]),
    ([DAY, DAY, None], {}, ["year"]),
    (["2024-01-01", "2023-01-01T10:00:00Z", None], {}, ["year", "weekday", "hour"]),
    ([DAY, DAY], {}, "always 2024-02-29"),
    (["a", "a"], {}, "always a"),
    ([5, 5], {}, "always 5"),
    ([None, float("nan"), " "], {}, "every value is missing"),
]


@pytest.mark.parametrize(("values", "said", "expected"), KINDS)
def test_kinds_of_columns(values, said, expected):
    table = {"c": values, "other": range(len(values))}
    processor = FPTTableProcessor.fit(table, **said)
    if isinstance(expected, str):
        assert processor.dropped == {"c": expected}
        return
    found = [column for column in processor.columns if column["name"] == "c"]
    assert [column.get("categories") or column.get("part") or column["kind"] for column in found] == expected


def test_parts_of_dates():
    dates = [datetime.date(1969, 12, 31), datetime.datetime(2024, 2, 29, 9, 30), None]
    columns = [
        {"name": "d", "kind": "date", "part": part, "mean": 0, "std": 1, "missing": True}
        for part in ("year", "month", "day", "weekday", "hour")
    ]
    found = array_of(FPTTableProcessor(columns), {"d": dates})
    assert found[..., 1].tolist() == [[1969, 12, 31, 2, 0], [2024, 2, 29, 3, 9.5], [1] * 5]
    assert found[..., 0].tolist() == [[0] * 5, [0] * 5, [1] * 5]


def test_missing_and_unknown_values_at_prediction():
    train = {"n": [0, 4, None], "m": [0, 4, 2], "c": ["a", "b", None], "k": ["a", "b", "a"]}
    processor = FPTTableProcessor.fit(train)
    assert processor.config_fields == {"input_type": "table", "column_sizes": [2, 1, 3, 2]}
    rows = [{"n": 2, "m": 2, "c": "b", "k": "b"}, dict.fromkeys("nmck"), {"n": "4", "m": 2, "c": "z", "k": "z"}]
    assert array_of(processor, rows).tolist() == [
        [[0, 0], [0, 0], [1, 1], [1, 1]],
        [[1, 1], [0, 0], [2, 1], [0, 0]],  # missing: an own id, but nothing where training had none missing
        [[0, 1], [0, 0], [0, 0], [0, 0]],  # unknown: nothing
    ]
    assert array_of(processor, rows[0]).tolist() == array_of(processor, rows[:1]).tolist()


def test_rare_categories_share_an_id_with_unknown_ones():
    names = [f"c{number:03}" for number in range(300)]
    processor = FPTTableProcessor.fit({"c": [*names, *names[50:250], *names[50:300]]}, categorical=["c"])
    column = processor.columns[0]
    assert len(column["categories"]) == 254 and column["other"] and set(names[50:250]) < set(column["categories"])
    assert processor.config_fields["column_sizes"] == [255]
    rest = array_of(processor, {"c": ["c999", (set(names) - set(column["categories"])).pop()]})
    assert rest.tolist() == [[[254, 1]], [[254, 1]]]


TEXT = [str(number / 7) for number in range(30)]
WRONG_ROWS = [  # of a fit
    ({"n": [1, float("inf"), 2]}, {}, "column 'n' holds finite numbers, but row 1 has .*inf"),
    ({"n": [*TEXT, "n/a"]}, {}, "column 'n' holds numbers, but row 30 has 'n/a': write a number, .*categorical"),
    ({"n": [1, None, 2, "many"]}, {}, "column 'n' holds numbers, but row 3 has 'many'"),
    ({"n": ["a", "b", None]}, {"numeric": ["n"]}, "column 'n' holds finite numbers, but row 0 has 'a'"),
    ({"d": ["2024-01-01", "2024-13-01"]}, {}, "column 'd' holds dates, but row 1 has '2024-13-01': write 2024-12-31"),
    ({"l": [[1], [2]]}, {}, "in each row, but column 'l' of row 0 has list: leave the column out"),
    ({"n": [1, 2]}, {"numeric": ["m"]}, "the table has no column 'm' but n"),
    ({"n": [1, 2]}, {"numeric": ["n"], "categorical": ["n"]}, "either categorical or numeric; 'n' is said to be both"),
    (
        {"n": [1, 1], "t": [None, None]},
        {},
        r"no column is left to learn from \(n: always 1; t: every value is missing",
    ),
    ({"n": [1, 2], "m": [1]}, {}, r"columns of one length; got dict with columns of \[1, 2\] rows"),
    ([{"n": 1, "m": 2}, {"n": 1}], {}, "row 1 has no column 'm': write None"),
    ([], {}, "with a row at least"),
    ([[1, 2], [3]], {}, "rows are a DataFrame"),
    ([1, 2, 3], {}, "rows are a DataFrame"),
    (np.zeros(3), {}, "rows are a DataFrame"),
    ("table.csv", {}, "rows are a DataFrame"),
    (None, {}, "rows are a DataFrame"),
]


@pytest.mark.parametrize(("rows", "said", "words"), WRONG_ROWS)
def test_wrong_training_rows(rows, said, words):
    with pytest.raises(ValueError, match=words):
        FPTTableProcessor.fit(rows, **said)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda table: table.drop(columns="age"), "but row 0 has no age: it has city, .* Add the column, with None"),
        (lambda table: table.assign(age=[*table["age"][:-1], "old"]), "column 'age' .* but row 39 has 'old'"),
        (lambda table: table.assign(age=[*table["age"][:-1], np.inf]), "column 'age' .* but row 39 has .*inf"),
        (
            lambda table: table.assign(age=[*table["age"][:-1], 1e308]),
            "finite numbers, but row 39 has 1e\\+308",
        ),
        (lambda table: table.assign(since="soon"), "column 'since' holds dates, but row 0 has 'soon'"),
        (lambda table: table[:0], "with a row at least"),
    ],
)
def test_wrong_rows_at_prediction(change, words):
    processor = FPTTableProcessor.fit(frame())
    with pytest.raises(ValueError, match=words):
        processor(change(frame()))
    with pytest.raises(ValueError, match=re.sub(r"row (\d)", r"line \1", words)):
        processor(change(frame()), where="line {}".format)


NUMBER = {"name": "n", "kind": "number", "mean": 0.0, "std": 1.0, "missing": False}
CATEGORY = {"name": "c", "kind": "category", "categories": ["a"], "other": False, "missing": False}
DATE = NUMBER | {"kind": "date", "part": "day"}


@pytest.mark.parametrize(
    "column",
    [
        *(3, None, {}, NUMBER | {"kind": []}, NUMBER | {"kind": "date"}, NUMBER | {"more": 1}, NUMBER | {"name": 3}),
        *(NUMBER | {"std": 0}, NUMBER | {"std": float("nan")}, NUMBER | {"mean": "x"}, NUMBER | {"mean": 10**400}),
        *(NUMBER | {"missing": 1}, CATEGORY | {"categories": []}, CATEGORY | {"categories": "ab"}),
        *(CATEGORY | {"categories": ["a", "a"]}, CATEGORY | {"categories": [[]]}, CATEGORY | {"other": None}),
        *(CATEGORY | {"categories": [str(n) for n in range(255)]}, DATE | {"part": "age"}, DATE | {"part": []}),
    ],
)
def test_a_strangers_columns_are_checked(column):
    FPTTableProcessor([NUMBER, CATEGORY, DATE])
    with pytest.raises(ValueError, match="a column has a name, kind and missing") as caught:
        FPTTableProcessor([NUMBER, column])
    assert len(str(caught.value)) < 600


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"columns": []}, "columns is a list of 1 to 4096"),
        ({"columns": 3}, "columns is a list of 1 to 4096"),
        ({"columns": [NUMBER] * 4097}, "columns is a list of 1 to 4096"),
        ({"columns": [NUMBER], "dropped": [3]}, "dropped is a dict"),
        ({"columns": [NUMBER], "colums": 3}, "no field 'colums'"),
    ],
)
def test_a_strangers_fields_are_checked(fields, words):
    with pytest.raises((ValueError, TypeError), match=words):
        FPTTableProcessor(**fields)


@pytest.mark.parametrize("auto_class", [FPTTableProcessor, AutoFeatureExtractor, AutoProcessor])
def test_saved_and_loaded_it_makes_the_same_inputs(auto_class, tmp_path):
    processor = FPTTableProcessor.fit(frame())
    for name in ("once", "twice"):
        processor.save_pretrained(tmp_path / name)
        loaded = auto_class.from_pretrained(tmp_path / name)
        assert type(loaded) is FPTTableProcessor and loaded.describe() == processor.describe()
        assert np.array_equal(array_of(loaded, frame(seed=1)), array_of(processor, frame(seed=1)))
        processor = loaded


# The model


def table_model(make_model, model_type="bert", **fields):
    processor = FPTTableProcessor.fit(frame())
    return make_model(model_type, **NO_VALUES | processor.config_fields | fields).eval(), processor


@pytest.mark.parametrize(("model_type", "positions"), [("bert", "auto"), ("gpt2", "new"), ("llama", "none")])
def test_each_column_is_a_token(model_type, positions, make_model, tmp_path):
    trainable = ["input", "output", "norm"] + ["position"] * (positions != "none")
    model, processor = table_model(make_model, model_type, positions=positions, trainable=trainable)
    inputs = processor(frame(), return_tensors="pt")
    with torch.no_grad():
        encoded = model.fpt.input_projection(inputs["input_values"])
        expected = model(**inputs).logits
    assert encoded.states.shape[:2] == (40, 8) and expected.shape == (40, 4)
    module = model.get_input_embeddings()
    city = [column["name"] for column in processor.columns].index("city")
    rows = sum(module.sizes[:city])
    for row, name in enumerate(frame()["city"][:8]):
        number = 3 if pandas.isna(name) else ["Bern", "Lima", "Oslo"].index(name)
        assert torch.equal(encoded.states[row, city], module.weight[rows + number] + module.bias[city])
    age = inputs["input_values"][0, 0, 1]
    torch.testing.assert_close(encoded.states[0, 0], age * module.weight[0] + module.bias[0])
    groups = model.parameter_groups()
    own = {name for name in groups if name.startswith("fpt.input_projection.")}
    assert len(own) == 2 and {groups[name] for name in own} == {"input"} == {groups[n] for n in own}
    model.save_pretrained(tmp_path)
    with torch.no_grad():
        assert torch.equal(FPTForSequenceClassification.from_pretrained(tmp_path).eval()(**inputs).logits, expected)
    assert json.loads((tmp_path / "config.json").read_text())["column_sizes"] == [2, 4, 2, 2, 2, 2, 2, 2]


def test_every_vector_learns(make_model):
    model, processor = table_model(make_model)
    model(**processor(frame(), return_tensors="pt"), labels=torch.arange(40) % 4).loss.backward()
    module = model.get_input_embeddings()
    assert (module.weight.grad != 0).any(dim=1).all() and (module.bias.grad != 0).any(dim=1).all()


def test_ids_outlive_half_precision(make_model):
    """Sharded training casts what enters a model; whole numbers up to 256 stay what they are."""
    model = make_model("bert", **NO_VALUES, input_type="table", column_sizes=[256, 256]).eval()
    ids = torch.arange(256.0)
    inputs = torch.stack([torch.stack([ids, ids.flip(0)], 1), torch.ones(256, 2)], 2)  # (256, columns, 2)
    projection = model.fpt.input_projection
    assert torch.equal(projection(inputs.bfloat16()).states, projection(inputs).states)


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"column_sizes": 3}, "column_sizes is a list of whole numbers, one for each of at most 4096 columns; got 3"),
        ({"column_sizes": []}, "column_sizes is a list"),
        ({"column_sizes": [1] * 4097}, "column_sizes is a list"),
        ({"column_sizes": [1, 0]}, "column_sizes is a whole number of at least 1"),
        ({"column_sizes": [1, 257]}, "column_sizes is a whole number of at least 1 and at most 256, got 257"),
        ({"column_sizes": [1, 2.0]}, "column_sizes is a whole number"),
        ({"column_sizes": [2**30]}, "column_sizes is a whole number"),
        ({"column_sizes": [1], "input_size": 3}, "input_size does not belong to input_type='table'"),
    ],
)
def test_a_configurations_columns_are_checked(fields, words):
    FPTConfig(input_type="table", column_sizes=[1] * 4096)
    with pytest.raises(ValueError, match=words):
        FPTConfig(**{"input_type": "table", "vocab_size": None} | fields)


@pytest.mark.parametrize(
    ("values", "error", "words"),
    [
        (torch.zeros(2, 7, 2), ValueError, r"\(batch, 8, 2\), an id and a factor .* got \(2, 7, 2\)"),
        (torch.zeros(2, 8), ValueError, r"\(batch, 8, 2\)"),
        (torch.eye(8, 2)[None] * 2, IndexError, "index out of range"),
        (torch.eye(8, 2)[None].flip(1) * -1, IndexError, "index out of range"),
    ],
)
def test_wrong_inputs_are_refused(values, error, words, make_model):
    model, _ = table_model(make_model)
    with pytest.raises(error, match=words):
        model(input_values=values)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ((0, 2), r"the id of column 0 is a whole number in 0\.\.1 \(column_sizes\), got 2\. This is row 7 of"),
        ((0, 0.5), "the id of column 0 .* got 0.5"),
        ((1, float("nan")), "input_values must be finite.*row 7 of"),
    ],
)
def test_the_trainer_names_a_wrong_row(change, words, make_model, tmp_path):
    model, processor = table_model(make_model)
    values = processor(frame(), return_tensors="pt")["input_values"]
    values[7, 0, change[0]] = change[1]
    rows = [{"input_values": row, "labels": number % 4} for number, row in enumerate(values)]
    arguments = TrainingArguments(tmp_path, use_cpu=True, report_to="none", disable_tqdm=True, num_train_epochs=1)
    with pytest.raises(ValueError, match=words):
        FPTTrainer(model, arguments, train_dataset=rows).train()


def test_features_are_kept_where_the_head_alone_trains(make_model, tmp_path):
    heads = []
    for cached in (True, False):
        fields = {"trainable": ["output"], "input_dropout": 0, "backbone_dropout": 0}
        model, processor = table_model(make_model, **fields)
        values = processor(frame(), return_tensors="pt")["input_values"]
        rows = [{"input_values": row, "labels": number % 4} for number, row in enumerate(values)]
        settings = {"use_cpu": True, "report_to": "none", "disable_tqdm": True, "max_steps": 4, "save_strategy": "no"}
        arguments = TrainingArguments(tmp_path / str(cached), dataloader_pin_memory=False, **settings)
        FPTTrainer(model, arguments, train_dataset=rows, cache_features=cached).train()
        heads.append(model.head.weight)
    torch.testing.assert_close(*heads)


def test_the_card_goes_from_rows_to_answers(make_model, tmp_path, capsys):
    model, processor = table_model(make_model)
    model.processor = processor
    model.save_pretrained(tmp_path)
    processor.save_pretrained(tmp_path)
    FPTCard().write(tmp_path, model, "owner/table")
    card = (tmp_path / "README.md").read_text()
    assert "- Input: rows of a table: 8 columns, each a token, with 18 vectors for numbers" in card
    blocks = re.findall(r"^```python\n(.*?)^```$", card, flags=re.MULTILINE | re.DOTALL)
    assert len(blocks) == 2
    for block in blocks:
        exec(compile(block.replace("owner/table", str(tmp_path)), "card", "exec"), {})
    assert "categories: city (3), member (2)" in capsys.readouterr().out
    with pytest.raises(ValueError, match="give the model the processor that was fitted"):
        model.config.input.processor(model.config)
