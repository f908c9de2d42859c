"""`FPTForecaster`: a table in, a table of what follows out; saved, loaded, cloned; what is refused."""

import numpy as np
import pandas
import pytest
from conftest import tiny_config
from sklearn.base import clone

from fpt_adapters import FPTForecaster

STEPS, HORIZON = 240, 6


def series(start="2024-03-01", level=100.0):
    rng = np.random.default_rng(0)
    waves = level + 10 * np.sin(np.arange(STEPS) * 2 * np.pi / 24) + rng.normal(size=STEPS)
    return pandas.DataFrame({"date": pandas.date_range(start, periods=STEPS, freq="h"), "OT": waves, "HT": -waves})


def forecaster(**settings):
    return FPTForecaster(tiny_config("gpt2"), HORIZON, **{"context_length": 24, "random_state": 0} | settings)


@pytest.fixture(scope="module")
def fitted():
    return forecaster(learning_rate=5e-3).fit(series(), time="date")


def test_it_forecasts_what_follows_in_the_units_and_times_of_the_data(fitted):
    table = series()
    answers = fitted.predict(table)
    assert list(answers) == ["date", "OT", "HT"]
    assert answers["date"].tolist() == pandas.date_range("2024-03-11", periods=HORIZON, freq="h").tolist()
    expected = 100 + 10 * np.sin(np.arange(STEPS, STEPS + HORIZON) * 2 * np.pi / 24)
    repeated = np.abs(table["OT"].iloc[-1] - expected).mean()  # the last value
    assert np.abs(answers["OT"] - expected).mean() < repeated
    assert fitted.score(table) > -0.5 and 1 <= fitted.n_iter_ <= 10  # always the mean: -1


def test_the_scale_is_that_of_the_steps_that_are_trained_on(fitted):
    table = series()
    trained = table.iloc[: STEPS - STEPS // 10]
    assert fitted.processor_.mean[0] == pytest.approx(trained["OT"].mean(), rel=1e-5)
    whole = forecaster(patience=None, max_epochs=1).fit(table, time="date")
    assert whole.processor_.mean[0] == pytest.approx(table["OT"].mean(), rel=1e-5)


def test_saved_and_loaded_it_forecasts_the_same(fitted, tmp_path):
    fitted.save_pretrained(tmp_path)
    loaded = FPTForecaster.from_pretrained(tmp_path)
    pandas.testing.assert_frame_equal(loaded.predict(series()), fitted.predict(series()))
    assert (loaded.horizon, loaded.context_length, loaded.score(series())) == (HORIZON, 24, fitted.score(series()))


def test_the_same_seed_gives_the_same_and_a_clone_is_not_fitted(fitted):
    again = clone(fitted)
    assert again.get_params() == fitted.get_params() and not hasattr(again, "model_")
    again.fit(series(), time="date")
    pandas.testing.assert_frame_equal(again.predict(series()), fitted.predict(series()))


def test_quantiles_of_several_series_rise(tmp_path):
    table = pandas.concat([series().assign(meter="a"), series("2024-03-05", 5.0).iloc[:100].assign(meter="b")])
    model = forecaster(quantiles=[0.1, 0.5, 0.9], max_epochs=1, context_length=None)
    answers = model.fit(table, time="date", id="meter", target="OT").predict(table)
    assert answers.groupby("meter").size().tolist() == [HORIZON, HORIZON]
    assert (answers["OT_0.1"] <= answers["OT_0.5"]).all() and (answers["OT_0.5"] <= answers["OT_0.9"]).all()
    assert (answers["OT"] == answers["OT_0.5"]).all() and model.model_.config.context_length == int(3.5 * HORIZON)
    model.save_pretrained(tmp_path)
    assert FPTForecaster.from_pretrained(tmp_path).quantiles == [0.1, 0.5, 0.9]


REFUSED = {
    "a column": ({}, {"time": "day"}, "no 'day'"),
    "a target": ({}, {"time": "date", "target": ["XT"]}, "no 'XT'"),
    "a horizon": ({"horizon": 230}, {"time": "date"}, "no series has so many in the 216 steps to train on"),
    "a context": ({"context_length": 0}, {"time": "date"}, "context_length is a whole number of 1 to"),
    "a stride": ({"stride": 0}, {"time": "date"}, "stride"),
    "what is held out": ({"validation_fraction": 0.01}, {"time": "date"}, r"last 2 steps .* fewer than horizon=6"),
}


@pytest.mark.parametrize(("settings", "columns", "said"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_learned_from_is_refused(settings, columns, said):
    with pytest.raises(ValueError, match=said):
        forecaster().set_params(**settings).fit(series(), **columns)
