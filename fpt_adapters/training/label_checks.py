"""Checking labels before training on them: those of a batch, and all that a data set has at hand."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import torch
from torch import Tensor
from torch.utils.data import Dataset, Subset
from transformers import DataCollatorWithPadding, DefaultDataCollator, default_data_collator
from transformers.trainer_utils import RemoveColumnsCollator
from transformers.utils import logging

from ..heads.head import TOKENS as ANY  # a length that the data decides
from ..heads.problems import IGNORED_LABEL

logger = logging.get_logger(__name__)

LABEL_NAMES = ("labels", "label", "label_ids")  # the names that transformers' collators read, in this order
FILL_IN = f"fill it in, drop the row, or write {IGNORED_LABEL} where nothing is to be learned"
ROUNDING = 1e-6  # how far a share of 1 may exceed it in float32
NUMBERS = "biuf"  # NumPy's kinds of number types
LISTS = (pa.ListType, pa.LargeListType, pa.FixedSizeListType)


class Wrong(NamedTuple):
    """The first wrong label: its row, and a problem that says the rule, what came, and what to write instead."""

    row: int
    problem: str


@dataclass(frozen=True)
class LabelRule:
    """What a model's labels must be: see `heads.problem_type_of` and `heads.classification_loss`."""

    problem_type: str | None
    num_labels: int
    each: tuple[int, ...]  # the shape of a row's answers: see `Head.shape_of_answers`
    gaps: bool = False  # whether NaN stands where nothing was measured: see `Head.gaps`

    @classmethod
    def of(cls, model) -> "LabelRule":
        """The rule for a model with a head."""
        config = model.config
        head = model.head_type
        return cls(config.problem_type, config.num_labels, head.shape_of_answers(config), head.gaps)

    @property
    def per_token(self) -> bool:
        """Whether a row has an answer for each token."""
        return ANY in self.each

    def first_wrong(self, labels: Sequence[Any] | np.ndarray | Tensor) -> Wrong | None:
        """Find the first wrong label among rows of numbers, arrays, tensors or lists. None: all are right."""
        labels = _as_array(labels) if isinstance(labels, Tensor) else labels
        if isinstance(labels, np.ndarray) and labels.dtype.kind in NUMBERS:
            return self._first_wrong(labels)
        rows = [_as_array(row) for row in labels]
        groups: dict[tuple, list[int]] = {}
        for number, row in enumerate(rows):
            groups.setdefault((row.dtype, row.shape), []).append(number)
        found = ((numbers, self._first_wrong(np.stack([rows[n] for n in numbers]))) for numbers in groups.values())
        return min((Wrong(numbers[wrong.row], wrong.problem) for numbers, wrong in found if wrong), default=None)

    def _first_wrong(self, labels: np.ndarray) -> Wrong | None:
        """As `first_wrong`, for an array of labels (rows, ...)."""
        if len(labels) == 0:
            return None
        if labels.dtype.kind not in NUMBERS:
            return Wrong(0, self._no_number(labels[:1].tolist()[0]))
        problem = self._problem_type(labels)
        classes = problem == "single_label_classification"
        shape = self.each if classes else (*self.each, self.num_labels)
        if not _fits(labels.shape[1:], shape):
            return Wrong(0, self._other_shape(labels, problem, shape))
        ignored = labels == IGNORED_LABEL
        if classes:
            right = labels.dtype.kind != "f" and (labels.dtype.kind != "b" or self.num_labels == 2)
            right &= (labels >= 0) & (labels < self.num_labels)
        elif problem == "regression":
            right = (np.isfinite(labels) | (self.gaps & np.isnan(labels))) & (labels.dtype.kind != "b")
        else:
            right = (labels >= 0) & (labels <= 1 + ROUNDING)
        if classes and labels.dtype.kind == "f" and np.isnan(labels).any():
            right = ~np.isnan(labels)  # a missing label turned the others into floats
        wrong = np.argwhere(~(right | ignored))
        if not len(wrong):
            return None
        return Wrong(int(wrong[0][0]), self._out_of_range(labels[tuple(wrong[0])].item(), problem))

    def _problem_type(self, labels: np.ndarray) -> str:
        """As `problem_type_of`, but floats without the shape of several labels are taken for classes."""
        if self.problem_type is not None:
            return self.problem_type
        if self.num_labels == 1:
            return "regression"
        several = labels.dtype.kind == "f" and _fits(labels.shape[1:], (*self.each, self.num_labels))
        return "multi_label_classification" if several else "single_label_classification"

    @property
    def _classes(self) -> str:
        return f"0..{self.num_labels - 1} (num_labels={self.num_labels})"

    def _no_number(self, value: Any) -> str:
        if value is None:
            return f"a label is missing ({value}): {FILL_IN}"
        if isinstance(value, str) and self.num_labels == 1:
            return f"targets are numbers, got {value!r}: write float(...) of it"
        if isinstance(value, str):
            return f"labels are numbers, got {value!r}: number the classes {self._classes}, as config.label2id does"
        return f"labels are numbers, or arrays of numbers of one length, got {str(value)[:60]}: convert them"

    def _other_shape(self, labels: np.ndarray, problem: str, shape: tuple[int, ...]) -> str:
        expected = ", ".join("tokens" if length == ANY else str(length) for length in shape)
        text = f"labels of {problem} have shape ({expected}) in each row, got {labels.shape[1:]} ({labels.dtype})"
        if problem == "single_label_classification" and self.problem_type is None:
            return f"{text}: for several labels at once write problem_type='multi_label_classification'"
        return f"{text}: reshape them, or change num_labels={self.num_labels} or problem_type in the config"

    def _out_of_range(self, value: float | bool, problem: str) -> str:
        if problem == "regression":
            advice = "classes need num_labels=2, or more" if isinstance(value, bool) else "fill it in or drop the row"
            return f"targets of a regression are finite numbers, got {value}: {advice}"
        if problem == "multi_label_classification":
            return f"labels of {problem} lie in 0..1, one number for each of {self.num_labels}, got {value}"
        if isinstance(value, bool):
            return f"labels must lie in {self._classes}, got {value}, one of two: write num_labels=2, or other labels"
        if isinstance(value, float):
            if math.isnan(value):
                return f"a label is missing ({value}): {FILL_IN}, and write the others as whole numbers, astype(int)"
            advice = "write astype(int)" if value.is_integer() else "for a regression write problem_type='regression'"
            return f"labels must lie in {self._classes}, whole numbers, got {value}, a float: {advice}"
        return f"labels must lie in {self._classes}, got {value}"


