"""A task on the user's own rows: sizes, labels and scales are found in the training rows, or said."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch.utils.data import Dataset
from transformers import EvalPrediction

from ..data.collating import PADDING, collate_padded
from ..data.columns import column_of
from ..data.sources import Source, read_folder
from ..data.splits import SPLITS, Part
from ..data.targets import CLASSES, LABELS, NUMBERS, Target
from ..data.times import times_of
from .files import FileArguments, split_labels
from .metrics import joined
from .task import Task, TaskData

KINDS = (CLASSES, LABELS, NUMBERS)


class RowSplit(Dataset):
    """One split of a generic task: example i is what the processor makes of row i, and "labels".

    `inputs`: a sequence of examples, each a dict of arrays; `labels`: (examples, ...), as the target reads them, or a
    list of arrays, which may differ in length.
    """

    def __init__(self, inputs: Sequence[dict[str, Any]], labels: np.ndarray | list[np.ndarray]):
        self.inputs = inputs
        if isinstance(labels, list):
            self.labels = np.empty(len(labels), dtype=object)
            self.labels[:] = labels
        else:
            self.labels = labels

    def __len__(self) -> int:
        return len(self.labels)

    def __getitem__(self, index: int) -> dict[str, Any]:
        example = {name: torch.as_tensor(value) for name, value in self.inputs[index].items()}
        label = self.labels[index]
        return example | {"labels": torch.from_numpy(label) if label.ndim else label.item()}


@dataclass
class RowTask(FileArguments, Task):
    """A generic task, named as the Hub names what a model does.

    A subclass says how raw rows become model inputs: `fit` makes the processor from the training rows, and `inputs`
    runs it over a part.
    """

    problem_types: ClassVar[tuple[str, ...]] = KINDS  # that the task serves; one of them needs not be said
    data_source = "rows of one's own"
    is_generic = True
    padding: ClassVar[dict[str, float]] = PADDING
    file_column: ClassVar[str | None] = None  # what files in class folders are; None: the task reads no such folders
    file_endings: ClassVar[tuple[str, ...]] = ()

    problem_type: str | None = field(
        default=None, metadata={"help": f"What the labels are: one of {', '.join(KINDS)} (default: as the column is)."}
    )
    label_separator: str | None = field(
        default=None, metadata={"help": "What stands between two labels in a column of text with several a row: ';'."}
    )
    group_column: str | None = field(
        default=None,
        metadata={"help": "Column whose rows stay together when rows are held out: a speaker, patient or sensor."},
    )
    time_column: str | None = field(
        default=None, metadata={"help": "Column with each row's time: the latest rows are held out."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.problem_type not in (None, *self.problem_types):
            raise ValueError(
                f"problem_type of {self.name} is one of {', '.join(self.problem_types)}; got {self.problem_type!r}."
            )
        if self.group_column and self.time_column:
            raise ValueError("rows are held out by group_column or by time_column: leave one of them out.")
        self.target: Target | None = None  # both are found by `load`
        self.fitted_processor: Any = None

    def reads(self, copy_of: str | None = None) -> bool:
        return False

    def load(self, seed: int = 0, max_samples: dict[str, int] | None = None) -> TaskData:
        """Read the rows, find labels, sizes and scales, and make the splits; see `FileArguments.read_parts`."""
        kind = self.problem_type or (self.problem_types[0] if len(self.problem_types) == 1 else None)
        parts, target = self.read_targets(seed, max_samples, kind, separator=self.label_separator)
        if target.problem_type not in self.problem_types:
            raise ValueError(
                f"{self.name} has labels that are {' or '.join(self.problem_types)}, but {target.describe()}: "
                "name another --label_column, another task, or say the --problem_type."
            )
        self.target = target.fitted(parts["train"].labels)
        self.fitted_processor, fields, found = self.fit(parts["train"])
        splits = {split: self.split(parts[split]) for split in SPLITS}
        sizes = ", ".join(f"{len(splits[split])} to {word}" for split, word in WORDS.items())
        found = [self.target.describe(), *found, f"rows: {sizes}"]
        return TaskData(**splits, config=fields | self.target.config, found=found)

    def stream(self, *args: Any, **kwargs: Any) -> TaskData:
        """Raise ValueError: sizes, labels and scales are found in rows that are held."""
        raise ValueError(
            f"{self.name} finds sizes, labels and scales in its training rows, which are read before: leave "
            "--streaming out."
        )

    @abstractmethod
    def fit(self, part: Part) -> tuple[Any, dict[str, Any], list[str]]:
        """Make the processor from the rows that are trained on; returns it, the config's fields, and what was found.

        Raises ValueError, naming row and column, for rows that cannot be read.
        """

    @abstractmethod
    def inputs(self, part: Part) -> Sequence[dict[str, Any]]:
        """Run the processor over the rows of a part. Raises ValueError, naming row and column, for wrong ones."""

    def read_source(self, path: str, split: str) -> Source:
        zipped = Path(path).suffix.lower() == ".zip" and Path(path).is_file()
        if self.file_column is not None and (Path(path).is_dir() or zipped):
            return read_folder(path, split, self.file_column, self.file_endings)
        return super().read_source(path, split)

    def split(self, part: Part) -> RowSplit:
        """The examples of a part."""
        return RowSplit(self.inputs(part), part.labels)

    def processor(self) -> Any:
        """What makes model inputs of raw rows; `load` has fitted it. Raises ValueError before."""
        if self.fitted_processor is None:
            raise ValueError(f"the processor of {self.name} is found in the training rows: call load first.")
        return self.fitted_processor

    def blocks(self, sources: dict[str, Source]) -> tuple[np.ndarray | None, bool]:
        column = self.group_column or self.time_column
        if column is None:
            return None, False
        flag = "group_column" if self.group_column else "time_column"
        values = {split: _keys(source, column, flag) for split, source in sources.items()}
        if self.group_column:
            check_apart(values, sources, column)
        return values["train"], self.time_column is not None

    @property
    def held_as(self) -> str:
        if self.group_column:
            return f", whole groups of column {self.group_column!r}"
        return f", the latest by column {self.time_column!r}" if self.time_column else ""

    def collate(self, features: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """See `collate_padded`."""
        return collate_padded(features, self.padding)

    @staticmethod
    def preprocess_logits_for_metrics(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Keep all logits: scores need more than the best class."""
        return logits

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        return self.target.scores(joined(prediction.predictions), joined(prediction.label_ids))

    def floors(self, split: Dataset) -> dict[str, float]:
        return self.target.floors(split_labels(split))

    def floor(self, split: Dataset) -> float:
        """What the one constant answer scores, by the first of the scores."""
        return next(iter(self.floors(split).values()))


WORDS = {"train": "train on", "validation": "validate", "test": "test"}


def check_apart(values: dict[str, np.ndarray], sources: dict[str, Source], column: str) -> None:
    """Raise ValueError for a value in the rows of two splits: `values` of each split's rows in `column`."""
    for first, second in combinations(values, 2):
        shared = np.intersect1d(values[first], values[second])
        if len(shared):
            raise ValueError(
                f"rows of one {column} lie in one split, but {shared.tolist()[0]!r} in column {column!r} is in "
                f"{sources[first].name} and in {sources[second].name}: take it out of one, or give it another name."
            )


def _keys(source: Source, column: str, flag: str) -> np.ndarray:
    """The values of a column that rows are held out by: sortable, none missing. Raises ValueError."""
    values = column_of(source, column, flag)
    if flag == "time_column":
        return times_of(values.to_numpy(zero_copy_only=False), column, source.where)
    if values.null_count:
        row = next(row for row, value in enumerate(values) if not value.is_valid)
        raise ValueError(f"rows are held out by column {column!r}, but {source.where(row)} has no value there.")
    return np.asarray(values.to_pylist())
