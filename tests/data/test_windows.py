"""Windows of series: which there are, what they hold, and what needs no gradient beside them."""

import pickle

import datasets
import numpy as np
import pandas
import pytest

from fpt_adapters import FPTTimeSeriesProcessor
from fpt_adapters.data import windows as reading
from fpt_adapters.data.forecast_baselines import filled, fit_linear, last_value, linear, season_of, seasonal_naive
from fpt_adapters.data.forecast_scores import ForecastScores
from fpt_adapters.data.shuffling import LazyShuffle
from fpt_adapters.data.sources import Source
from fpt_adapters.data.time_splits import first_share, last_steps, sizes_of
from fpt_adapters.data.windows import Windows, read_series
from fpt_adapters.inputs.series_times import Clock

NAN = float("nan")


def frame(steps, start="2024-01-01", **columns):
    return pandas.DataFrame(
        {"t": pandas.date_range(start, periods=steps, freq="h"), "v": np.arange(float(steps))} | columns
    )


def read(rows, most=reading.IN_MEMORY, **settings):
    source = Source(datasets.Dataset.from_pandas(rows, preserve_index=False), "rows")
    found = FPTTimeSeriesProcessor.find(rows, 4, 2, **({"time": "t", "target": ["v"]} | settings))
    return read_series(source, found, most)


def firsts(windows):
    """The first label of each window."""
    return [int(example["labels"][0, 0]) for example in windows]


@pytest.mark.parametrize("most", [0, reading.IN_MEMORY])
@pytest.mark.parametrize("chunk", [3, 100])
def test_rows_take_their_places_some_at_a_time(most, chunk, monkeypatch):
    monkeypatch.setattr(reading, "CHUNK", chunk)
    whole = pandas.concat([frame(20, id="a"), frame(9, "2024-01-05", id="b")])
    gaps = whole.drop(index=[5, 6]).sort_values("t")
    rows = pandas.concat([gaps, gaps.iloc[[0, 3]]])
    table = read(rows.sample(frac=1, random_state=0), most, id="id", frequency="h")
    assert table.values.in_file == (most == 0) and (table.repeated, table.missing) == (2, 4)
    expected = {"a": [*range(5), NAN, NAN, *range(7, 20)], "b": [*range(5), NAN, NAN, 7, 8]}
    for key, start, length in zip(table.grid.ids, table.starts, table.lengths, strict=True):
        np.testing.assert_array_equal(table.values.array[start : start + length, 0], expected[key])
    copy = pickle.loads(pickle.dumps(table))
    np.testing.assert_array_equal(copy.values.array, table.values.array)


def test_a_wrong_row_is_named_by_its_number_in_the_file(monkeypatch):
    monkeypatch.setattr(reading, "CHUNK", 4)
    rows = frame(12)
    with pytest.raises(ValueError, match="row 9 of rows is another one of the series for 2024-01-01 02:00:00"):
        read(rows.assign(t=rows["t"].where(rows.index != 9, rows["t"][2])))
    with pytest.raises(ValueError, match=r"row 10 of rows has .*01:17"):
        read(rows.assign(t=rows["t"].where(rows.index != 10, pandas.Timestamp("2024-01-01 01:17"))))


def test_every_window_counts_and_reads_what_is_before_its_part():
    table = read(frame(30))
    train, validation, test = (Windows(table, spans, 4, 2) for spans in table.parted([15, 5, 10]))
    assert firsts(train) == list(range(4, 14)) and firsts(validation) == list(range(15, 19))
    assert firsts(test) == list(range(20, 29))
    assert test[0]["past_values"][:, 0].tolist() == [16, 17, 18, 19] and test[-1]["labels"][:, 0].tolist() == [28, 29]
    assert firsts(Windows(table, table.whole(), 4, 2, stride=10)) == [4, 14, 24]
    assert train[0]["past_values"].dtype == train[0]["labels"].dtype == np.float32
    with pytest.raises(IndexError):
        train[10]
    past, labels = (np.concatenate(parts) for parts in zip(*test.batches(size=4), strict=True))
    for row, example in enumerate(test):
        assert np.array_equal(past[row], example["past_values"]) and np.array_equal(labels[row], example["labels"])
    test.chosen = np.array([8, 0])
    assert firsts(test) == [28, 20]


def test_series_of_different_lengths():
    rows = pandas.concat([frame(20, id="long"), frame(5, "2024-01-01 03:00", id="short"), frame(2, id="tiny")])
    table = read(rows, id="id")
    windows = Windows(table, table.whole(), 4, 2)
    assert len(windows) == 15 + 1 and windows.left_out == 1
    np.testing.assert_array_equal(windows[15]["past_values"][:, 0], [NAN, 0, 1, 2])
    assert windows[15]["labels"][:, 0].tolist() == [3, 4]
    parts = table.parted([6, 14])  # at the same time for all
    assert [spans.tolist() for spans in parts] == [[[0, 6], [20, 23], [25, 27]], [[6, 20], [23, 25], [27, 27]]]
    later = Windows(table, parts[1], 4, 2)
    np.testing.assert_array_equal(later[len(later) - 1]["past_values"][:, 0], [NAN, 0, 1, 2])