def _fits(shape: tuple[int, ...], expected: tuple[int, ...]) -> bool:
    """Whether a shape is the expected one, except that one of them may lack a last length of 1."""
    if len(shape) != len(expected):
        longer, shorter = sorted((shape, expected), key=len, reverse=True)
        return len(longer) == len(shorter) + 1 and longer[-1] == 1 and _fits(longer[:-1], shorter)
    return all(length in (ANY, other) or other == ANY for length, other in zip(shape, expected, strict=True))


def _as_array(row: Any) -> np.ndarray:
    """A row's label, or a tensor of all labels, as an array; its dtype is object if these are no numbers."""
    if isinstance(row, Tensor):
        row = row.detach().cpu()
        return (row if row.dtype != torch.bfloat16 else row.float()).numpy()
    try:
        return np.asarray(row)
    except ValueError:  # lists of several lengths
        array = np.empty((), dtype=object)
        array[()] = row
        return array


# Labels of a data set


def raw_labels(examples: Sequence[Any], collator: Callable) -> list[Any] | None:
    """The raw labels of examples if `collator` is one of transformers' that does not change labels, else None."""
    if not _leaves_labels_unchanged(collator) or not isinstance(examples[0], Mapping):
        return None
    name = _label_name(examples[0])
    return None if name is None else [example.get(name) for example in examples]


