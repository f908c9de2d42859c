"""The class labels in a column: names, taken from the training rows, and numbers, in every split."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from .sources import Source

INTEGERS = tuple(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))  # types of `datasets`
STRINGS = ("string", "large_string")
BOOLS = ("False", "True")  # the names of two classes


@dataclass(frozen=True)
class LabelNames:
    """The classes of a task: `names[i]` is class i. `origin`: how the training rows write a class."""

    names: tuple[str, ...]
    origin: Literal["feature", "number", "string"]

    @classmethod
    def of_column(cls, source: Source, column: str, num_labels: int | None) -> "LabelNames":
        """Take the names from the training rows.

        A `ClassLabel` column has its own names. Strings are sorted. Whole numbers are 0..num_labels-1 or, with
        num_labels=None, 0..the largest one; bools are the two classes False and True. Raises ValueError for any other
        type, for a missing label, and if there are not `num_labels` names (strings may be fewer).
        """
        feature = source.data.features[column]
        values = _values(source, column)
        if isinstance(feature, datasets.ClassLabel):
            names, origin = tuple(feature.names), "feature"
        elif feature.dtype == "bool":
            names, origin = BOOLS, "number"
        elif pa.types.is_integer(values.type):
            count = max(pc.max(values).as_py(), 0) + 1 if num_labels is None else num_labels
            names, origin = tuple(str(number) for number in range(count)), "number"
        else:
            names, origin = tuple(sorted(pc.unique(values).to_pylist())), "string"
        _check_count(names, origin, column, source.name, num_labels)
        return cls(names, origin)

    @classmethod
    def of_stream(
        cls, feature: Any, column: str, source: str, num_labels: int | None, given: Sequence[str] | None
    ) -> "LabelNames":
        """Take the names without reading the rows of `source`: a `ClassLabel` column's own, else the `given` ones.

        Bools need no names, nor do whole numbers if `num_labels` is known. Raises ValueError for names that are not
        needed, missing, repeated or not `num_labels` in number, and for a column of another type.
        """
        if isinstance(feature, datasets.ClassLabel):
            names, origin = tuple(feature.names), "feature"
            if given is not None and tuple(given) != names:
                raise ValueError(f"column {column!r} of {source} names its classes itself: leave the label names out.")
        elif isinstance(feature, datasets.Value) and feature.dtype in (*INTEGERS, *STRINGS, "bool"):
            origin = "string" if feature.dtype in STRINGS else "number"
            numbered = num_labels if origin == "number" else None
            given = BOOLS if feature.dtype == "bool" and given is None else given
            names = _names_from_outside(given, numbered, f"column {column!r} of {source} ({feature.dtype})")
        else:
            raise ValueError(
                f"labels are whole numbers or strings, but column {column!r} of {source} has {feature}: name the "
                "label's column with --label_column."
            )
        _check_count(names, origin, column, source, num_labels)
        return cls(names, origin)

    def number(self, value: int | str | None, where: str) -> int:
        """The class number of a label `value` in the row `where`. Raises ValueError for an unknown label."""
        if isinstance(value, int) and self.origin != "string":
            if 0 <= value < len(self.names):
                return int(value)
        elif isinstance(value, str) and value in self._numbers:
            return self._numbers[value]
        raise ValueError(
            f"label {value!r} in {where} is not among the {len(self.names)} classes, {_few(self.names)}: drop the "
            "row, or name the label's column with --label_column."
        )

    @cached_property
    def _numbers(self) -> dict[str, int]:
        return {name: number for number, name in enumerate(self.names)}

    def read(self, source: Source, column: str) -> np.ndarray:
        """Read a column as class numbers: int64 (rows,).

        If both files have names for the classes, these are matched, so that two files may number them differently.
        Raises ValueError, with the row, for a missing label, one of another type, and an unknown class.
        """
        feature = source.data.features[column]
        values = _values(source, column)
        if not pa.types.is_integer(values.type):
            return self._look_up(values, column, source)
        numbers = values.to_numpy().astype(np.int64)
        named = isinstance(feature, datasets.ClassLabel) and self.origin != "number"
        if self.origin == "string" and not named:
            raise ValueError(
                f"column {column!r} has strings in the training rows but whole numbers in {source.name}: "
                "write the labels as strings in both."
            )
        _check_range(numbers, len(feature.names) if named else len(self.names), column, source)
        if named and tuple(feature.names) != self.names:
            return self._look_up(pa.array(feature.names).take(pa.array(numbers)), column, source)
        return numbers

    def _look_up(self, values: pa.Array, column: str, source: Source) -> np.ndarray:
        numbers = pc.index_in(values, pa.array(self.names))
        if numbers.null_count:
            row = int(np.flatnonzero(pc.is_null(numbers).to_numpy(zero_copy_only=False))[0])
            raise ValueError(
                f"label {values[row].as_py()!r} in {source.where(row)} (column {column!r}) is not among the "
                f"{len(self.names)} labels of the training rows, {_few(self.names)}: drop its rows, or train on some."
            )
        return numbers.to_numpy().astype(np.int64)


def label_fields(names: Sequence[str]) -> dict[str, dict]:
    """The config fields for the names of classes: `id2label` and `label2id`."""
    return {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}


def _values(source: Source, column: str) -> pa.Array:
    """Read a column of labels and check it: whole numbers (bools as 0 and 1) or strings, none missing."""
    values = source.data.select_columns([column]).with_format("arrow")[:].column(0).combine_chunks()
    if values.null_count:
        row = int(np.flatnonzero(pc.is_null(values).to_numpy(zero_copy_only=False))[0])
        raise ValueError(
            f"every row needs a label, but {source.where(row)} has none in column {column!r}: fill it in or drop "
            f"the row ({values.null_count} of {len(values)} rows lack it)."
        )
    if pa.types.is_boolean(values.type):
        values = values.cast(pa.int8())
    if not (
        pa.types.is_integer(values.type) or pa.types.is_string(values.type) or pa.types.is_large_string(values.type)
    ):
        instead = "write whole numbers, or " if pa.types.is_floating(values.type) else ""
        raise ValueError(
            f"labels are whole numbers or strings, but {source.where(0)} has {values[0].as_py()!r} "
            f"({values.type}) in column {column!r}: {instead}name the label's column with --label_column."
        )
    return values.cast(pa.string()) if pa.types.is_large_string(values.type) else values


def _names_from_outside(given: Sequence[str] | None, numbered: int | None, column: str) -> tuple[str, ...]:
    """The `given` names, else the numbers of `numbered` classes as names. `column`: the labels' name in messages."""
    if given is None and numbered is None:
        raise ValueError(
            f"a stream cannot be searched for its classes, and {column} does not name them: write --label_names_file, "
            "a text file with one name a line."
        )
    names = tuple(map(str, range(numbered))) if given is None else tuple(given)
    if len(set(names)) < len(names):
        raise ValueError(f"the classes of {column} need different names, but one comes twice: check the label names.")
    return names


def _check_count(names: tuple[str, ...], origin: str, column: str, source: str, num_labels: int | None) -> None:
    if num_labels is not None and (len(names) > num_labels if origin == "string" else len(names) != num_labels):
        raise ValueError(
            f"the task has {num_labels} classes, but column {column!r} of {source} has {len(names)}: give the "
            "column that holds this task's labels with --label_column."
        )


def _check_range(numbers: np.ndarray, count: int, column: str, source: Source) -> None:
    wrong = np.flatnonzero((numbers < 0) | (numbers >= count))
    if len(wrong):
        raise ValueError(
            f"labels in column {column!r} lie in 0..{count - 1}, but {source.where(int(wrong[0]))} has "
            f"{numbers[wrong[0]]}: number the classes from 0, or name the label's column with --label_column."
        )


def _few(names: tuple[str, ...]) -> str:
    return ", ".join(map(repr, names[:5])) + (", ..." if len(names) > 5 else "")