@pytest.mark.parametrize(
    ("sizes", "expected"),
    [
        (lambda: sizes_of([8640, 2880, 2880], 17420), [8640, 2880, 2880]),
        (lambda: sizes_of([0.7, 0.1, 0.2], 52696), [36887, 5270, 10539]),
        (lambda: sizes_of([0.5, 0.1, 0.2], 100), [50, 10, 20]),
        (lambda: last_steps(10, ["validation", "test"], 100), [80, 10, 10]),
        (lambda: first_share(np.array([[0, 8640], [9000, 9100]]), 336, 0.1).tolist(), [[0, 1166], [9000, 9100]]),
    ],
)
def test_parts_of_time(sizes, expected):
    assert sizes() == expected


@pytest.mark.parametrize("count", [1, 2, 5, 1000, 4097])
def test_a_computed_order_is_a_shuffle(count):
    order = LazyShuffle(count, seed=3)
    first, again = list(order), list(order)
    order.set_epoch(1)
    assert first == again and sorted(first) == sorted(order) == list(range(count))
    if count > 100:
        assert first != list(order) and list(LazyShuffle(count, 4)) != first
        assert abs(np.corrcoef(first, range(count))[0, 1]) < 0.1


# What needs no gradient


def test_baselines_repeat_and_fit():
    past = np.array([[[1.0], [NAN], [3.0], [NAN]], [[NAN], [7.0], [8.0], [9.0]]])
    whole = filled(past)
    assert whole[..., 0].tolist() == [[1, 1, 3, 3], [7, 7, 8, 9]]
    assert filled(np.full((1, 2, 2), NAN), np.array([5.0, 6.0])).tolist() == [[[5, 6]] * 2]
    assert last_value(whole, 2)[..., 0].tolist() == [[3, 3], [9, 9]]
    assert seasonal_naive(whole, 5, 2)[..., 0].tolist() == [[3, 3, 3, 3, 3], [8, 9, 8, 9, 8]]


def test_the_linear_map_is_the_least_squares_one():
    draw = np.random.default_rng(0)
    level = draw.normal(0, 9, (300, 1, 2))
    past = draw.normal(0, [1, 100], (300, 5, 2)) + level
    true = draw.normal(0, 1, (5, 3))
    true[-1] = 0
    future = linear(past, true)
    weights = fit_linear([(past[:100], future[:100]), (past[100:], future[100:])], [1, 100])
    np.testing.assert_allclose(weights, true, atol=1e-8)
    noisy = future + draw.normal(0, [1, 100], future.shape)
    noisy[0, 0, 0] = NAN
    weights = fit_linear([(past, noisy)], [1, 100])
    rows = ((np.concatenate([past, noisy], 1) - past[:, -1:]) / [1, 100]).transpose(0, 2, 1).reshape(-1, 8)
    rows = rows[~np.isnan(rows).any(axis=1)]
    expected = np.linalg.lstsq(rows[:, :4], rows[:, 5:], rcond=None)[0]
    np.testing.assert_allclose(weights[:4], expected, atol=1e-8)
    assert fit_linear([(past, np.full_like(future, NAN))], [1, 100]) is None


@pytest.mark.parametrize(
    ("frequency", "season"),
    [
        *[("h", 24), ("15min", 96), ("10min", 144), ("2h", 12), ("D", 7), ("B", 5), ("7D", 52), ("W-SUN", 52)],
        *[("MS", 12), ("3MS", 4), ("BME", 12), ("QS-OCT", 4), ("YS", None), ("7h", None), ("24h", 7), (5, None)],
    ],
)
def test_seasons(frequency, season):
    assert season_of(Clock(frequency)) == season


def test_scores_are_over_all_known_values():
    draw = np.random.default_rng(0)
    labels = draw.normal(0, [1, 10], (30, 4, 2))
    labels[0, 1, 1] = NAN
    forecasts = np.sort(draw.normal(0, [[1], [10]], (30, 4, 2, 3)), axis=-1)
    scores = ForecastScores([1, 10], [0.1, 0.4, 0.9])
    for part in (slice(0, 7), slice(7, 30)):
        scores.add(forecasts[part], labels[part])
    error = (forecasts[..., 1] - labels) / [1, 10]
    loss = []
    for channel, number, level in np.ndindex(2, 3, 1):
        level = (0.1, 0.4, 0.9)[number]
        off = labels[..., channel] - forecasts[..., channel, number]
        loss.append(2 * np.nansum(np.maximum(level * off, (level - 1) * off)) / np.nansum(abs(labels[..., channel])))
    inside = ((labels >= forecasts[..., 0]) & (labels <= forecasts[..., 2])).sum() / (30 * 4 * 2 - 1)
    expected = {"mse": np.nanmean(error**2), "mae": np.nanmean(abs(error))}
    expected |= {"weighted_quantile_loss": np.mean(loss), "coverage": inside}
    assert scores.result() == pytest.approx(expected)
    with pytest.raises(ValueError, match="every label is missing"):
        ForecastScores([1]).result()