def check_labels_at_hand(what: str, dataset: Dataset, rule: LabelRule, collator: Callable, own_loss: bool) -> None:
    """Check all labels of a data set if they are at hand without making examples; `what`: its name in messages.

    They are a column of a `datasets.Dataset`, the entries of a list of examples, or an attribute `labels`. If a
    transform or the user's own collator may change labels, a row that looks wrong is collated and checked again.
    Raises ValueError, naming the row; with `own_loss`, which may understand such labels, it only warns.
    """
    labels, place, as_they_are = _labels_at_hand(dataset)
    if labels is None:
        return
    wrong = rule.first_wrong(labels)
    if wrong is not None and not (as_they_are and _leaves_labels_unchanged(collator)):
        made = collator([dataset[wrong.row]]).get("labels")
        wrong = Wrong(wrong.row, found.problem) if made is not None and (found := rule.first_wrong(made)) else None
    if wrong is not None:
        text = f"{wrong.problem}. This is row {wrong.row} of {what}{place}."
        if not own_loss:
            raise ValueError(text)
        logger.warning(f"{text} Your own loss must know what it means.")
    elif rule.problem_type == "regression" and not rule.each and not own_loss:
        ignored = sum(np.count_nonzero(_as_array(row) == IGNORED_LABEL) for row in labels)
        if ignored:
            logger.warning(
                f"{ignored} targets of {what}{place} are {IGNORED_LABEL}, which stands for none: they are left out of "
                "the loss. If they were measured, scale the targets."
            )


def _leaves_labels_unchanged(collator: Callable) -> bool:
    if isinstance(collator, RemoveColumnsCollator):
        collator = collator.data_collator
    return collator is default_data_collator or isinstance(collator, (DefaultDataCollator, DataCollatorWithPadding))


def _label_name(names: Iterable[str]) -> str | None:
    return next((name for name in LABEL_NAMES if name in names), None)


def _labels_at_hand(dataset: Dataset) -> tuple[Sequence[Any] | np.ndarray | None, str, bool]:
    """The labels of all rows (None: not at hand), their place in words, and whether examples have them unchanged."""
    if isinstance(dataset, Subset):
        labels, place, as_they_are = _labels_at_hand(dataset.dataset)
        labels = None if labels is None else [labels[index] for index in dataset.indices]
        return labels, place, as_they_are
    if isinstance(dataset, datasets.Dataset):
        name = _label_name(dataset.column_names)
        if name is None:
            return None, "", False
        column = dataset.select_columns([name]).with_format("arrow")[:].column(0)
        return _rows_of(column), f", column {name!r}", dataset.format["type"] != "custom"
    if isinstance(dataset, (list, tuple)):
        if not dataset or not isinstance(dataset[0], Mapping) or (name := _label_name(dataset[0])) is None:
            return None, "", False
        return [row.get(name) for row in dataset], f", {name!r}", True
    labels = getattr(dataset, "labels", None)
    if isinstance(labels, (list, tuple, np.ndarray, Tensor)) and len(labels) == len(dataset):
        return labels, ", by its labels", False
    return None, "", False


def _rows_of(column: pa.ChunkedArray) -> Sequence[Any] | np.ndarray:
    """A column's rows as numbers or arrays if nothing is missing, else as Python objects."""
    if column.null_count == 0 and _holds_numbers(column.type):
        return column.to_numpy()
    if isinstance(column.type, LISTS) and _holds_numbers(column.type.value_type) and column.null_count == 0:
        values = pc.list_flatten(column)
        if values.null_count == 0:
            ends = np.cumsum(pc.list_value_length(column).to_numpy())
            return np.split(values.to_numpy(), ends[:-1])
    return column.to_pylist()


def _holds_numbers(kind: pa.DataType) -> bool:
    return pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
