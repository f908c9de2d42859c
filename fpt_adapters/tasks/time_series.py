"""Time series of one's own: a class, several labels or numbers for each; ragged, of several channels, with gaps."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from ..data.columns import column_of, find_column, inner_feature
from ..data.series import VALUES, from_long_form, read_ts
from ..data.sources import Source
from ..data.splits import Part, check_at_least
from ..data.targets import CLASSES, LABELS, NUMBERS
from ..inputs.feature_extraction_fpt import FPTFeatureExtractor
from ..modeling_fpt import FPTForSequenceClassification
from .row_task import RowTask

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
        fields = {} if self.max_length is None else {"max_length": self.max_length}
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
        series = []
        for row, steps in zip(part.rows, values.to_pylist(), strict=True):
            if not steps:
                raise ValueError(f"each row needs a series, but {part.source.where(int(row))} has none: drop the row.")
            steps = [_gaps(step) for step in steps]
            widths = {len(step) if isinstance(step, list) else 1 for step in steps}
            if len(widths) > 1:
                raise ValueError(
                    f"each step has as many numbers, but the steps in column {self.column!r} of "
                    f"{part.source.where(int(row))} have {sorted(widths)}."
                )
            array = np.array(steps, dtype=np.float64)
            series.append(array[:, None] if array.ndim == 1 else array)
        return series

    def read_source(self, path: str, split: str) -> Source:
        if Path(path).suffix.lower() == ".ts" and Path(path).is_file():
            return read_ts(path, split)
        return super().read_source(path, split)

    def _sources(self) -> dict[str, Source]:
        sources = super()._sources()
        if self.id_column is None:
            return sources
        long = {}
        for split, source in sources.items():
            constant = dict.fromkeys([*self._label_columns(source), *filter(None, [self.group_column])])
            constant.pop(self.id_column, None)
            long[split] = from_long_form(source, self.id_column, self.step_column, tuple(constant))
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


def _gaps(step: Any) -> Any:
    """A step with NaN for None."""
    if isinstance(step, list):
        return [np.nan if value is None else value for value in step]
    return np.nan if step is None else step
