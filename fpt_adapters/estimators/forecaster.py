"""`FPTForecaster`: the steps that follow time series."""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import datasets
import numpy as np
from sklearn.utils.validation import check_is_fitted
from transformers import default_data_collator

from ..data.sources import Source
from ..data.splits import check_at_least
from ..data.windows import SeriesTable, Windows, read_series
from ..inference.forecasts import FPTForecastPipeline
from ..inference.pipeline import pipeline
from ..inputs.series_grid import frame_of
from ..inputs.time_series_processing_fpt import FPTTimeSeriesProcessor
from ..modeling_fpt import FPTForTimeSeriesPrediction
from .training import DEFAULT_BASE, TrainedEstimator

if TYPE_CHECKING:
    import pandas

WINDOWS = 3.5  # as many steps of context as of horizon, where none is said


class FPTForecaster(TrainedEstimator):
    """A frozen pretrained transformer that forecasts time series, in scikit-learn's manner.

    `base`: a Hub id, a folder, a `FrozenBase`, or a transformers configuration, whose weights are random then.
    `horizon`: how many steps are forecast, and `context_length`: how many are read (None: 3.5 times as many, as far as
    the series go). `frequency`: between two steps, as pandas writes it (None: that of most rows). `quantiles`: levels,
    such as [0.1, 0.5, 0.9], that are forecast instead of one number. Training takes `max_epochs` at most, and stops
    where the loss on the last `validation_fraction` of the steps has not become lower for `patience` epochs; the best
    epoch is kept (None: it goes on to the end, and holds none out). `stride`: steps between two training windows.
    `model_kwargs`: for `from_backbone`, such as `prediction_head`, `mix_channels`, `trainable`, `dtype`.
    `training_arguments`: transformers' TrainingArguments by name, which win. `random_state`: the seed of new weights
    and batches (None: another each time).

    After `fit`: `model_`, `processor_`, `n_iter_` (epochs).
    """

    def __init__(
        self,
        base: Any = DEFAULT_BASE,
        horizon: int = 96,
        *,
        context_length: int | None = None,
        frequency: str | int | None = None,
        quantiles: Sequence[float] | None = None,
        max_epochs: int = 10,
        learning_rate: float = 1e-3,
        batch_size: int = 32,
        validation_fraction: float = 0.1,
        patience: int | None = 3,
        stride: int = 1,
        model_kwargs: dict[str, Any] | None = None,
        training_arguments: dict[str, Any] | None = None,
        random_state: int | None = None,
    ):
        self.base = base
        self.horizon = horizon
        self.context_length = context_length
        self.frequency = frequency
        self.quantiles = quantiles
        self.max_epochs = max_epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.stride = stride
        self.model_kwargs = model_kwargs
        self.training_arguments = training_arguments
        self.random_state = random_state

    def fit(
        self,
        table: Any,
        y: None = None,
        *,
        time: str | None = None,
        target: str | Sequence[str] | None = None,
        id: str | None = None,
    ) -> "FPTForecaster":
        """Train on a table of one or many series: a DataFrame, a `datasets.Dataset`, or a dict of columns.

        A row is a step of a series. `time`: the column of its time (None: the rows are the steps, in their order).
        `target`: the columns that are read and forecast (None: all numbers but time and id). `id`: the column that
        says whose it is (None: there is one series). `y` is ignored. Raises ValueError, naming row and column, for a
        table that cannot be read, or is too short.
        """
        frame = frame_of(table)
        check_at_least("stride", self.stride, 1)
        given = self.context_length
        found = FPTTimeSeriesProcessor.find(
            frame, 1 if given is None else given, self.horizon, time, target, id, self.frequency
        )
        series = _read(frame, found)
        held = 0 if self.patience is None else max(round(self.validation_fraction * series.steps), 1)
        parts = series.parted([series.steps - held, held])
        longest = int((parts[0][:, 1] - parts[0][:, 0]).max())
        context = max(min(int(WINDOWS * self.horizon), longest - self.horizon), 1) if given is None else given
        found.context_length = context
        found.mean, found.std = series.scale(parts[0], found.target_columns)
        train = Windows(series, parts[0], context, self.horizon, self.stride)
        validation = Windows(series, parts[1], context, self.horizon)
        if not len(train):
            raise ValueError(
                f"a window has a step to read and horizon={self.horizon} to forecast, but no series has so many in "
                f"the {series.steps - held} steps to train on: give more rows, or a smaller horizon."
            )
        if held and not len(validation):
            raise ValueError(
                f"the last {held} steps (validation_fraction={self.validation_fraction}) are fewer than horizon="
                f"{self.horizon}: hold out more, or write patience=None, which holds none out."
            )
        self.processor_ = found
        fields = found.config_fields | {"quantiles": None if self.quantiles is None else list(self.quantiles)}
        with self._seeded() as seed:
            model = self._build(FPTForTimeSeriesPrediction, fields)
            self._train(model, train, validation if held else None, default_data_collator, seed)
        return self

    def predict(self, table: Any) -> "pandas.DataFrame":
        """Forecast the `horizon` steps after each series of a table, which has the columns of that of `fit`.

        Returns a DataFrame with id, times and channels, in the data's units, and with `quantiles` a column for each
        level. Raises ValueError, naming row and column, for a table that cannot be read.
        """
        check_is_fitted(self)
        return FPTForecastPipeline(self.model_, self.processor_)(table)

    def score(self, table: Any, y: None = None) -> float:
        """Minus the mean squared error of all windows of a table, each channel in units of its training rows.

        With quantiles it is that of the one nearest to one half. `y` is ignored.
        """
        check_is_fitted(self)
        series = _read(frame_of(table), self.processor_)
        windows = Windows(series, series.whole(), self.processor_.context_length, self.processor_.prediction_length)
        if not len(windows):
            raise ValueError("no series of the table has a window: it needs more steps than the horizon has.")
        answering, errors, count = FPTForecastPipeline(self.model_, self.processor_), 0.0, 0
        for past, future in windows.batches(self.batch_size):
            error = np.square((answering.points(past) - future) / np.asarray(self.processor_.std))
            errors, count = errors + np.nansum(error), count + np.isfinite(error).sum()
        return -float(errors / count)

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any) -> "FPTForecaster":
        """Load what was saved or pushed, ready to predict; `kwargs` as for `fpt_adapters.pipeline`."""
        loaded = pipeline(pretrained_model_name_or_path, **kwargs)
        config = loaded.model.config
        lengths = {"horizon": config.prediction_length, "context_length": config.context_length}
        forecaster = cls(config.base_model, **lengths, quantiles=config.quantiles)
        forecaster.model_, forecaster.processor_ = loaded.model, loaded.processor
        forecaster.n_iter_ = 0
        return forecaster


def _read(frame: "pandas.DataFrame", processor: FPTTimeSeriesProcessor) -> SeriesTable:
    return read_series(Source(datasets.Dataset.from_pandas(frame, preserve_index=False), "the table"), processor)
