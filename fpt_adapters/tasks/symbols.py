"""Sequences of symbols of one's own: proteins, DNA, SMILES, logs, ids; the vocabulary is that of the training rows."""

import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
from transformers import AutoConfig, PreTrainedTokenizerFast

from ..backbones.structure import most_tokens
from ..configuration_fpt import FPTConfig
from ..data.columns import column_of, find_column, inner_feature
from ..data.splits import Part, check_at_least
from ..data.texts import is_text, is_words, without
from ..inputs.vocabulary import symbol_tokenizer
from ..modeling_fpt import FPTForSequenceClassification
from .row_task import RowTask

logger = logging.getLogger(__name__)


@dataclass
class SequenceClassification(RowTask):
    """A class, several labels or numbers for each sequence, in a new table of embeddings."""

    name = "sequence-classification"
    model_class = FPTForSequenceClassification
    padding = {"input_ids": 0, "attention_mask": 0}

    sequence_column: str | None = field(
        default=None, metadata={"help": "Column with the sequences: strings, or lists of symbols or ids."}
    )
    symbol_separator: str | None = field(
        default=None,
        metadata={"help": "What stands between two symbols of a string (default: each character is one)."},
    )
    max_length: int | None = field(
        default=None,
        metadata={
            "help": "Symbols that are read (default: as the longest training row has, up to the base's limit); the "
            "rest is cut off."
        },
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.max_length is not None:
            check_at_least("max_length", self.max_length, 1)
        if self.symbol_separator == "":
            raise ValueError(
                "symbol_separator is one character or more: leave it out where each character is a symbol."
            )

    def fit(self, part: Part) -> tuple[PreTrainedTokenizerFast, dict[str, Any], list[str]]:
        source = without(part.source, self.target.columns)
        self.column = find_column(source, self.sequence_column, ("sequence", "seq"), is_symbols, "sequence_column")
        rows = self._read(part)
        lengths = sorted(map(len, rows))
        limit = self._limit()
        if self.max_length is not None and limit is not None and self.max_length > limit:
            raise ValueError(f"the base reads {limit} tokens at most, got max_length={self.max_length}.")
        most = self.max_length or min(lengths[-1], limit or lengths[-1])
        tokenizer = symbol_tokenizer(rows, self._joint, most)
        fields = {
            "input_type": "tokens",
            "sequence_length": tokenizer.model_max_length,
            "vocab_size": len(tokenizer),
            "pad_token_id": tokenizer.pad_token_id,
        }
        found = f"column {self.column!r}: {lengths[0]} to {lengths[-1]} symbols out of {len(tokenizer) - 2}"
        if most < lengths[-1]:
            found += f", of which it reads {most}"
        return tokenizer, fields, [found]

    def inputs(self, part: Part) -> Sequence[dict[str, Any]]:
        tokenizer, rows = self.processor(), self._read(part)
        most = tokenizer.model_max_length
        encoded = tokenizer([self._written(row) for row in rows], truncation=True)
        unknown = sum(row.count(tokenizer.unk_token_id) for row in encoded["input_ids"])
        if unknown:
            logger.warning(
                "%d symbols of %s are in no training row and are read as %s.",
                unknown,
                part.source.name,
                tokenizer.unk_token,
            )
        cut = sum(len(row) > most for row in rows)
        if cut:
            advice = "the base reads no more" if most == self._limit() else "write a larger --max_length"
            logger.warning(
                "%d of %d sequences of %s are longer than max_length=%d and were cut to it (the longest has %d): %s.",
                *(cut, len(rows), part.source.name, most, max(map(len, rows)), advice),
            )
        return [{name: encoded[name][row] for name in encoded} for row in range(len(rows))]

    def _limit(self) -> int | None:
        """The most symbols that the base has positions for; None: nothing limits them, or it is not known yet."""
        if self.base is None:
            return None
        config = AutoConfig.from_pretrained(self.base, trust_remote_code=False, **self.base_settings)
        return most_tokens(config.base_model_config if isinstance(config, FPTConfig) else config)

    @property
    def _joint(self) -> str:
        """What stands between two symbols where a row is written as a string."""
        return " " if self._lists else self.symbol_separator or ""

    def _written(self, row: list[str]) -> str:
        return self._joint.join(row)

    def _read(self, part: Part) -> list[list[str]]:
        """The symbols of each row. Raises ValueError for a column of another kind, and for a row without any."""
        feature = part.source.data.features[self.column] if self.column in part.source.data.column_names else None
        values = column_of(part.source, self.column, "sequence_column").take(part.rows)
        if not is_symbols(feature):
            raise ValueError(
                f"sequences are strings, or lists of strings or whole numbers, but column {self.column!r} of "
                f"{part.source.name} has {feature}: name another with --sequence_column."
            )
        self._lists = not is_text(feature)
        rows = []
        for row, value in zip(part.rows, values.to_pylist(), strict=True):
            symbols = self._cut(value)
            wrong = next((symbol for symbol in symbols if self._lists and (symbol is None or " " in symbol)), "")
            if not symbols or wrong != "":
                what = f"has {wrong!r} in it" if symbols else "has none"
                raise ValueError(
                    f"each row needs a sequence of symbols without gaps, but {part.source.where(int(row))} {what} "
                    f"(column {self.column!r}): correct or drop the row."
                )
            rows.append(symbols)
        return rows

    def _cut(self, value: Any) -> list[str | None]:
        if not self._lists:
            parts = list(value or "") if self.symbol_separator is None else (value or "").split(self.symbol_separator)
            return [part for part in parts if part]
        return [None if symbol is None else str(symbol) for symbol in value or ()]


def is_symbols(feature: Any) -> bool:
    """Whether a column holds strings, or lists of strings or of whole numbers."""
    inner = inner_feature(feature)
    whole = isinstance(inner, datasets.Value) and inner.dtype.startswith(("int", "uint"))
    return is_text(feature) or is_words(feature) or whole
