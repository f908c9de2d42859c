"""What a label column holds: one class a row, several labels, or numbers. The kind is found from the column, or said.

A target is taken from the training rows and reads every split: it knows the names of classes, the scale of
numbers, the scores that fit, and what one constant answer scores.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import datasets
import numpy as np
import pyarrow.compute as pc

from ..heads.problems import IGNORED_LABEL, Classes, Numbers, SeveralLabels
from .columns import column_of, inner_feature, read_lists, read_numbers
from .labels import LabelNames, label_fields
from .scores import ClassScores, LabelScores, NumberScores
from .sources import Source

CLASSES, LABELS, NUMBERS = Classes.name, SeveralLabels.name, Numbers.name  # transformers' problem types
SHOWN = 6  # names of classes that are printed


class Target(ABC):
    """What the labels of a task are."""

    problem_type: str
    columns: tuple[str, ...]

    @abstractmethod
    def read(self, source: Source) -> np.ndarray:
        """Read the labels of a split: (rows, ...). Raises ValueError, naming row and column, for wrong ones."""

    def fitted(self, labels: np.ndarray) -> "Target":
        """Return the target with what only the rows that are trained on tell, such as a scale."""
        return self

    @property
    @abstractmethod
    def config(self) -> dict[str, Any]:
        """The fields of `FPTConfig`: names of labels, problem type, scale."""

    @abstractmethod
    def scores(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """The scores of logits (examples, num_labels) by name, the most important first."""

    @abstractmethod
    def constant(self, labels: np.ndarray) -> np.ndarray:
        """The logits of the one answer for all that needs no learning: (examples, num_labels)."""

    def floors(self, labels: np.ndarray) -> dict[str, float]:
        """What the constant answer scores on `labels`."""
        return self.scores(self.constant(labels), labels)

    @abstractmethod
    def describe(self) -> str:
        """What was found, in a line."""


@dataclass(frozen=True)
class ClassTarget(Target):
    """One class a row. Labels: int64 (rows,)."""

    columns: tuple[str, ...]
    names: LabelNames
    untrained: tuple[str, ...] = ()  # classes that no training row has
    problem_type = CLASSES
    of_each = ""  # words behind the number of classes
    advice = "give more rows, or leave them out with --min_label_examples 2"  # for classes that no training row has

    def read(self, source: Source) -> np.ndarray:
        return self.names.read(source, self.columns[0])

    def fitted(self, labels: np.ndarray) -> "ClassTarget":
        """Find the classes without a row to train on. Raises ValueError where one class is left."""
        present = np.unique(labels)
        if len(present) < 2:
            raise ValueError(
                f"a classifier needs rows of two classes, but all {len(labels)} training rows have "
                f"{self.names.names[present[0]]!r} in column {self.columns[0]!r}{_held(self.names.names)}."
            )
        lacking = np.delete(np.array(self.names.names, dtype=object), present)
        return replace(self, untrained=tuple(lacking))

    @property
    def config(self) -> dict[str, Any]:
        return label_fields(self.names.names) | {"problem_type": self.problem_type}

    def scores(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        return ClassScores(keep_in_memory=True).compute(predictions=logits, references=labels)

    def constant(self, labels: np.ndarray) -> np.ndarray:
        most = np.bincount(labels[labels != IGNORED_LABEL], minlength=len(self.names.names)).argmax()
        return np.tile(np.eye(len(self.names.names))[most], (len(labels), 1))

    def describe(self) -> str:
        names, advice = self.names.names, self.advice
        found = f"column {self.columns[0]!r}: one of {len(names)} classes{self.of_each} ({_few(names)})"
        if self.names.origin == "number" and len(self.untrained) > len(names) // 2:
            advice = "where these are amounts and no classes, choose a regression"
        return found + _without_rows(self.untrained, advice)


@dataclass(frozen=True)
class LabelsTarget(Target):
    """Any number of labels a row: a list of names, or text with a `separator`. Labels: float32 (rows, labels)."""

    columns: tuple[str, ...]
    names: tuple[str, ...]
    separator: str | None
    untrained: tuple[str, ...] = ()  # labels that no training row has
    problem_type = LABELS

    def read(self, source: Source) -> np.ndarray:
        numbers = {name: number for number, name in enumerate(self.names)}
        labels = np.zeros((len(source.data), len(self.names)), dtype=np.float32)
        for row, names in enumerate(read_lists(source, self.columns[0], self.separator)):
            for name in names:
                if name not in numbers:
                    raise ValueError(
                        f"label {name!r} in {source.where(row)} (column {self.columns[0]!r}) is not among the "
                        f"{len(numbers)} labels of the training rows, {_few(self.names)}: drop it, or train on some."
                    )
                labels[row, numbers[name]] = 1
        return labels

    def fitted(self, labels: np.ndarray) -> "LabelsTarget":
        """Find the labels without a row to train on. Raises ValueError where all rows have the same labels."""
        if (labels == labels[0]).all():
            same = ", ".join(self.names[number] for number in np.flatnonzero(labels[0])) or "none"
            raise ValueError(
                f"labels differ between rows, but all {len(labels)} training rows have {same} in column "
                f"{self.columns[0]!r}: name another --label_column, or give rows with others."
            )
        lacking = np.flatnonzero(~labels.any(axis=0))
        return replace(self, untrained=tuple(self.names[number] for number in lacking))

    @property
    def config(self) -> dict[str, Any]:
        return label_fields(self.names) | {"problem_type": self.problem_type}

    def scores(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        return LabelScores(keep_in_memory=True).compute(predictions=logits, references=labels)

    def constant(self, labels: np.ndarray) -> np.ndarray:
        """Answer the set of labels that is the most frequent one."""
        sets, counts = np.unique(labels, axis=0, return_counts=True)
        return np.tile(np.where(sets[counts.argmax()] > 0, 1.0, -1.0), (len(labels), 1))

    def describe(self) -> str:
        found = f"column {self.columns[0]!r}: any of {len(self.names)} labels ({_few(self.names)})"
        return found + _without_rows(self.untrained, "give more rows")


@dataclass(frozen=True)
class NumbersTarget(Target):
    """One number a row, or several, out of as many columns or of a column of lists. Labels: float32 (rows, numbers).

    `mean` and `std`: of the rows that are trained on, by which the model standardises.
    """

    columns: tuple[str, ...]
    count: int
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    problem_type = NUMBERS

    def read(self, source: Source) -> np.ndarray:
        read = [read_numbers(source, column, self.count if len(self.columns) == 1 else 1) for column in self.columns]
        labels = np.concatenate(read, axis=1)  # (rows, numbers), float64
        # transformers' losses leave the label -100 out: a target of exactly that moves by a float's last bit
        return np.where(labels == IGNORED_LABEL, np.nextafter(np.float32(IGNORED_LABEL), 0), labels).astype(np.float32)

    def fitted(self, labels: np.ndarray) -> "NumbersTarget":
        """Take the scale. Raises ValueError for numbers that are all the same."""
        mean, std = labels.mean(axis=0, dtype=np.float64), labels.std(axis=0, dtype=np.float64)
        for number in np.flatnonzero(std <= np.abs(mean) * np.finfo(np.float32).eps):
            column = self.columns[number if len(self.columns) > 1 else 0]
            raise ValueError(
                f"a regression needs numbers that differ, but all {len(labels)} training rows have "
                f"{labels[0, number]:g} in column {column!r}: name another --label_column."
            )
        return replace(self, mean=tuple(mean.tolist()), std=tuple(std.tolist()))

    @property
    def names(self) -> tuple[str, ...]:
        """What each number is called."""
        if len(self.columns) == self.count:
            return self.columns
        return tuple(f"{self.columns[0]}_{number}" for number in range(self.count))

    @property
    def config(self) -> dict[str, Any]:
        scale = {"label_mean": list(self.mean), "label_scale": list(self.std)}
        return label_fields(self.names) | {"problem_type": self.problem_type} | scale

    def scores(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        return NumberScores(keep_in_memory=True).compute(predictions=logits, references=labels)

    def constant(self, labels: np.ndarray) -> np.ndarray:
        return np.broadcast_to(labels.mean(axis=0), labels.shape)

    def describe(self) -> str:
        what = "a number" if self.count == 1 else f"{self.count} numbers"
        found = f"column {', '.join(map(repr, self.columns))}: {what}"
        if self.mean is None:
            return found
        scale = ", ".join(f"{mean:.4g} +- {std:.3g}" for mean, std in zip(self.mean, self.std, strict=True))
        return f"{found} ({scale} in the training rows)"


def choose_target(
    source: Source,
    columns: Sequence[str],
    problem_type: str | None = None,
    separator: str | None = None,
    num_labels: int | None = None,
) -> Target:
    """Find what the label `columns` of the training rows hold; a `problem_type` that was said is taken.

    Whole numbers and text are classes, other numbers are regressed, lists of text are several labels, and lists of
    numbers are several numbers; several columns are a number each. With a `separator`, text is several labels.
    Raises ValueError for a column that cannot be what was said.
    """
    feature = source.data.features[columns[0]]
    found = problem_type or _kind(feature, len(columns), separator)
    if found != NUMBERS and len(columns) > 1:
        raise ValueError(f"several label columns are a number each, but {', '.join(columns)} are to be {found}.")
    if found == CLASSES:
        return ClassTarget(tuple(columns), LabelNames.of_column(source, columns[0], num_labels))
    if found == LABELS:
        names = sorted({name for names in read_lists(source, columns[0], separator) for name in names})
        if not names:
            raise ValueError(f"no row of {source.name} has a label in column {columns[0]!r}: name another column.")
        return LabelsTarget(tuple(columns), tuple(names), separator)
    return NumbersTarget(tuple(columns), _count(source, columns))


def _kind(feature: Any, columns: int, separator: str | None) -> str:
    if columns > 1:
        return NUMBERS
    if separator is not None:
        return LABELS
    if isinstance(feature, datasets.Value):
        return NUMBERS if feature.dtype.startswith(("float", "decimal")) else CLASSES
    if inner := inner_feature(feature):
        return NUMBERS if isinstance(inner, datasets.Value) and inner.dtype.startswith("float") else LABELS
    return CLASSES


def _count(source: Source, columns: Sequence[str]) -> int:
    if len(columns) > 1 or inner_feature(source.data.features[columns[0]]) is None:
        return len(columns)
    lengths = pc.unique(pc.list_value_length(column_of(source, columns[0], "label_column")).drop_null())
    if len(lengths) != 1 or lengths[0].as_py() == 0:
        raise ValueError(
            f"each row has as many numbers to regress, but the lists in column {columns[0]!r} of {source.name} have "
            f"lengths {sorted(lengths.to_pylist())[:5]}: give them one length."
        )
    return lengths[0].as_py()


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", ..." if len(names) > SHOWN else "")


def _held(names: Sequence[str]) -> str:
    """What to do where only one of these names has rows to train on."""
    if len(names) < 2:
        return ": name another --label_column"
    return ", and those of others are held out or not there: give more rows, or --test_file and --validation_file"


def _without_rows(names: Sequence[str], advice: str) -> str:
    """What is said of classes or labels without rows to train on."""
    return f"; no row to train on has {len(names)} of them ({_few(names)}): {advice}" if names else ""
