"""Labelled rows from files or the Hub, read with `datasets`, checked, and split into train, validation and test.

Missing parts are held out from the training rows, so that nothing is ever chosen on `test`.
"""

import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar

import datasets
import numpy as np
from datasets.exceptions import DatasetsError
from torch.utils.data import Dataset, Subset

from ..data.columns import find_column, is_class_label
from ..data.sources import Source, first_line, read_file
from ..data.splits import (
    FIXED_SEED,
    HELD_OUT_TEST,
    HELD_OUT_VALIDATION,
    SPLITS,
    Part,
    check_at_least,
    held_out,
    keep_some,
    split_sizes,
)
from ..data.targets import CLASSES, ClassTarget, Target, choose_target
from ..rules.wording import counted

logger = logging.getLogger(__name__)

SPLIT_NAMES = {  # split -> its names in data sets on the Hub
    "train": ("train",),
    "validation": ("validation", "valid", "val", "dev"),
    "test": ("test",),
}
LABEL_COLUMNS = ("label", "labels")


@dataclass
class FileArguments:
    """Where labelled rows come from: files, else the Hub. A mix-in for tasks, whose fields become flags."""

    dataset_name: str | None = field(
        default=None, metadata={"help": "Data set on the Hub; read only where no train_file is given."}
    )
    dataset_config_name: str | None = field(default=None, metadata={"help": "Its configuration, if it has several."})
    dataset_revision: str | None = field(default=None, metadata={"help": "Its branch, tag or commit (default: main)."})
    train_file: str | None = field(
        default=None, metadata={"help": "Training rows: a parquet, csv, json or jsonl file."}
    )
    validation_file: str | None = field(
        default=None, metadata={"help": "Validation rows; without it, a part of the training rows is held out."}
    )
    test_file: str | None = field(
        default=None, metadata={"help": "Test rows; without it, a part of the training rows is held out."}
    )
    label_column: str | None = field(
        default=None, metadata={"help": "Column with the labels (default: label or labels)."}
    )
    validation_share: float = field(
        default=0.1, metadata={"help": "Share of the training rows that a held-out part takes."}
    )
    validation_examples: int | None = field(
        default=None, metadata={"help": "Rows that a held-out part takes, instead of validation_share."}
    )
    min_label_examples: int = field(
        default=1, metadata={"help": "Drop the classes with fewer training rows than this, from every split."}
    )

    def __post_init__(self) -> None:
        check_at_least("min_label_examples", self.min_label_examples, 1)
        if not 0 < self.validation_share < 1:
            raise ValueError(f"validation_share lies above 0 and below 1, got {self.validation_share}.")
        if self.validation_examples is not None:
            check_at_least("validation_examples", self.validation_examples, 1)

    @property
    def hub_dataset(self) -> str | None:
        """The data set on the Hub that the rows come from; None for local files and folders."""
        local = self.train_file is not None or self.dataset_name is None or Path(self.dataset_name).exists()
        return None if local else self.dataset_name

    def reads(self, copy_of: str | None = None) -> bool:
        """Whether the rows come from the task's default data set; see `Task.reads`."""
        return (self.hub_dataset or copy_of) == type(self).dataset_name

    def read_parts(
        self, seed: int, max_samples: dict[str, int] | None, num_labels: int | None
    ) -> tuple[dict[str, Part], tuple[str, ...]]:
        """Read, check and split the rows: returns a part each for train, validation and test, and the label names.

        `num_labels` is the number of classes if the task fixes it, else None (see `LabelNames.of_column`).

        Without validation data, `validation_share` of the training rows, drawn with `seed`, is held out. Without test
        data, as many rows are held out for it; these are the same for every seed, so that the figures of several seeds
        can be compared, and no choice has seen them. `test` is never used as `validation`, nor the reverse. Then
        `max_samples` keeps some rows of a part, drawn with `seed`.

        The training data is needed even to evaluate only: it fixes the labels and the held-out parts.
        Raises ValueError for files, columns and labels that do not fit.
        """
        parts, target = self.read_targets(seed, max_samples, num_labels=num_labels)
        return parts, target.names.names

    def read_targets(
        self, seed: int, max_samples: dict[str, int] | None, problem_type: str | None = CLASSES, **settings: Any
    ) -> tuple[dict[str, Part], Target]:
        """As `read_parts`, for labels of any kind: `problem_type` and `settings` are those of `choose_target`."""
        sources = self._sources()
        columns = self._label_columns(sources["train"])
        target = self.choose_target(sources["train"], columns, problem_type, **settings)
        labels = {split: target.read(source) for split, source in sources.items()}
        rows = self._rows(sources, seed)
        if self.min_label_examples > 1:
            rows, labels, target = self._without_rare(rows, labels, target)
        sizes = split_sizes({split: len(rows[split]) for split in SPLITS}, max_samples)
        parts = {}
        for split in SPLITS:
            origin = split if split in sources else "train"
            chosen = keep_some(rows[split], sizes[split], seed, split)
            parts[split] = Part(sources[origin], chosen, labels[origin][chosen])
        return parts, target

    def choose_target(
        self, source: Source, columns: Sequence[str], problem_type: str | None, **settings: Any
    ) -> Target:
        """Find what the label columns of the training rows hold: see the function of that name."""
        return choose_target(source, columns, problem_type, **settings)

    label_columns: ClassVar[tuple[str, ...]] = LABEL_COLUMNS  # what a column of labels is often called

    def _label_columns(self, source: Source) -> tuple[str, ...]:
        """The columns of the labels: several are written with commas between them."""
        given = self.label_column
        if given is not None and "," in given and given not in source.data.column_names:
            return tuple(
                find_column(source, name.strip(), (), is_class_label, "label_column") for name in given.split(",")
            )
        return (find_column(source, given, self.label_columns, is_class_label, "label_column"),)

    def _without_rare(
        self, rows: dict[str, np.ndarray], labels: dict[str, np.ndarray], target: Target
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray], Target]:
        """Drop the rows of the classes with few training rows, and number the other classes anew."""
        if type(target) is not ClassTarget:  # those of words are one of each word
            raise ValueError(f"--min_label_examples counts the rows of classes; {target.describe()}: leave it out.")
        names = target.names.names
        kept = np.bincount(labels["train"][rows["train"]], minlength=len(names)) >= self.min_label_examples
        numbers = np.cumsum(kept) - 1
        left = {}
        for split, chosen in rows.items():
            of_split = labels.get(split, labels["train"])  # a held-out part has its labels in the training rows
            left[split] = chosen[kept[of_split[chosen]]]
            if not len(left[split]):
                raise ValueError(
                    f"no row of {split} is left: none of its classes has {self.min_label_examples} training rows. "
                    "Write a smaller --min_label_examples."
                )
            logger.warning(
                "%s keeps %d of its %d rows: those of the %d classes (of %d) with at least %d training rows.",
                *(split, len(left[split]), len(chosen), kept.sum(), len(kept), self.min_label_examples),
            )
        labels = {split: np.where(kept[values], numbers[values], -1) for split, values in labels.items()}
        names = replace(target.names, names=tuple(itertools.compress(names, kept)))
        return left, labels, replace(target, names=names)

    def _sources(self) -> dict[str, Source]:
        """Read the sources that are given: always `train`, perhaps `validation` and `test`."""
        files = {split: path for split, path in self._files().items() if path is not None}
        if not files:
            return self._hub_sources()
        if "train" not in files:
            given = ", ".join(f"--{split}_file {path}" for split, path in files.items())
            raise ValueError(
                f"train_file fixes the labels and is needed for evaluation too, but only {given} came: "
                "write --train_file with the rows that the model was trained on."
            )
        return {split: self.read_source(path, split) for split, path in files.items()}

    def read_source(self, path: str, split: str) -> Source:
        """Read the rows of a split from what a flag names."""
        return read_file(path, split)

    def _files(self) -> dict[str, str | None]:
        return {"train": self.train_file, "validation": self.validation_file, "test": self.test_file}

    def _hub_sources(self) -> dict[str, Source]:
        if self.dataset_name is None:
            raise ValueError("no data was named: write --train_file (parquet, csv, json) or --dataset_name (Hub id).")
        try:
            loaded = datasets.load_dataset(self.dataset_name, self.dataset_config_name, revision=self.dataset_revision)
        except (OSError, ValueError, RuntimeError, DatasetsError) as error:
            place = "the folder" if self.hub_dataset is None else "the Hub"
            raise ValueError(
                f"data set {self.dataset_name!r} could not be loaded from {place} ({first_line(error)}): "
                "write --train_file and --test_file to read files of this machine."
            ) from error
        sources = {}
        for split, aliases in SPLIT_NAMES.items():
            found = [alias for alias in aliases if alias in loaded]
            if found:
                sources[split] = Source(loaded[found[0]], f"the {found[0]} split ({self.dataset_name})")
        if "train" not in sources:
            raise ValueError(
                f"a split called train is needed, but {self.dataset_name!r} has {', '.join(loaded)}: "
                "write --dataset_config_name, or read files with --train_file."
            )
        for source in sources.values():
            if len(source.data) == 0:
                raise ValueError(f"{source.name} has no rows: a split needs at least one.")
        return sources

    def _rows(self, sources: dict[str, Source], seed: int) -> dict[str, np.ndarray]:
        """Choose the rows of each part, ascending."""
        rows = {split: np.arange(len(source.data)) for split, source in sources.items()}
        total, name, blocks = len(rows["train"]), sources["train"].name, self.blocks(sources)
        for split, purpose, drawn_with in (
            ("test", HELD_OUT_TEST, FIXED_SEED),
            ("validation", HELD_OUT_VALIDATION, seed),
        ):
            if split in rows:
                continue
            left, count = len(rows["train"]), self.validation_examples or max(round(self.validation_share * total), 1)
            try:
                rows["train"], rows[split] = held_out(rows["train"], count, drawn_with, purpose, *blocks)
            except ValueError as error:
                held = counted(count, "row")
                raise ValueError(
                    f"{held} of {name} would be held out for {split}, but it has {left} left to train on"
                    f"{self.held_as}: write --{split}_file, or a smaller --validation_examples."
                ) from error
            note = "there is no test data: the test figure is on" if split == "test" else "validation is"
            log = logger.warning if split == "test" else logger.info
            log("%s %d rows held out of %s%s.", note, len(rows[split]), name, self.held_as)
        if len(rows["train"]) < 2 <= total:
            raise ValueError(
                f"{name} has {counted(total, 'row')}, of which 1 is left to train on, and that is too few: give more, "
                "or write --test_file and --validation_file."
            )
        return rows

    held_as: ClassVar[str] = ""  # how rows are held out, where they are not drawn one by one

    def blocks(self, sources: dict[str, Source]) -> tuple[np.ndarray | None, bool]:
        """What rows stay together, and whether the latest are held: see `held_out`."""
        return None, False


def split_labels(split: Dataset) -> np.ndarray:
    """The class numbers of a split with an attribute `labels`, or of a `Subset` of one: int64 (examples,)."""
    if isinstance(split, Subset):
        return split_labels(split.dataset)[np.asarray(split.indices, dtype=np.int64)]
    return np.asarray(split.labels)
