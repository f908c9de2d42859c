"""Forecasts of time series of one's own: windows drawn from a table, parted by time, beside what needs no gradient."""

import logging
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from transformers import EvalPrediction

from ..data.forecast_baselines import fit_linear, score_baselines, season_of
from ..data.forecast_scores import ForecastScores
from ..data.sources import Source
from ..data.splits import SPLITS, check_at_least, keep_some, split_sizes
from ..data.time_splits import check_splits, first_share, last_steps, sizes_of
from ..data.windows import SeriesTable, Windows, first_rows, read_series
from ..inputs.time_series_processing_fpt import FPTTimeSeriesProcessor
from ..modeling_fpt import FPTForTimeSeriesPrediction
from ..rules.wording import counted, thousands
from .files import FileArguments
from .task import Task, TaskData

logger = logging.getLogger(__name__)

TIME_COLUMNS = ("date", "time", "timestamp", "datetime", "ds")
MOST_FITTED = 50_000  # training windows that the linear map is fitted to; of more, so many evenly spread
MODEL_FIELDS = (
    *("patch_length", "patch_stride", "scaling", "mix_channels", "prediction_head", "loss", "quantiles"),
)  # of the configuration, where they are said


@dataclass
class TimeSeriesForecasting(FileArguments, Task):
    """The steps that follow each window of one or many series; what a test window reads may lie before the test."""

    name = "time-series-forecasting"
    model_class = FPTForTimeSeriesPrediction
    data_source = "time series of one's own"
    is_generic = True
    scores_batches = True

    time_column: str | None = field(
        default=None, metadata={"help": f"Column of the times (default: {', '.join(TIME_COLUMNS)})."}
    )
    rows_are_steps: bool = field(
        default=False, metadata={"help": "Take rows as steps in their order; no column of times is read."}
    )
    id_column: str | None = field(
        default=None, metadata={"help": "Column that says whose each row is, if the table has several series."}
    )
    target_columns: list[str] | None = field(
        default=None, metadata={"help": "Columns that are read and forecast (default: all but time and id)."}
    )
    frequency: str | None = field(
        default=None,
        metadata={"help": "Between two steps, as pandas has it: h, 15min, D, MS (default: as most rows)."},
    )
    date_format: str | None = field(
        default=None,
        metadata={"help": "How dates are written, such as %%d/%%m/%%Y (default: 2024-12-31, or as all rows tell)."},
    )
    context_length: int = field(default=336, metadata={"help": "Steps of a window that the model reads."})
    prediction_length: int = field(default=96, metadata={"help": "Steps that it forecasts."})
    splits: list[float] | None = field(
        default=None,
        metadata={
            "help": "Steps of train, validation and test, one after another in time: 8640 2880 2880, or shares: "
            "0.7 0.1 0.2 (default: validation_share at the end for test, as much before it for validation)."
        },
    )
    train_fraction: float = field(
        default=1.0,
        metadata={
            "help": "Train on the first share of the steps after the first context only (few-shot, as GPT4TS has it); "
            "scores stay in units of all training rows."
        },
    )
    train_stride: int = field(default=1, metadata={"help": "Steps between the starts of two training windows."})
    season: int | None = field(
        default=None,
        metadata={"help": "Steps that the seasonal naive forecast repeats (default: a day, a week or a year)."},
    )
    patch_length: int | None = field(default=None, metadata={"help": "Steps of a patch (default: 16)."})
    patch_stride: int | None = field(
        default=None, metadata={"help": "Steps between two patches (default: half of it)."}
    )
    scaling: str | None = field(default=None, metadata={"help": "Of each window: std (default), last or none."})
    mix_channels: bool = field(default=False, metadata={"help": "A token holds all channels, not one."})
    prediction_head: str | None = field(default=None, metadata={"help": "flatten (default) or pooled."})
    loss: str | None = field(default=None, metadata={"help": "mse (default), mae or huber."})
    quantiles: list[float] | None = field(
        default=None, metadata={"help": "Forecast these quantiles instead of one number: 0.1 0.5 0.9."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("context_length", "prediction_length", "train_stride"):
            check_at_least(name, getattr(self, name), 1)
        if not 0 < self.train_fraction <= 1:
            raise ValueError(f"train_fraction lies above 0 and is at most 1, got {self.train_fraction}.")
        if self.rows_are_steps and self.time_column:
            raise ValueError("rows_are_steps reads no times: leave time_column out, or rows_are_steps.")
        if self.season is not None:
            check_at_least("season", self.season, 1)
            if self.season > self.context_length:
                raise ValueError(f"a season lies within context_length={self.context_length}, got {self.season}.")
        if self.label_column is not None or self.min_label_examples != 1:
            raise ValueError("forecasts have no labels but what follows: write --target_columns, not --label_column.")
        if self.splits is not None:
            check_splits(self.splits)
            if self.validation_examples is not None:
                raise ValueError("splits say how many steps are held out: leave --validation_examples out.")
        self._processor: FPTTimeSeriesProcessor | None = None  # these are found by `load`
        self._train: Windows | None = None
        self._weights: np.ndarray | None = None  # of the linear map
        self._scores: ForecastScores | None = None
        self._floors: dict[int, dict[str, float]] = {}

    def reads(self, copy_of: str | None = None) -> bool:
        return False

    def load(self, seed: int = 0, max_samples: dict[str, int] | None = None) -> TaskData:
        """Read the tables, part them by time, and find the scale of the training rows.

        Raises ValueError, naming row and column, for rows that cannot be read, and for parts without a window.
        """
        sources = self._sources()
        found = self._find(sources["train"])
        tables = {split: read_series(source, found) for split, source in sources.items()}
        spans = self._spans(tables)
        found.mean, found.std = tables["train"].scale(spans["train"], found.target_columns)
        self._processor = found
        lines, windows = _lines(found, tables, sources), {}
        for split in SPLITS:
            table, span = tables.get(split, tables["train"]), spans[split]
            if split == "train":
                span = first_share(span, self.context_length, self.train_fraction)
            stride = self.train_stride if split == "train" else 1
            windows[split] = Windows(table, span, self.context_length, self.prediction_length, stride)
            lines.append(self._check(windows[split], split))
        sizes = split_sizes({split: len(windows[split]) for split in SPLITS}, max_samples)
        for split in SPLITS:
            if sizes[split] < len(windows[split]):
                windows[split].chosen = keep_some(np.arange(len(windows[split])), sizes[split], seed, split)
        self._train = windows["train"]
        self._weights = self._scores = None
        self._floors.clear()
        config = self._processor.config_fields | {
            name: getattr(self, name) for name in MODEL_FIELDS if getattr(self, name) not in (None, False)
        }
        if self.patch_length is not None and self.patch_stride is None:
            config["patch_stride"] = max(self.patch_length // 2, 1)
        season = self.season_length
        lines.append(f"season: {counted(season, 'step')}" if season else "season: none within a window is known")
        return TaskData(**windows, config=config, found=lines)

    def stream(self, *args: Any, **kwargs: Any) -> TaskData:
        """Raise ValueError: windows are drawn from a file of their own, which needs no memory either."""
        raise ValueError(
            f"{self.name} draws windows from values on disk where they are many, in constant memory: leave "
            "--streaming out."
        )

    def processor(self) -> FPTTimeSeriesProcessor:
        """What makes windows of a table; `load` has found it. Raises ValueError before."""
        if self._processor is None:
            raise ValueError(f"the processor of {self.name} is found in the training rows: call load first.")
        return self._processor

    # Scores

    @staticmethod
    def preprocess_logits_for_metrics(logits: Any, labels: torch.Tensor) -> torch.Tensor:
        """Keep the forecasts, of what the model gives beside them."""
        return logits[0] if isinstance(logits, (tuple, list)) else logits

    def compute_metrics(self, prediction: EvalPrediction, compute_result: bool = True) -> dict[str, float]:
        """Add a batch, or all, to the scores, which are standardised; after the last one (`compute_result`) tell them.

        Made for Trainer's `batch_eval_metrics`, so that an evaluation holds no forecasts.
        """
        self._scores = self._scores or self._new_scores()
        batches = (prediction.predictions, prediction.label_ids)
        many = [batch if isinstance(batch, list) else [batch] for batch in batches]
        for predictions, labels in zip(*many, strict=True):
            self._scores.add(*(np.asarray(torch.as_tensor(one).float().cpu()) for one in (predictions, labels)))
        if not compute_result:
            return {}
        scores, self._scores = self._scores.result(), None
        return scores

    def floors(self, split: Windows) -> dict[str, float]:
        """The scores of what needs no gradient: of each, and by the metric's own name the lowest of them.

        The last value, the season before (`season`), and a linear map that is fitted to the training windows.
        """
        if id(split) not in self._floors:
            if self._weights is None:  # once for all splits
                self._weights = fit_linear(self._train.batches(most=MOST_FITTED), self.processor().std)
            by_name = score_baselines(
                split.batches(), self._weights, self.processor().mean, self._new_scores, self.season_length
            )
            metrics = [name for name in next(iter(by_name.values())) if name != "coverage"]
            best = {metric: min(scores[metric] for scores in by_name.values()) for metric in metrics}
            each = {f"{name}_{metric}": scores[metric] for name, scores in by_name.items() for metric in metrics}
            self._floors[id(split)] = best | each
        return self._floors[id(split)]

    def floor(self, split: Windows) -> float:
        """The lowest mean squared error among `floors`."""
        return self.floors(split)["mse"]

    @property
    def season_length(self) -> int | None:
        """The steps that the seasonal naive forecast repeats; None: no such forecast."""
        season = self.season or season_of(self.processor().grid().clock)
        return season if season is not None and season <= self.context_length else None

    def _new_scores(self) -> ForecastScores:
        return ForecastScores(self.processor().std, self.quantiles)

    # Tables

    def _find(self, source: Source) -> FPTTimeSeriesProcessor:
        """A processor that reads these tables, with a scale that is not yet the right one."""
        columns = source.data.column_names
        time = self.time_column
        if time is None and not self.rows_are_steps:
            time = next((name for name in TIME_COLUMNS if name in columns), None)
            if time is None:
                raise ValueError(
                    f"{source.name} has no column called {', '.join(TIME_COLUMNS)} but {', '.join(columns)}: write "
                    "one of these as --time_column, or --rows_are_steps."
                )
        targets = self.target_columns
        if self.rows_are_steps and targets is None:
            aside = {*TIME_COLUMNS, self.id_column}
            targets = [name for name in columns if name not in aside]
        frequency = self.frequency
        if frequency is not None and frequency.isdigit():
            frequency = int(frequency)
        return FPTTimeSeriesProcessor.find(
            first_rows(source),
            *(self.context_length, self.prediction_length, time, targets, self.id_column, frequency),
            *(self.date_format, source.where),
        )

    def _spans(self, tables: dict[str, SeriesTable]) -> dict[str, np.ndarray]:
        """Where the labels of each split lie: (series, 2) each."""
        table = tables["train"]
        held = [split for split in ("validation", "test") if split not in tables]
        if self.splits is not None and len(held) < 2:
            raise ValueError("splits part one table: leave --splits out, or --validation_file and --test_file.")
        if self.splits is not None:
            sizes = sizes_of(self.splits, table.steps)
        else:
            size = self.validation_examples or max(round(self.validation_share * table.steps), 1)
            sizes = last_steps(size, held, table.steps)
        parts = dict(zip(["train", *held], table.parted(sizes), strict=True))
        return parts | {split: tables[split].whole() for split in ("validation", "test") if split in tables}

    def _check(self, windows: Windows, split: str) -> str:
        """What a split has, in words. Raises ValueError for one without a window."""
        steps = int((windows.spans[:, 1] - windows.spans[:, 0]).max(initial=0))
        if not len(windows):
            raise ValueError(
                f"{split} has no window: its series have {thousands(steps)} steps at most, and a window has a step "
                f"before and prediction_length={self.prediction_length} behind: write a smaller one, or more --splits."
            )
        if windows.left_out:
            logger.warning(
                "%d of %d series have too few steps in %s for a window of prediction_length=%d: they are left out.",
                *(windows.left_out, len(windows.spans), split, self.prediction_length),
            )
        clock, table = windows.table.grid.clock, windows.table
        longest = int((windows.spans[:, 1] - windows.spans[:, 0]).argmax())
        begin, end = (int(step - table.starts[longest]) for step in windows.spans[longest])
        times = [clock.shown(int(table.grid.first[longest]) + step * clock.step) for step in (begin, end - 1)]
        return f"{split}: {counted(len(windows), 'window')}, {thousands(steps)} steps from {times[0]} to {times[1]}"


def _lines(processor: FPTTimeSeriesProcessor, tables: dict[str, SeriesTable], sources: dict[str, Source]) -> list[str]:
    """What was found in the tables."""
    channels = counted(len(processor.target_columns), "channel")
    lines = [
        f"{channels}: {', '.join(processor.target_columns[:6])}{' ...' if len(processor.target_columns) > 6 else ''}"
    ]
    if processor.time_column is not None:
        zone = f" ({processor.timezone})" if processor.timezone else ""
        lines.append(f"times in column {processor.time_column!r}{zone}, steps of {processor.frequency}")
    for split, table in tables.items():
        words = [f"{counted(len(table.lengths), 'series', 'series')}, {thousands(int(table.lengths.sum()))} steps"]
        words += [f"{thousands(table.missing)} of them missing"] if table.missing else []
        words += [f"{counted(table.repeated, 'row')} came twice, the same"] if table.repeated else []
        lines.append(f"{sources[split].name}: {', '.join(words)}")
    names = [name for name, std in zip(processor.target_columns, processor.std, strict=True) if std == 1]
    return [*lines, f"the same in all training rows: {', '.join(names)}"] if names else lines
