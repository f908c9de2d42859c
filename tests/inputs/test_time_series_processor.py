"""Tables of time series: rows in any order and of any calendar become windows, and forecasts a table with times."""

import json

import datasets
import numpy as np
import pandas
import pytest
from transformers import AutoFeatureExtractor, AutoProcessor

from fpt_adapters import FPTConfig, FPTTimeSeriesProcessor

FIELDS = {"target_columns": ["v"], "context_length": 4, "prediction_length": 2, "mean": [0.0], "std": [1.0]}


def table(steps=12, start="2024-03-01", freq="h", zone=None, **columns):
    times = pandas.date_range(start, periods=steps, freq=freq, tz=zone)
    return pandas.DataFrame({"t": times, "v": np.arange(float(steps)), "w": np.arange(steps) * 10.0} | columns)


def fitted(rows, context=4, horizon=2, **settings):
    return FPTTimeSeriesProcessor.fit(rows, context, horizon, **({"time": "t"} | settings))


def windows(processor, rows, channel=0):
    """The windows of a channel, with None for NaN."""
    values = processor(rows)["past_values"][..., channel]
    return [[None if np.isnan(one) else one for one in window] for window in values.tolist()]


FORMS = {
    "columns": lambda rows: rows.to_dict("list"),
    "records": lambda rows: rows.to_dict("records"),
    "datasets": datasets.Dataset.from_pandas,
    "unsorted": lambda rows: rows.sample(frac=1, random_state=0),
    "twice": lambda rows: pandas.concat([rows, rows.iloc[3:5]]),
    "more columns": lambda rows: rows.assign(town="Bern"),
    "text": lambda rows: rows.assign(t=rows["t"].astype(str)),
    "objects": lambda rows: rows.assign(t=[time.to_pydatetime() for time in rows["t"]]),
    "numbers as text": lambda rows: rows.assign(v=rows["v"].astype(str)),
}


@pytest.mark.parametrize("form", FORMS)
def test_a_table_is_the_same_in_every_form(form):
    rows = table()
    processor = fitted(rows)
    assert processor.frequency == "h" and processor.target_columns == ["v", "w"]
    values = processor(rows, return_tensors="np")["past_values"]
    assert values.shape == (1, 4, 2) and values.dtype == np.float32
    assert values[0].tolist() == [[8, 80], [9, 90], [10, 100], [11, 110]]
    other = FORMS[form](rows)
    assert np.array_equal(processor(other)["past_values"], values)
    forecast = processor.forecast_table(other, np.ones((1, 2, 2)))
    assert forecast.columns.tolist() == ["t", "v", "w"]
    assert forecast["t"].tolist() == [pandas.Timestamp("2024-03-01 12:00"), pandas.Timestamp("2024-03-01 13:00")]


CALENDARS = [  # frequency, zone, and the one that is found
    *[(freq, None, freq) for freq in ("h", "15min", "2h", "D", "B", "MS", "ME", "QE", "YS")],
    ("W-SUN", None, "7D"),
    ("h", "Europe/Berlin", "h"),
    ("D", "Europe/Berlin", "D"),
    ("D", "Europe/London", "D"),
    ("ME", "Asia/Tokyo", "ME"),
]


@pytest.mark.parametrize(("freq", "zone", "found"), CALENDARS)
def test_time_goes_on_by_the_calendar_of_the_rows(freq, zone, found):
    """From March on, so that clocks change on the way."""
    rows = table(9000 if freq == "h" else 200, "2016-02-27", freq, zone)
    rows = rows.drop(columns="w")
    for end in (40, len(rows) - 3):
        known = rows.iloc[:end].drop(index=[end - 3])
        processor = fitted(known)
        assert (processor.frequency, processor.timezone) == (found, zone)
        assert windows(processor, known) == [[end - 4.0, None, end - 2.0, end - 1.0]]
        times = processor.forecast_table(known, np.zeros((1, 2, 1)))["t"]
        assert times.tolist() == rows["t"].tolist()[end : end + 2] and times.dt.tz == rows["t"].dt.tz


