"""Forecasts that need no gradient, for every model to stand beside: plain functions of windows.

Windows are (batch, steps, channels), NaN where a value is missing.
"""

from collections.abc import Callable, Iterable, Sequence

import numpy as np

from ..inputs.series_times import DAY, Clock
from .forecast_scores import ForecastScores

OF_A_YEAR = {"W": 52, "M": 12, "Q": 4}  # steps, by the first letter of a frequency


def filled(past: np.ndarray, otherwise: np.ndarray | float = 0.0) -> np.ndarray:
    """Windows with each missing value replaced by the one before it, or by the first one after; none: `otherwise`."""
    known = ~np.isnan(past)
    steps = np.arange(past.shape[1])[:, None]
    before = np.maximum.accumulate(np.where(known, steps, -1), axis=1)
    at = np.where(before >= 0, before, known.argmax(axis=1)[:, None])
    return np.where(known.any(axis=1)[:, None], np.take_along_axis(past, at, axis=1), otherwise)


def last_value(past: np.ndarray, steps: int) -> np.ndarray:
    """Repeat the last value: (batch, steps, channels)."""
    return np.repeat(past[:, -1:], steps, axis=1)


def seasonal_naive(past: np.ndarray, steps: int, season: int) -> np.ndarray:
    """Repeat the last `season` steps: (batch, steps, channels)."""
    return past[:, past.shape[1] - season + np.arange(steps) % season]


def linear(past: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The `weights` (window, steps) of `fit_linear`, on the window less its last value: (batch, steps, channels)."""
    last = past[:, -1:]
    return np.matmul((past - last).transpose(0, 2, 1), weights).transpose(0, 2, 1) + last


def fit_linear(windows: Iterable[tuple[np.ndarray, np.ndarray]], scale: Sequence[float]) -> np.ndarray | None:
    """The least squares map of windows less their last value to what follows, less that value: (window, steps).

    One map for all channels, each in units of its `scale`, without an intercept and without a penalty. Windows are
    `filled`; those before a missing value are left out. None: no window is left.
    """
    gram, moments, count = 0.0, 0.0, 0
    for past, future in windows:
        past = filled(past, np.nan).astype(np.float64)
        rows = np.concatenate([past, future], axis=1).transpose(0, 2, 1)  # (batch, channels, window + steps)
        rows = ((rows - past[:, -1, :, None]) / np.asarray(scale)[:, None]).reshape(-1, rows.shape[-1])
        rows = rows[~np.isnan(rows).any(axis=1)]
        before, after = rows[:, : past.shape[1]], rows[:, past.shape[1] :]
        gram, moments, count = gram + before.T @ before, moments + before.T @ after, count + len(rows)
    return np.linalg.lstsq(gram, moments, rcond=None)[0] if count else None


def season_of(clock: Clock) -> int | None:
    """The steps of a day; for steps of a day, of a week; for longer ones, of a year. None: no whole number."""
    if clock.counts == "numbers":
        return None
    if clock.counts == "dates":
        alias = clock.frequency.lstrip("0123456789")
        whole = 5 if alias == "B" else OF_A_YEAR.get(alias.lstrip("B")[0], 0)
    else:
        whole = DAY if clock.step < DAY else DAY * (7 if clock.step < 7 * DAY else 364)
    season, rest = divmod(whole, clock.step)
    return season if season > 1 and not rest else None


def score_baselines(
    windows: Iterable[tuple[np.ndarray, np.ndarray]],
    weights: np.ndarray | None,
    mean: Sequence[float],
    new_scores: Callable[[], ForecastScores],
    season: int | None,
) -> dict[str, dict[str, float]]:
    """The scores of each baseline on `windows`; `weights`: see `fit_linear`. None: without the one that needs it.

    A missing value of a window is taken to be the one before it; a channel without any, its `mean` (channels,).
    """
    empty = new_scores()
    scores: dict[str, ForecastScores] = {}
    for past, future in windows:
        past, steps = filled(past, np.asarray(mean)).astype(np.float64), future.shape[1]
        answers = {"last_value": last_value(past, steps)}
        if weights is not None:
            answers["linear"] = linear(past, weights)
        if season is not None:
            answers["seasonal_naive"] = seasonal_naive(past, steps, season)
        for name, answer in answers.items():
            if empty.quantiles is not None:  # a point is every quantile
                answer = np.repeat(answer[..., None], len(empty.quantiles), axis=-1)
            scores.setdefault(name, new_scores()).add(answer, future)
    return {name: one.result() for name, one in scores.items()}
