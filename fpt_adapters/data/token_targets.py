"""A label for each word of a row: names or numbers of classes, in lists as long as the words are."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np

from ..heads.problems import IGNORED_LABEL
from .columns import column_of, inner_feature
from .entities import EntityScores, are_tags
from .labels import INTEGERS, LabelNames
from .scores import ClassScores
from .sources import Source
from .targets import ClassTarget


@dataclass(frozen=True)
class TokenTarget(ClassTarget):
    """One class for each word. Labels: an array (rows,) of int64 arrays (words,)."""

    of_each = " for each word"
    advice = "give more rows"

    @classmethod
    def of_column(cls, source: Source, column: str) -> "TokenTarget":
        """Take the names from the training rows. Raises ValueError for a column that holds no lists of classes."""
        if not is_labels(source.data.features[column]):
            raise ValueError(
                f"each word has a label, so labels are lists of strings or whole numbers, but column {column!r} of "
                f"{source.name} has {source.data.features[column]}: name another with --label_column."
            )
        flat, _ = _flattened(source, column)
        return cls((column,), LabelNames.of_column(flat, column, None))

    def read(self, source: Source) -> np.ndarray:
        flat, lengths = _flattened(source, self.columns[0])
        numbers = self.names.read(flat, self.columns[0])
        rows = np.empty(len(lengths), dtype=object)
        rows[:] = np.split(numbers, np.cumsum(lengths)[:-1])
        return rows

    def fitted(self, labels: np.ndarray) -> "TokenTarget":
        return super().fitted(np.concatenate(list(labels)))

    def scores(self, logits: np.ndarray, labels: np.ndarray) -> dict[str, float]:
        """`logits` (examples, tokens, classes), `labels` (examples, tokens), -100 where there is none.

        Where the classes are tags of entities, those are scored too: `EntityScores`.
        """
        labelled = labels != IGNORED_LABEL
        return self._scores(logits[labelled], labels[labelled], labelled.sum(axis=1))

    def floors(self, labels: np.ndarray) -> dict[str, float]:
        """What the constant answer scores on `labels` (examples,), each (tokens,)."""
        rows = [row[row != IGNORED_LABEL] for row in labels]
        flat = np.concatenate(rows)
        return self._scores(self.constant(flat), flat, [len(row) for row in rows])

    def _scores(self, logits: np.ndarray, labels: np.ndarray, lengths: Sequence[int]) -> dict[str, float]:
        """Of all words (words, ...), of which each row has so many."""
        scores = ClassScores(keep_in_memory=True).compute(predictions=logits, references=labels)
        if not are_tags(self.names.names):
            return scores
        names, ends = np.array(self.names.names), np.cumsum(lengths)[:-1]
        answers, tags = (
            [row.tolist() for row in np.split(names[numbers], ends)] for numbers in (logits.argmax(axis=-1), labels)
        )
        return scores | EntityScores(keep_in_memory=True).compute(predictions=answers, references=tags)


@dataclass(frozen=True)
class WordNames(Sequence[str]):
    """What words are called that stand one below the other. `ends`: where the words of each row end."""

    ends: np.ndarray

    def __len__(self) -> int:
        return int(self.ends[-1])

    def __getitem__(self, word: int) -> str:
        row = int(np.searchsorted(self.ends, word, side="right"))
        return f"word {word - (self.ends[row - 1] if row else 0)} of row {row}"


def is_labels(feature: Any) -> bool:
    """Whether a column holds lists of classes."""
    inner = inner_feature(feature)
    named = isinstance(inner, datasets.ClassLabel)
    return named or (isinstance(inner, datasets.Value) and inner.dtype in (*INTEGERS, "string", "large_string"))


def _flattened(source: Source, column: str) -> tuple[Source, np.ndarray]:
    """The labels of all words one below the other, as rows of a source, and how many each row has.

    Raises ValueError for a row that has none, or has one that is missing.
    """
    values = column_of(source, column, "label_column")
    rows = values.to_pylist()
    for number, row in enumerate(rows):
        if not row or None in row:
            what = "has none" if not row else f"lacks that of word {row.index(None)}"
            raise ValueError(
                f"each word needs a label, but {source.where(number)} {what} in column {column!r}: drop the row."
            )
    features = datasets.Features({column: inner_feature(source.data.features[column])})
    flat = datasets.Dataset.from_dict({column: [label for row in rows for label in row]}, features=features)
    lengths = np.array([len(row) for row in rows])
    return Source(flat, source.name, row_names=WordNames(np.cumsum(lengths))), lengths