def test_series_of_several_lengths_stand_side_by_side():
    long = pandas.concat([table(12, id="b"), table(2, "2025-01-01", id="a")]).sample(frac=1, random_state=1)
    processor = fitted(long, id="id", target="v")
    ids = list(dict.fromkeys(long["id"]))
    found = dict(zip(ids, windows(processor, long), strict=True))
    assert found == {"b": [8, 9, 10, 11], "a": [None, None, 0, 1]}
    forecast = processor.forecast_table(long, np.arange(4).reshape(2, 2, 1))
    assert forecast["id"].tolist() == [ids[0]] * 2 + [ids[1]] * 2 and forecast["v"].tolist() == [0, 1, 2, 3]
    assert forecast.set_index("id")["t"]["a"].tolist() == list(
        pandas.to_datetime(["2025-01-01 02:00", "2025-01-01 03:00"])
    )


def test_times_may_be_whole_numbers_or_none():
    rows = {"t": [10, 0, 5, 20], "v": [1.0, 2.0, 3.0, 4.0]}
    processor = fitted(rows)
    assert processor.frequency == 5 and windows(processor, rows) == [[3, 1, None, 4]]
    assert processor.forecast_table(rows, np.zeros((1, 2, 1)))["t"].tolist() == [25, 30]
    steps = fitted(rows, time=None, target="v")
    assert windows(steps, rows) == [[1, 2, 3, 4]]
    assert steps.forecast_table(rows, np.zeros((1, 2, 1)))["step"].tolist() == [4, 5]


def test_quantiles_have_a_column_each():
    processor = fitted(table(), target="v")
    forecast = processor.forecast_table(table(), [[[[1, 2, 3]], [[4, 5, 6]]]], [0.1, 0.5, 0.9])
    assert forecast.drop(columns="t").to_dict("list") == {
        "v": [2, 5],
        "v_0.1": [1, 4],
        "v_0.5": [2, 5],
        "v_0.9": [3, 6],
    }


def test_the_scale_is_that_of_the_rows_and_the_fields_fit_a_model():
    rows = table(same=3.0)
    processor = fitted(rows)
    assert processor.mean == [5.5, 55, 3] and np.allclose(
        processor.std, [rows["v"].std(ddof=0), rows["w"].std(ddof=0), 1]
    )
    config = FPTConfig(**processor.config_fields)
    assert (config.num_input_channels, config.patch_length, config.patch_stride) == (3, 4, 2)
    assert config.id2label == {0: "v", 1: "w", 2: "same"}


