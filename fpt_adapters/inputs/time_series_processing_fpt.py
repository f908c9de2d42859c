"""`FPTTimeSeriesProcessor`: a table of time series -> the windows that a model reads, and forecasts -> a table.

This file and those that it imports need no other of this library: they can be copied into a Hub repository and loaded
from there.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from transformers import BatchFeature
from transformers.feature_extraction_utils import FeatureExtractionMixin

from .series_grid import Grid, column_of, find_targets, frame_of, put, read_numbers, scale_of
from .series_times import Clock, find_frequency, read_times

if TYPE_CHECKING:
    import pandas

# What the base class and transformers add to preprocessor_config.json.
HUB_KEYS = {"auto_map", "feature_extractor_type", "processor_class"}
NO_FIELDS = "preprocessor_config.json of {} holds no fields by name, or is nested too deeply: fetch or save it again."
MOST_CHANNELS, MOST_STEPS = 2**14, 2**20
NAME_ROW = "row {}".format
STEP = "step"  # the column of a forecast of series without times
PATCH = 16  # steps, of which a new model's patches have as many, half as many apart


class FPTTimeSeriesProcessor(FeatureExtractionMixin):
    """Tables of time series -> `past_values` (series, context_length, channels), float32, in the data's own units.

    For a model's `input_type="windows"`; `fit` makes it from training rows. A row is a step of a series: its time, its
    numbers, a channel each, and, in a table with several series, whose it is. Rows may come in any order, and some may
    be missing: they are put on the regular grid of the frequency, and NaN stands where nothing was measured.

    `target_columns`: the channels. `time_column` (None: the rows are the steps, in their order); `id_column` (None:
    there is one series); `frequency`: between two steps, as pandas writes it ("h", "15min", "D", "MS"), or a whole
    number; `timezone` of the times; `date_format` of those that are text. `mean` and `std` of each channel: those of
    the training rows, by which losses and scores are standardised. Raises ValueError for other values, TypeError for
    a name that is no field.
    """

    model_input_names = ["past_values"]

    def __init__(
        self,
        target_columns: Sequence[str],
        context_length: int,
        prediction_length: int,
        mean: Sequence[float],
        std: Sequence[float],
        time_column: str | None = None,
        id_column: str | None = None,
        frequency: str | int = 1,
        timezone: str | None = None,
        date_format: str | None = None,
        **kwargs,
    ):
        for name in kwargs:
            if name not in HUB_KEYS and not (name.startswith("_") and not name.startswith("__")):
                raise TypeError(f"FPTTimeSeriesProcessor has no field {name!r:.200}; see its documentation.")
        kwargs.pop("feature_extractor_type", None)
        super().__init__(**kwargs)
        names = list(target_columns) if isinstance(target_columns, (list, tuple)) else []
        if not 0 < len(names) <= MOST_CHANNELS or not all(isinstance(name, str) for name in names):
            raise ValueError(f"target_columns are 1 to {MOST_CHANNELS} names, got {target_columns!r:.200}.")
        if len(set(names)) < len(names) or {time_column, id_column} & set(names):
            raise ValueError(f"a column is time, id or one of the channels, and one of them only: {names!r:.200}.")
        for name, text in (
            *(("time_column", time_column), ("id_column", id_column)),
            *(("timezone", timezone), ("date_format", date_format)),
        ):
            if text is not None and not isinstance(text, str):
                raise ValueError(f"{name} is text, got {text!r:.200}.")
        for name, length in (("context_length", context_length), ("prediction_length", prediction_length)):
            if type(length) is not int or not 0 < length <= MOST_STEPS:
                raise ValueError(f"{name} is a whole number of 1 to {MOST_STEPS}, got {length!r:.200}.")
        for name, numbers, least in (("mean", mean, -np.inf), ("std", std, 0)):
            right = isinstance(numbers, (list, tuple)) and len(numbers) == len(names)
            if not right or not all(type(n) in (int, float) and least < n < np.inf for n in numbers):
                raise ValueError(f"{name} is a number for each of {len(names)} channels, got {numbers!r:.200}.")
        self.target_columns, self.time_column, self.id_column = names, time_column, id_column
        self.context_length, self.prediction_length = context_length, prediction_length
        self.mean, self.std = [float(one) for one in mean], [float(one) for one in std]
        self.frequency, self.timezone, self.date_format = frequency, timezone, date_format
        self._clock()

    @classmethod
    def fit(
        cls,
        table: Any,
        context_length: int,
        prediction_length: int,
        time: str | None = None,
        target: str | Sequence[str] | None = None,
        id: str | None = None,
        frequency: str | int | None = None,
        date_format: str | None = None,
        where: Callable[[int], str] = NAME_ROW,
    ) -> "FPTTimeSeriesProcessor":
        """Make the processor of a table of training rows: a DataFrame, a `datasets.Dataset`, or a dict of columns.

        `time`: the column of the times (None: rows are steps, in their order). `target`: the channels (None: all
        columns of numbers but time and id). `id`: the column that says whose each row is (None: one series).
        `frequency`: None: the time between most rows. `date_format`: how texts are written as dates, as `strptime`
        has it (None: ISO, or the one that all fit). `where` names a row in messages.

        Raises ValueError, naming row and column, for what cannot be read.
        """
        frame = frame_of(table)
        found = cls.find(frame, context_length, prediction_length, time, target, id, frequency, date_format, where)
        names = found.target_columns
        found.mean, found.std = scale_of(lambda: [read_numbers(frame, names, where)], names)
        return found

    @classmethod
    def find(
        cls,
        table: Any,
        context_length: int,
        prediction_length: int,
        time: str | None = None,
        target: str | Sequence[str] | None = None,
        id: str | None = None,
        frequency: str | int | None = None,
        date_format: str | None = None,
        where: Callable[[int], str] = NAME_ROW,
    ) -> "FPTTimeSeriesProcessor":
        """As `fit`, but the scale stays 1 around 0: `table` may be some of the rows, for columns and frequency."""
        frame = frame_of(table)
        targets = find_targets(frame, time, id, [target] if isinstance(target, str) else target, where)
        zone = None
        if time is not None:
            column = column_of(frame, time, where)
            times, zone, date_format = read_times(column, where, date_format)
            if frequency is None:
                codes = Grid(Clock(1)).codes(_ids(frame, id, where), len(frame))
                frequency = find_frequency(times, codes, zone)
        return cls(
            *(targets, context_length, prediction_length, [0.0] * len(targets), [1.0] * len(targets), time, id),
            *(1 if frequency is None else frequency, zone, date_format),
        )

    @classmethod
    def get_feature_extractor_dict(cls, pretrained_model_name_or_path: Any, **kwargs) -> tuple[dict, dict]:
        """As for every extractor. Raises ValueError for a file that holds no fields by name, or too deep ones."""
        try:
            fields, unused = super().get_feature_extractor_dict(pretrained_model_name_or_path, **kwargs)
        except (AttributeError, RecursionError, TypeError) as error:  # transformers' own, of what it read
            raise ValueError(NO_FIELDS.format(pretrained_model_name_or_path)) from error
        if not isinstance(fields, dict):
            raise ValueError(NO_FIELDS.format(pretrained_model_name_or_path))
        return fields, unused

    @property
    def config_fields(self) -> dict[str, Any]:
        """The fields of `FPTConfig` for a model of these windows, with patches of a usual size."""
        length = min(PATCH, self.context_length)
        return {
            "input_type": "windows",
            "context_length": self.context_length,
            "prediction_length": self.prediction_length,
            "num_input_channels": len(self.target_columns),
            "patch_length": length,
            "patch_stride": max(length // 2, 1),
            "channel_mean": self.mean,
            "channel_scale": self.std,
            "id2label": dict(enumerate(self.target_columns)),
        }

    def __call__(
        self, table: Any, return_tensors: str | None = None, where: Callable[[int], str] = NAME_ROW
    ) -> BatchFeature:
        """A table, as `fit` takes it -> `past_values`: the last window of each series, in the order of the table.

        What is missing, also before a series began, is NaN. `return_tensors`: "pt" or "np" (also None: numpy). `where`
        names a row in messages. Raises ValueError, naming row and column, for what cannot be read, for two rows of one
        time that differ, and for a series that has no value of a channel in its window.
        """
        grid, codes, ordinals, frame = self._seen(table, where)
        steps, count = grid.steps(codes, ordinals, where), len(grid.ids)
        places = self.context_length - 1 - (grid.last[codes] - ordinals) // grid.clock.step
        rows = np.flatnonzero(places >= 0)
        values = np.full((count * self.context_length, len(self.target_columns)), np.nan, dtype=np.float32)
        numbers = read_numbers(frame, self.target_columns, where)
        put(
            *(values, np.zeros(len(values), dtype=bool), (codes * self.context_length + places)[rows], numbers[rows]),
            lambda row: self.twice(grid, int(codes[rows[row]]), int(steps[rows[row]]), where(int(rows[row]))),
        )
        values = values.reshape(count, self.context_length, -1)
        if (empty := np.isnan(values).all(axis=1)).any():
            number, channel = np.argwhere(empty)[0]
            raise ValueError(
                f"a forecast needs a value at least, but {grid.shown(number)} has none of "
                f"{self.target_columns[channel]!r} in its last {self.context_length} steps: leave the series out, or "
                "fill some in."
            )
        return BatchFeature({"past_values": values}, tensor_type=return_tensors)

    def forecast_table(
        self,
        table: Any,
        prediction_outputs: Any,
        quantiles: Sequence[float] | None = None,
        where: Callable[[int], str] = NAME_ROW,
    ) -> "pandas.DataFrame":
        """What a model answered for a table -> a DataFrame: the id, the times that follow, and a column a channel.

        `prediction_outputs` (series, prediction_length, channels[, quantiles]), of the windows made of `table`. With
        `quantiles`, the levels, a channel `OT` is the one nearest to one half, beside `OT_0.1` and so
        on. Without a time column, "step" counts on. Raises ValueError for another shape.
        """
        import pandas

        grid, *_ = self._seen(table, where)
        levels = [] if quantiles is None else list(quantiles)
        answers = np.asarray(prediction_outputs, dtype=np.float32)
        shape = (len(grid.ids), self.prediction_length, len(self.target_columns), *filter(None, [len(levels)]))
        if answers.shape != shape:
            raise ValueError(f"the forecasts of this table have shape {shape}, got {answers.shape}.")
        columns: dict[str, Any] = {}
        if self.id_column is not None:
            columns[self.id_column] = np.repeat(np.array(grid.ids, dtype=object), self.prediction_length)
        ahead = grid.last[:, None] + grid.clock.step * np.arange(1, self.prediction_length + 1)
        columns[self.time_column or STEP] = grid.clock.times(ahead.reshape(-1))
        answers = answers.reshape(len(ahead) * self.prediction_length, *shape[2:])
        for channel, name in enumerate(self.target_columns):
            if not levels:
                columns[name] = answers[:, channel]
                continue
            columns[name] = answers[:, channel, middle_level(levels)]
            columns |= {f"{name}_{level:g}": answers[:, channel, number] for number, level in enumerate(levels)}
        return pandas.DataFrame(columns).infer_objects()

    def read(
        self, frame: "pandas.DataFrame", grid: Grid, where: Callable[[int], str]
    ) -> tuple[np.ndarray, np.ndarray]:
        """The series of each row, as `grid` numbers them, and its ordinal: int64 (rows,) each.

        `frame` may be some rows of a table, if all rows before it were seen. Raises ValueError, naming row and column.
        """
        codes = grid.codes(_ids(frame, self.id_column, where), len(frame))
        if self.time_column is None:
            return codes, grid.counted(codes)
        times, zone, _ = read_times(column_of(frame, self.time_column, where), where, self.date_format)
        if (zone is None) != (self.timezone is None):
            raise ValueError(
                f"times have a zone or have none, as in training, but there it is {self.timezone} and here, in "
                f"column {self.time_column!r} of {where(0)}, {zone}: write them as they were."
            )
        return codes, grid.clock.ordinals(times, self.time_column, where)

    def grid(self) -> Grid:
        """A grid that has seen no rows yet."""
        return Grid(self._clock(), self.time_column)

    def twice(self, grid: Grid, number: int, step: int, row: str) -> str:
        """The message for a row that comes again, and differs."""
        time = grid.clock.shown(int(grid.first[number]) + step * grid.clock.step)
        return (
            f"a series has one row for each time, but {row} is another one of {grid.shown(number)} for {time} (column "
            f"{self.time_column!r}): drop one, or take their mean; name the id column if there are several series; if "
            "clocks were set back, give the times their zone, as pandas' tz_localize does."
        )

    def _seen(self, table: Any, where: Callable[[int], str]) -> tuple[Grid, np.ndarray, np.ndarray, Any]:
        frame, grid = frame_of(table), self.grid()
        codes, ordinals = self.read(frame, grid, where)
        grid.see(codes, ordinals)
        grid.check_lengths()
        return grid, codes, ordinals, frame

    def _clock(self) -> Clock:
        return Clock(self.frequency, self.timezone)


def middle_level(levels: Sequence[float]) -> int:
    """The number of the level that is nearest to one half."""
    return int(np.argmin(np.abs(np.array(levels) - 0.5)))


def _ids(frame: "pandas.DataFrame", name: str | None, where: Callable[[int], str]) -> Any:
    """Whose each row is. Raises ValueError for a row without an id."""
    if name is None:
        return None
    ids = column_of(frame, name, where)
    if (missing := ids.isna().to_numpy()).any():
        row = where(int(missing.argmax()))
        raise ValueError(
            f"each row is of a series, but {row} has no id in column {name!r}: fill it in, or drop the row."
        )
    return ids.tolist()
