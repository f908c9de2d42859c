"""Class labels of a column: their names, taken from the training rows, and their numbers in every split."""

from dataclasses import dataclass
from typing import Literal

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class LabelNames:
    """The classes of a task: `names[i]` is class i. `origin` is how the training rows give a class."""

    names: tuple[str, ...]
    origin: Literal["feature", "number", "string"]

    @classmethod
    def of_column(cls, data: datasets.Dataset, column: str, source: str, num_labels: int | None) -> "LabelNames":
        """Take the names from the training rows `data`, which messages call `source`.

        A `ClassLabel` column brings its names along. Strings are sorted. Whole numbers are 0..num_labels-1, or, for
        num_labels=None, 0..the largest one. Raises ValueError for any other type, for a missing label, and for names
        that are not `num_labels` many (strings may be fewer).
        """
        feature = data.features[column]
        values = _values(data, column, source)
        if isinstance(feature, datasets.ClassLabel):
            names, origin = tuple(feature.names), "feature"
        elif pa.types.is_integer(values.type):
            count = max(pc.max(values).as_py(), 0) + 1 if num_labels is None else num_labels
            names, origin = tuple(str(number) for number in range(count)), "number"
        else:
            names, origin = tuple(sorted(pc.unique(values).to_pylist())), "string"
        if num_labels is not None and (len(names) > num_labels if origin == "string" else len(names) != num_labels):
            raise ValueError(
                f"the task has {num_labels} classes, but column {column!r} of {source} has {len(names)}: give the "
                "column that holds this task's labels with --label_column."
            )
        return cls(names, origin)

    def read(self, data: datasets.Dataset, column: str, source: str) -> np.ndarray:
        """Read a column as class numbers: int64, (rows,).

        Classes that have names in both are matched by name, so two files may number them differently. Raises
        ValueError, with the row (from 0), for a missing label, one of another type, and a class that is not here.
        """
        feature = data.features[column]
        values = _values(data, column, source)
        if not pa.types.is_integer(values.type):
            return self._look_up(values, column, source)
        numbers = values.to_numpy().astype(np.int64)
        named = isinstance(feature, datasets.ClassLabel) and self.origin != "number"
        if self.origin == "string" and not named:
            raise ValueError(
                f"column {column!r} has strings in the training rows but whole numbers in {source}: "
                "write the labels as strings in both."
            )
        _check_range(numbers, len(feature.names) if named else len(self.names), column, source)
        if named and tuple(feature.names) != self.names:
            return self._look_up(pa.array(feature.names).take(pa.array(numbers)), column, source)
        return numbers

    def _look_up(self, values: pa.Array, column: str, source: str) -> np.ndarray:
        numbers = pc.index_in(values, pa.array(self.names))
        if numbers.null_count:
            row = int(np.flatnonzero(pc.is_null(numbers).to_numpy(zero_copy_only=False))[0])
            raise ValueError(
                f"label {values[row].as_py()!r} in row {row} of {source} (column {column!r}) is not among the "
                f"{len(self.names)} labels of the training rows, {_few(self.names)}: drop its rows, or train on some."
            )
        return numbers.to_numpy().astype(np.int64)


def _values(data: datasets.Dataset, column: str, source: str) -> pa.Array:
    """Take a column out, checked: whole numbers or strings, none of them missing."""
    values = data.select_columns([column]).with_format("arrow")[:].column(0).combine_chunks()
    if values.null_count:
        row = int(np.flatnonzero(pc.is_null(values).to_numpy(zero_copy_only=False))[0])
        raise ValueError(
            f"every row needs a label, but row {row} of {source} has none in column {column!r}: fill it in or drop "
            f"the row ({values.null_count} of {len(values)} rows lack it)."
        )
    if not (
        pa.types.is_integer(values.type) or pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    ):
        raise ValueError(
            f"labels are whole numbers or strings, but row 0 of {source} has {values[0].as_py()!r} "
            f"({values.type}) in column {column!r}: name the label's column with --label_column."
        )
    return values.cast(pa.string()) if pa.types.is_large_string(values.type) else values


def _check_range(numbers: np.ndarray, count: int, column: str, source: str) -> None:
    wrong = np.flatnonzero((numbers < 0) | (numbers >= count))
    if len(wrong):
        raise ValueError(
            f"labels in column {column!r} lie in 0..{count - 1}, but row {wrong[0]} of {source} has "
            f"{numbers[wrong[0]]}: number the classes from 0, or name the label's column with --label_column."
        )


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
