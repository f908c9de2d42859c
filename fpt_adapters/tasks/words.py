"""Words of one's own, each with a label: entities, parts of speech. The base's own tokenizer cuts them further."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from ..data.columns import find_column
from ..data.sources import Source
from ..data.splits import Part
from ..data.targets import CLASSES
from ..data.texts import is_words, read_words, without
from ..data.token_targets import TokenTarget
from ..heads.problems import IGNORED_LABEL
from ..inference.texts import first_pieces
from ..modeling_fpt import FPTForTokenClassification
from .row_task import RowSplit
from .text import TokenizedTask


@dataclass
class TokenClassification(TokenizedTask):
    """A class for each word: the first piece of a word carries its label, and the others none."""

    name = "token-classification"
    model_class = FPTForTokenClassification
    problem_types = (CLASSES,)
    label_columns = ("ner_tags", "tags", "labels", "label")
    word_settings = {"is_split_into_words": True}

    words_column: str | None = field(
        default=None, metadata={"help": "Column with the words of each row, a list (default: tokens or words)."}
    )

    def choose_target(self, source: Source, columns: Sequence[str], *_: Any, **settings: Any) -> TokenTarget:
        if len(columns) > 1:
            raise ValueError(f"each word has one label, but --label_column names {', '.join(columns)}: name one.")
        return TokenTarget.of_column(source, columns[0])

    def fit(self, part: Part) -> tuple[PreTrainedTokenizerBase, dict[str, Any], list[str]]:
        source = without(part.source, self.target.columns)
        self.column = find_column(source, self.words_column, ("tokens", "words"), is_words, "words_column")
        self.found = f"column {self.column!r}: words"
        found = super().fit(part)
        self.padding["labels"] = IGNORED_LABEL
        return found

    def texts(self, part: Part) -> tuple[list[list[str]]]:
        return (read_words(part, self.column, "words_column"),)

    def split(self, part: Part) -> RowSplit:
        """The examples of a part, with the labels of their words on the first piece of each."""
        for row, words, labels in zip(part.rows, self.texts(part)[0], part.labels, strict=True):
            if len(words) != len(labels):
                raise ValueError(
                    f"each word has a label, but {part.source.where(int(row))} has {len(words)} words in column "
                    f"{self.column!r} and {len(labels)} labels in column {self.target.columns[0]!r}."
                )
        encodings = self.encode(part)
        inputs = [{name: encoded[name][row] for name in encoded} for encoded, row in encodings]
        words = [encoded.word_ids(row) for encoded, row in encodings]
        labels = np.empty(len(words), dtype=object)
        labels[:] = [on_first_pieces(*each) for each in zip(words, part.labels, strict=True)]
        return RowSplit(inputs, labels)


def on_first_pieces(words: Sequence[int | None], labels: np.ndarray) -> np.ndarray:
    """The labels of words, put on the first of the tokens that each is cut into; -100 on all other tokens: (tokens,).

    `words`: the number of the word that each token is of, None for special ones.
    """
    taken = np.full(len(words), IGNORED_LABEL, dtype=np.int64)
    for token in first_pieces(words):
        taken[token] = labels[words[token]]
    return taken
