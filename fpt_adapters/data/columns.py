"""Columns: found by name or by what they hold, and read: numbers, lists of numbers, lists of names."""

from collections.abc import Callable, Sequence
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .sources import Source


def find_column(
    source: Source,
    given: str | None,
    usual: Sequence[str],
    fits: Callable[[datasets.features.features.FeatureType], bool],
    flag: str,
) -> str:
    """Find a column: the `given` one, else one of the `usual` names, else the only one whose feature `fits`.

    Raises ValueError, with all columns and the flag to write, if none or several fit.
    """
    columns = source.data.column_names
    if given is not None:
        if given not in columns:
            raise ValueError(
                f"{source.name} has no column {given!r} but {', '.join(columns)}: write one of these as --{flag}."
            )
        return given
    candidates = [name for name in usual if name in columns]
    candidates = candidates or [name for name in columns if fits(source.data.features[name])]
    if len(candidates) != 1:
        raise ValueError(
            f"{source.name} has {'no' if not candidates else 'more than one'} column that looks right for {flag}; "
            f"its columns are {', '.join(columns)}: write one of these as --{flag}."
        )
    return candidates[0]


def is_class_label(feature: datasets.features.features.FeatureType) -> bool:
    """Whether a column's feature is a `ClassLabel`, which knows the names of its classes."""
    return isinstance(feature, datasets.ClassLabel)


def inner_feature(feature: Any) -> Any:
    """What a list feature holds; None for another feature."""
    return feature.feature if isinstance(feature, (datasets.List, datasets.LargeList)) else None


def column_of(source: Source, column: str, flag: str) -> pa.Array:
    """Take a column out. Raises ValueError, listing those there are and the flag to write, for one that is missing."""
    find_column(source, column, (), is_class_label, flag)
    values = source.data.select_columns([column]).with_format("arrow")[:].column(0)
    return values.combine_chunks() if isinstance(values, pa.ChunkedArray) else values


def _refuse_missing(values: pa.Array, source: Source, column: str) -> None:
    if values.null_count:
        row = int(np.flatnonzero(pc.is_null(values).to_numpy(zero_copy_only=False))[0])
        raise ValueError(
            f"every row needs a label, but {source.where(row)} has none in column {column!r}: fill it in or drop the "
            f"row ({values.null_count} of {len(values)} rows lack it)."
        )


def read_numbers(source: Source, column: str, count: int) -> np.ndarray:
    """Read finite numbers: float64 (rows, count)."""
    values = column_of(source, column, "label_column")
    _refuse_missing(values, source, column)
    if pa.types.is_list(values.type) or pa.types.is_large_list(values.type):
        lengths = pc.list_value_length(values).to_numpy()
        if len(wrong := np.flatnonzero(lengths != count)):
            raise ValueError(
                f"a row has {count} numbers in column {column!r}, but {source.where(int(wrong[0]))} has "
                f"{lengths[wrong[0]]}: give all rows as many."
            )
        values = values.flatten()
    if pa.types.is_boolean(values.type) or not (
        pa.types.is_integer(values.type) or pa.types.is_floating(values.type) or pa.types.is_decimal(values.type)
    ):
        row = _first_text(values)
        raise ValueError(
            f"a regression needs numbers, but {source.where(row)} has {values[row].as_py()!r} ({values.type}) in "
            f"column {column!r}: write numbers, or name another --label_column."
        )
    numbers = values.cast(pa.float64()).to_numpy(zero_copy_only=False).reshape(-1, count)
    if len(wrong := np.argwhere(~np.isfinite(numbers))):
        raise ValueError(
            f"a regression needs finite numbers, but {source.where(int(wrong[0][0]))} has "
            f"{numbers[tuple(wrong[0])]} in column {column!r}: fill it in or drop the row."
        )
    return numbers


def _first_text(values: pa.Array) -> int:
    """The first value that reads as no number; 0 where all do."""
    for row, value in enumerate(values.to_pylist()):
        try:
            float(value)
        except (TypeError, ValueError):
            return row
    return 0


def read_lists(source: Source, column: str, separator: str | None) -> list[list[str]]:
    """Read the names of each row's labels; of text, an empty cell has none."""
    values = column_of(source, column, "label_column")
    feature = inner_feature(source.data.features[column])
    if feature is None:
        if not (pa.types.is_string(values.type) or pa.types.is_large_string(values.type)):
            raise ValueError(
                f"several labels are a list, or text with --label_separator, but {source.where(0)} has "
                f"{values[0].as_py()!r} ({values.type}) in column {column!r}."
            )
        if separator is None:
            raise ValueError(
                f"the labels in column {column!r} of {source.name} are text: write what stands between two of them, "
                "as --label_separator ';'."
            )
        return [
            [part.strip() for part in (text or "").split(separator) if part.strip()] for text in values.to_pylist()
        ]
    _refuse_missing(values, source, column)
    names = feature.names if isinstance(feature, datasets.ClassLabel) else None
    rows = values.to_pylist()
    for row, found in enumerate(rows):
        if any(value is None for value in found):
            raise ValueError(f"a label is missing in the list of {source.where(row)} (column {column!r}): drop it.")
    return [[str(value) if names is None else names[value] for value in found] for found in rows]
