"""Text of one's own, which the base's own tokenizer reads: a class, several labels or numbers for each text."""

import logging
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from transformers import BatchEncoding, PreTrainedTokenizerBase

from ..data.columns import find_column
from ..data.splits import Part, check_at_least
from ..data.texts import is_text, read_texts, without
from ..data.tokenizers import load_tokenizer, most_tokens, read_at_most
from ..modeling_fpt import FPTForSequenceClassification
from .row_task import RowTask

logger = logging.getLogger(__name__)


@dataclass
class TokenizedTask(RowTask):
    """Rows that the base's own tokenizer makes ids of: native input."""

    word_settings: ClassVar[dict[str, Any]] = {}  # how the tokenizer is called

    tokenizer_name: str | None = field(
        default=None, metadata={"help": "Tokenizer: a Hub id or a folder (default: the base's own)."}
    )
    max_length: int | None = field(
        default=None,
        metadata={
            "help": "Tokens that are read (default: as the longest training row has, up to the base's limit); the "
            "rest is cut off."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_length is not None:
            check_at_least("max_length", self.max_length, 1)
        self.training: tuple[Part | None, BatchEncoding | None] = (None, None)

    @abstractmethod
    def texts(self, part: Part) -> tuple[list[Any], ...]:
        """What the tokenizer reads of a part: texts, or pairs as two lists."""

    def fit(self, part: Part) -> tuple[PreTrainedTokenizerBase, dict[str, Any], list[str]]:
        """Load the base's tokenizer, and find how many tokens are read; see `read_at_most` for padding."""
        tokenizer = self._load_tokenizer()
        encoded = self._uncut(tokenizer, self.texts(part))
        self.training = part, encoded  # which `encode` takes, so that the training rows are read once
        lengths = list(map(len, encoded["input_ids"]))
        self.limit = most_tokens(tokenizer, self.base, **self.base_settings)
        if self.max_length is not None and self.max_length > self.limit:
            raise ValueError(f"the base reads {self.limit} tokens at most, got max_length={self.max_length}.")
        most = self.max_length or min(max(lengths), self.limit)
        read_at_most(tokenizer, most)
        self.padding = {"input_ids": tokenizer.pad_token_id, "token_type_ids": 0, "attention_mask": 0}
        read = "all" if most >= max(lengths) else most
        found = f"{self.found}: {min(lengths)} to {max(lengths)} tokens of the base, of which it reads {read}"
        return tokenizer, {"input_type": "native", "sequence_length": most}, [found]

    def encode(self, part: Part) -> list[tuple[BatchEncoding, int]]:
        """An encoding for each row of a part, and which of its rows that is, cut to `max_length`.

        Warns with the count of the rows that were cut.
        """
        tokenizer, texts = self.processor(), self.texts(part)
        (read, encoded), self.training = self.training, (None, None)
        encoded = encoded if read is part else self._uncut(tokenizer, texts)
        lengths, most = list(map(len, encoded["input_ids"])), tokenizer.model_max_length
        found = [(encoded, row) for row in range(len(lengths))]
        if long := [row for row, length in enumerate(lengths) if length > most]:
            advice = "the base reads no more" if most == self.limit else "write a larger --max_length"
            logger.warning(
                "%d of %d rows of %s have more than max_length=%d tokens and were cut to it (the longest has %d): %s.",
                *(len(long), len(lengths), part.source.name, most, max(lengths), advice),
            )
            again = [[column[row] for row in long] for column in texts]
            cut = tokenizer(*again, truncation=True, **self.word_settings)
            for place, row in enumerate(long):
                found[row] = cut, place
        return found

    def inputs(self, part: Part) -> Sequence[dict[str, Any]]:
        return [{name: encoded[name][row] for name in encoded} for encoded, row in self.encode(part)]

    def _uncut(self, tokenizer: PreTrainedTokenizerBase, texts: tuple[list[Any], ...]) -> BatchEncoding:
        return tokenizer(*texts, verbose=False, **self.word_settings)

    def _load_tokenizer(self) -> PreTrainedTokenizerBase:
        name, settings = self.tokenizer_name or self.base, {} if self.tokenizer_name else self.base_settings
        if name is None:
            raise ValueError(f"{self.name} reads with a base's tokenizer: write --tokenizer_name, for a random base.")
        return load_tokenizer(name, "write --tokenizer_name", bool(self.word_settings), **settings)


@dataclass
class TextClassification(TokenizedTask):
    """A class, several labels or numbers for each text, or for each pair of texts."""

    name = "text-classification"
    model_class = FPTForSequenceClassification

    text_column: str | None = field(
        default=None,
        metadata={"help": "Column with the texts (default: text or sentence); for pairs two, with a comma between."},
    )

    def fit(self, part: Part) -> tuple[PreTrainedTokenizerBase, dict[str, Any], list[str]]:
        source = without(part.source, self.target.columns)
        given = [None] if self.text_column is None else [name.strip() for name in self.text_column.split(",")]
        if len(given) > 2:
            raise ValueError(f"a row has one text, or two; got --text_column {self.text_column!r}.")
        self.columns = [find_column(source, name, ("text", "sentence"), is_text, "text_column") for name in given]
        self.found = f"column {' and '.join(map(repr, self.columns))}: text"
        return super().fit(part)

    def texts(self, part: Part) -> tuple[list[Any], ...]:
        return tuple(read_texts(part, column, "text_column") for column in self.columns)
