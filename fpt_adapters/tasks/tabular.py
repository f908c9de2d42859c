"""Tables of one's own: a class, several labels or numbers for each row, out of columns of any kind."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np

from ..data.columns import column_of
from ..data.sources import Source
from ..data.splits import Part
from ..data.targets import CLASSES, LABELS, NUMBERS
from ..inputs.table_cells import cells_of, missing_cells
from ..inputs.table_processing_fpt import FPTTableProcessor
from ..modeling_fpt import FPTForSequenceClassification
from .row_task import RowTask

logger = logging.getLogger(__name__)


@dataclass
class TabularTask(RowTask):
    """Rows whose columns are tokens: numbers, categories, truth values and dates, also missing ones."""

    model_class = FPTForSequenceClassification

    feature_columns: list[str] | None = field(
        default=None, metadata={"help": "Columns that are read (default: all but label, group and time)."}
    )
    drop_columns: list[str] | None = field(default=None, metadata={"help": "Columns that are not read."})
    categorical_columns: list[str] | None = field(
        default=None, metadata={"help": "Columns of categories, where they look like numbers or dates."}
    )
    numeric_columns: list[str] | None = field(
        default=None, metadata={"help": "Columns of numbers, where they look like categories or codes."}
    )

    date_format: str | None = field(
        default=None,
        metadata={"help": "How dates are written, such as %%d/%%m/%%Y (default: 2024-12-31, or as all rows tell)."},
    )

    def fit(self, part: Part) -> tuple[FPTTableProcessor, dict[str, Any], list[str]]:
        self.columns = self._features(part.source)
        features = part.source.data.features
        named = {name for name in self.columns if isinstance(features[name], datasets.ClassLabel)}  # numbers of names
        categorical = named.difference(self.numeric_columns or ()).union(self.categorical_columns or ())
        rows = _rows(part, self.columns)
        processor = FPTTableProcessor.fit(
            rows, categorical, self.numeric_columns or (), _naming(part), self.date_format
        )
        return processor, processor.config_fields, processor.describe()

    def inputs(self, part: Part) -> Sequence[dict[str, Any]]:
        columns = [name for name in self.processor().column_names if name in part.source.data.column_names]
        rows = _rows(part, columns)
        values = self.processor()(rows, where=_naming(part))["input_values"]
        gaps = {name: missing_cells(cells_of(rows[name], name, _naming(part))) for name in rows}
        for number, column in enumerate(self.processor().columns):
            gap = gaps[column["name"]] & (not column["missing"])
            new = ~gap & (column["kind"] == "category") & (values[:, number, 1] == 0)
            for unknown, what in ((new.sum(), "values"), (gap.sum(), "gaps")):
                if unknown:
                    logger.warning(
                        "%d of %d rows of %s have %s in column %r that no training row has: they count as unknown.",
                        *(unknown, len(values), part.source.name, what, column["name"]),
                    )
        return [{"input_values": row} for row in values]

    def _features(self, source: Source) -> list[str]:
        """The columns that are read. Raises ValueError for names that are no columns of the rows, or are the label."""
        columns = source.data.column_names
        labels = self._label_columns(source)
        for flag in ("feature_columns", "drop_columns", "categorical_columns", "numeric_columns"):
            for name in getattr(self, flag) or ():
                if name not in columns or (name in labels and flag != "drop_columns"):
                    what = "no column" if name not in columns else "the label in column"
                    raise ValueError(
                        f"--{flag} names columns of {source.name} beside the label, but it has {what} {name!r}: its "
                        f"columns are {', '.join(columns)}."
                    )
        aside = {*labels, self.group_column, self.time_column}
        read = self.feature_columns or [name for name in columns if name not in aside]
        found = [name for name in read if name not in (self.drop_columns or ())]
        if not found:
            raise ValueError(f"{source.name} has no column to learn from: its columns are {', '.join(columns)}.")
        return found


@dataclass
class TabularClassification(TabularTask):
    """A class, or several labels, for each row."""

    name = "tabular-classification"
    problem_types = (CLASSES, LABELS)


@dataclass
class TabularRegression(TabularTask):
    """A number, or several, for each row."""

    name = "tabular-regression"
    problem_types = (NUMBERS,)


def _rows(part: Part, columns: Sequence[str]) -> dict[str, np.ndarray]:
    """The rows of a part by column."""
    return {
        name: column_of(part.source, name, "feature_columns").take(part.rows).to_numpy(zero_copy_only=False)
        for name in columns
    }


def _naming(part: Part):
    """How messages call a row of a part."""
    return lambda row: part.source.where(int(part.rows[row]))
