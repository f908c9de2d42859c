"""Time series of one's own: a class, several labels or numbers for each; ragged, of several channels, with gaps."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from ..data.columns import column_of, find_column, inner_feature
from ..data.series import VALUES, from_long_form, read_ts
from ..data.sources import Source
from ..data.splits import Part, check_at_least
from ..data.targets import CLASSES, LABELS, NUMBERS
from ..inputs.feature_extraction_fpt import FPTFeatureExtractor
from ..modeling_fpt import FPTForSequenceClassification
from .row_task import RowTask, check_apart

logger = logging.getLogger(__name__)


@dataclass
class TimeSeriesTask(RowTask):
    """Series in patches: rows of nested lists, steps in long form, or `.ts` files."""

    model_class = FPTForSequenceClassification

    values_column: str | None = field(
        default=None, metadata={"help": "Column with the series: lists of numbers, or of lists, one for each step."}
    )
    id_column: str | None = field(
        default=None,
        metadata={"help": "For rows that are steps: the column that says whose; other numbers: channels."},
    )
    step_column: str | None = field(
        default=None, metadata={"help": "For rows that are steps: the time within a series."}
    )
    max_length: int | None = field(
        default=None,
        metadata={"help": "Steps that are read (default: as the longest training series); the rest is cut off."},
    )
    patch_length: int | None = field(default=None, metadata={"help": "Steps of a patch, which is a token."})
    patch_stride: int | None = field(default=None, metadata={"help": "Steps between the starts of two patches."})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("max_length", "patch_length", "patch_stride"):
            if getattr(self, name) is not None:
                check_at_least(name, getattr(self, name), 1)
        if self.step_column is not None and self.id_column is None:
            raise ValueError("step_column orders the steps of a series, which id_column tells: write --id_column too.")

    def fit(self, part: Part) -> tuple[FPTFeatureExtractor, dict[str, Any], list[str]]:
        self.column = find_column(part.source, self.values_column, (VALUES,), _is_series, "values_column")
        series = self._read(part)
        _check_channels(series, part, self.column)
        fields = {} if self.max_length is None else {"max_length": self.max_length}
        if _has_gaps(part.source, self.column):  # also of rows that are held out
            fields["missing_indicator"] = True
        lengths = sorted(map(len, series))
        patches = {"patch_length": self.patch_length, "patch_stride": self.patch_stride}
        extractor = FPTFeatureExtractor.fit(series, **patches, **fields)
        gaps = "with" if extractor.missing_indicator else "without"
        channels = f"{extractor.feature_size} channel{'s' if extractor.feature_size > 1 else ''}"
        found = [
            f"column {self.column!r}: series of {lengths[0]} to {lengths[-1]} steps, {channels}, {gaps} gaps",
            f"patches of {extractor.patch_length} steps, {extractor.patch_stride} apart",
        ]
        return extractor, extractor.config_fields, found

    def inputs(self, part: Part) -> Sequence[dict[str, Any]]:
        extractor, examples = self.processor(), []
        series = self._read(part)
        for row, steps in zip(part.rows, series, strict=True):
            if np.isnan(steps).any() and not extractor.missing_indicator:
                raise ValueError(
                    f"series may have gaps where training rows have some, but {part.source.where(int(row))} has one "
                    f"in column {self.column!r}, and no training row has: fill it, or drop the row."
                )
            try:
                values = extractor(steps, truncation=True)["input_values"][0]
            except ValueError as error:
                raise ValueError(f"column {self.column!r}, {part.source.where(int(row))}: {error}") from error
            examples.append({"input_values": values})
        cut = sum(len(steps) > extractor.max_length for steps in series)
        if cut:
            logger.warning(
                "%d of %d series of %s are longer than max_length=%d and were cut to it: write --max_length %d.",
                *(cut, len(series), part.source.name, extractor.max_length, max(map(len, series))),
            )
        return examples

    def _read(self, part: Part) -> list[np.ndarray]:
        """The series of a part: float64 (steps, channels) each. Raises ValueError, naming the row."""
        values = column_of(part.source, self.column, "values_column").take(part.rows)
        return [
            self._array(steps, f"{part.source.where(int(row))} (column {self.column!r})")
            for row, steps in zip(part.rows, values.to_pylist(), strict=True)
        ]

    @staticmethod
    def _array(steps: Any, where: str) -> np.ndarray:
        """The series of the row `where`: float64 (steps, channels), NaN where a number is missing."""
        if not steps:
            raise ValueError(f"each row needs a series, but {where} has none: drop the row.")
        widths = {len(step) if isinstance(step, list) else 1 for step in steps if step is not None}
        if len(widths) > 1 or 0 in widths:
            raise ValueError(f"each step has as many numbers, but the steps in {where} have {sorted(widths)}.")
        gap = [None] * max(widths, default=1)
        steps = [gap if step is None else step if isinstance(step, list) else [step] for step in steps]
        array = np.array(steps, dtype=np.float64)  # NaN for None
        if len(wrong := np.argwhere(np.abs(array) > np.finfo(np.float32).max)):
            step, channel = wrong[0].tolist()
            raise ValueError(
                f"a series holds finite numbers, but {where} has {array[step, channel]} in step {step}: write a "
                "number, or nothing where it is missing."
            )
        return array

    def read_source(self, path: str, split: str) -> Source:
        if Path(path).suffix.lower() == ".ts" and Path(path).is_file():
            return read_ts(path, f"the {split} split ({path})")
        return super().read_source(path, split)

    def _sources(self) -> dict[str, Source]:
        sources = super()._sources()
        if self.id_column is None:
            return sources
        long = {}
        for split, source in sources.items():
            aside = filter(None, [self.group_column, self.time_column])
            constant = dict.fromkeys([*self._label_columns(source), *aside])
            constant.pop(self.id_column, None)
            long[split] = from_long_form(source, self.id_column, self.step_column, tuple(constant))
        ids = {split: np.asarray(source.data[self.id_column]) for split, source in long.items()}
        check_apart(ids, long, self.id_column)
        return long


@dataclass
class TimeSeriesClassification(TimeSeriesTask):
    """A class, or several labels, for each series."""

    name = "time-series-classification"
    problem_types = (CLASSES, LABELS)


@dataclass
class TimeSeriesRegression(TimeSeriesTask):
    """A number, or several, for each series."""

    name = "time-series-regression"
    problem_types = (NUMBERS,)


def _is_series(feature: Any) -> bool:
    inner = inner_feature(feature)
    inner = inner_feature(inner) or inner
    return isinstance(inner, datasets.Value) and inner.dtype.startswith(("float", "int", "uint"))


def _has_gaps(source: Source, column: str) -> bool:
    values = column_of(source, column, "values_column")
    while pa.types.is_nested(values.type):
        values = values.flatten()
    return values.null_count > 0 or bool(pc.any(pc.is_nan(values.cast(pa.float64()))).as_py())


def _check_channels(series: Sequence[np.ndarray], part: Part, column: str) -> None:
    """Raise ValueError for series of several widths, and for a channel that no training row has."""
    widths = [array.shape[1] for array in series]
    if other := next((row for row, width in enumerate(widths) if width != widths[0]), None):
        first, where = (part.source.where(int(part.rows[row])) for row in (0, other))
        raise ValueError(
            f"all series have as many channels, but {first} has {widths[0]} in column {column!r} and {where} has "
            f"{widths[other]}: give them the same."
        )
    missing = np.all([np.isnan(array).all(axis=0) for array in series], axis=0)  # (channels,)
    if missing.any():
        raise ValueError(
            f"channel {int(missing.argmax())} in column {column!r} of {part.source.name} is missing in every training "
            "row: leave it out."
        )