MISTAKES = {  # what is changed, and what is said
    "two rows of a time": (
        lambda r: pandas.concat([r, r.iloc[[9]].assign(v=-1)], ignore_index=True),
        "row 12 is another one",
    ),
    "clocks set back": (
        lambda r: r.assign(t=r["t"].where(r.index != 10, r["t"][9])),
        "row 10 is another one of the series for 2024-03-01 09:00:00 .* tz_localize",
    ),
    "off the grid": (
        lambda r: r.assign(t=r["t"] + pandas.to_timedelta((r.index == 5) * 7, "min")),
        "but row 5 has .*05:07",
    ),
    "no time": (lambda r: r.assign(t=r["t"].where(r.index != 4)), "row 4 has none in column 't'"),
    "no date": (lambda r: r.assign(t=[*r["t"].astype(str)[:-1], "soon"]), "row 11 has 'soon' in column 't'"),
    "two ways": (lambda r: r.assign(t="01/02/2024"), "read in two ways"),
    "some with a zone": (
        lambda r: r.assign(t=[str(t) + ("Z" if n == 3 else "") for n, t in enumerate(r["t"])]),
        "row 3 has .*Z in column 't' after",
    ),
    "another zone": (lambda r: r.assign(t=r["t"].dt.tz_localize("UTC")), "have a zone or have none, .* None .* UTC"),
    "numbers": (lambda r: r.assign(t=range(12)), "column 't' holds whole numbers, but the frequency is 'h'"),
    "halves": (lambda r: r.assign(t=np.arange(12) / 2), "row 1 has 0.5 in column 't'"),
    "text": (lambda r: r.assign(v=[*range(11), "many"]), "column 'v' .* row 11 has 'many'"),
    "infinity": (lambda r: r.assign(w=np.where(r.index == 2, np.inf, 1)), "column 'w' .* row 2 has inf"),
    "too large": (
        lambda r: r.assign(w=np.where(r.index == 2, 1e300, 1)),
        "'w' holds finite .* row 2 has 1e.300",
    ),
    "no column": (lambda r: r.drop(columns="w"), "row 0 has no 'w': t, v"),
    "nothing known": (lambda r: r.assign(w=r["w"].where(r.index < 5)), "none of 'w' in its last 4 steps"),
    "far apart": (
        lambda r: r.assign(t=r["t"].where(r.index != 11, r["t"][11].replace(year=2090))),
        "over [0-9,]+ of them",
    ),
    "no rows": (lambda r: r.iloc[:0], "at least one row"),
    "no table": (lambda r: 3, "got int"),
}


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_wrong_row_is_named(mistake):
    change, message = MISTAKES[mistake]
    with pytest.raises(ValueError, match=message):
        fitted(table())(change(table()))


@pytest.mark.parametrize(
    ("rows", "said", "message"),
    [
        (table(), {"time": "when"}, "has no 'when': t, v, w"),
        (table(town="Bern"), {}, "'town' of row 0 has 'Bern'"),
        (table()[["t"]], {}, "has a column of numbers"),
        (table().set_index("t"), {"time": None}, "reset_index"),
        (table(1), {}, "no series has two"),
        (table(), {"frequency": "often"}, "one of pandas' .* got 'often'"),
        (table(), {"frequency": 3}, "column 't' holds dates|one of pandas'"),
        (table(id=[None, *range(11)]), {"id": "id"}, "row 0 has no id in column 'id'"),
        (table(v=np.nan), {}, "'v' is missing in every training row"),
    ],
)
def test_what_cannot_be_fitted_is_refused(rows, said, message):
    with pytest.raises(ValueError, match=message):
        fitted(rows, **said)(rows)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"target_columns": []}, "target_columns"),
        ({"target_columns": ["v", "v"], "mean": [0, 0], "std": [1, 1]}, "one of them only"),
        ({"time_column": "v"}, "one of them only"),
        ({"timezone": 3}, "timezone is text"),
        ({"context_length": 0}, "context_length"),
        ({"prediction_length": 2**40}, "prediction_length"),
        ({"mean": [float("nan")]}, "mean"),
        ({"std": [0]}, "std"),
        ({"frequency": 0}, "frequency"),
        ({"frequency": "-1h"}, "frequency"),
        ({"frequency": "ns"}, "frequency"),
    ],
)
def test_wrong_fields_are_refused_by_name(changed, message):
    FPTTimeSeriesProcessor(**FIELDS)
    with pytest.raises(ValueError, match=message):
        FPTTimeSeriesProcessor(**FIELDS | changed)


def test_an_unknown_field_is_refused():
    with pytest.raises(TypeError, match="no field 'season'"):
        FPTTimeSeriesProcessor(**FIELDS, season=3)


@pytest.mark.parametrize("auto_class", [FPTTimeSeriesProcessor, AutoFeatureExtractor, AutoProcessor])
def test_it_is_saved_and_found_again(auto_class, tmp_path):
    processor = fitted(table(zone="Europe/Berlin"))
    processor.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "preprocessor_config.json").read_text())["timezone"] == "Europe/Berlin"
    loaded = auto_class.from_pretrained(tmp_path)
    assert type(loaded) is FPTTimeSeriesProcessor and loaded.to_dict() == processor.to_dict()
