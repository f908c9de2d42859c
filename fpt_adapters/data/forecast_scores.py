"""Scores of forecasts, added up a batch at a time, so that forecasts need not be held."""

from collections.abc import Sequence

import numpy as np


class ForecastScores:
    """Scores over all known values of all windows.

    `mse`, `mae`: of forecasts in units of `scale` (channels,), which is how this field states them; of quantiles, of
    the one nearest to one half. `weighted_quantile_loss`: for each channel twice the pinball loss over the sum of
    absolute values, both in the data's units, averaged over `quantiles` and channels. `coverage`: the share of values
    between the lowest and the highest quantile.
    """

    def __init__(self, scale: Sequence[float], quantiles: Sequence[float] | None = None):
        self.scale = np.asarray(scale, dtype=np.float64)
        self.quantiles = None if quantiles is None else np.asarray(quantiles, dtype=np.float64)
        channels = len(self.scale)
        self._known = self._squares = self._sizes = self._within = self._channel_sizes = 0.0
        self._pinball = np.zeros((channels, 0 if quantiles is None else len(quantiles)))

    def add(self, predictions: np.ndarray, labels: np.ndarray) -> None:
        """Add `predictions` (batch, steps, channels[, quantiles]) for `labels` (batch, steps, channels), NaN: none."""
        known = ~np.isnan(labels)
        self._known += known.sum()
        point = predictions
        if self.quantiles is not None:
            point = predictions[..., int(np.argmin(np.abs(self.quantiles - 0.5)))]
            self._add_quantiles(predictions, labels, known)
        error = np.where(known, (point - labels) / self.scale, 0.0)
        self._squares += np.square(error).sum()
        self._sizes += np.abs(error).sum()

    def _add_quantiles(self, predictions: np.ndarray, labels: np.ndarray, known: np.ndarray) -> None:
        for number, level in enumerate(self.quantiles):
            error = np.where(known, labels - predictions[..., number], 0.0).astype(np.float64)
            self._pinball[:, number] += np.maximum(level * error, (level - 1) * error).sum(axis=(0, 1))
        self._channel_sizes += np.where(known, np.abs(labels), 0.0).sum(axis=(0, 1), dtype=np.float64)
        inside = (labels >= predictions[..., 0]) & (labels <= predictions[..., -1])
        self._within += (inside & known).sum()

    def result(self) -> dict[str, float]:
        """The scores. Raises ValueError if no value was known."""
        if not self._known:
            raise ValueError("scores need at least one known value, but every label is missing.")
        scores = {"mse": self._squares / self._known, "mae": self._sizes / self._known}
        if self.quantiles is not None:
            some = np.asarray(self._channel_sizes) > 0
            if some.any():
                losses = 2 * self._pinball[some] / self._channel_sizes[some, None]  # (channels, quantiles)
                scores["weighted_quantile_loss"] = losses.mean()
            if len(self.quantiles) > 1:
                scores["coverage"] = self._within / self._known
        return {name: float(score) for name, score in scores.items()}
