"""A forecasting model and its processor: a table of series -> a table of the steps that follow."""

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from ..inputs.time_series_processing_fpt import NAME_ROW, FPTTimeSeriesProcessor, middle_level
from ..models.pretrained import FPTPreTrainedModel

if TYPE_CHECKING:
    import pandas

BATCH_SIZE = 32


class FPTForecastPipeline:
    """A model and its processor: a table of time series -> a DataFrame of forecasts.

    The table, a DataFrame, a `datasets.Dataset` or a dict of columns, has the columns of the training rows: time, id
    and channels; each series goes on behind its last row. See `FPTTimeSeriesProcessor.forecast_table` for the result.
    """

    def __init__(self, model: FPTPreTrainedModel, processor: FPTTimeSeriesProcessor):
        if not isinstance(processor, FPTTimeSeriesProcessor):
            raise ValueError(f"forecasts need an FPTTimeSeriesProcessor, got {type(processor).__name__}.")
        for name in ("context_length", "prediction_length"):
            of_model, given = getattr(model.config, name), getattr(processor, name)
            if of_model != given:
                raise ValueError(f"the processor has {name}={given}, but the model {of_model}: give the model's own.")
        self.model, self.processor = model.eval(), processor

    def __call__(self, table: Any, batch_size: int = BATCH_SIZE, where=NAME_ROW) -> "pandas.DataFrame":
        """Forecast each series of a table. Raises ValueError, naming row and column, for one that cannot be read."""
        windows = self.processor(table, return_tensors="pt", where=where)["past_values"]
        answers = torch.cat([self._answer(batch) for batch in windows.split(batch_size)])
        return self.processor.forecast_table(table, answers, self.model.config.quantiles, where)

    def points(self, windows: np.ndarray) -> np.ndarray:
        """Windows (batch, context_length, channels) -> one forecast each; of quantiles that nearest to one half."""
        answers, levels = self._answer(torch.from_numpy(windows)).numpy(), self.model.config.quantiles
        return answers if levels is None else answers[..., middle_level(levels)]

    @torch.no_grad()
    def _answer(self, windows: torch.Tensor) -> torch.Tensor:
        """(batch, context_length, channels) -> (batch, prediction_length, channels[, quantiles]), on the CPU."""
        return self.model(past_values=windows.to(self.model.device), return_dict=True).prediction_outputs.float().cpu()
