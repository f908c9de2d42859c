"""Columns of text: strings, or lists of words; a row that has none is named."""

from dataclasses import replace
from typing import Any

import datasets

from .columns import column_of, inner_feature
from .labels import STRINGS
from .sources import Source
from .splits import Part


def is_text(feature: Any) -> bool:
    """Whether a column holds strings."""
    return isinstance(feature, datasets.Value) and feature.dtype in STRINGS


def is_words(feature: Any) -> bool:
    """Whether a column holds lists of strings."""
    return is_text(inner_feature(feature))


def without(source: Source, columns: tuple[str, ...]) -> Source:
    """A source without some of its columns, so that none of them is found."""
    kept = [name for name in source.data.column_names if name not in columns]
    return replace(source, data=source.data.select_columns(kept))


def read_texts(part: Part, column: str, flag: str) -> list[str]:
    """The strings of a part's rows. Raises ValueError for a column of another kind, and for a row without one."""
    values = _read(part, column, flag, is_text, "texts are strings")
    for row, text in zip(part.rows, values, strict=True):
        if text is None or not text.strip():
            raise ValueError(
                f"each row needs a text, but {part.source.where(int(row))} has none in column {column!r}: drop it."
            )
    return values


def read_words(part: Part, column: str, flag: str) -> list[list[str]]:
    """The lists of words of a part's rows. Raises ValueError as `read_texts`, and for a word that is missing."""
    values = _read(part, column, flag, is_words, "words are lists of strings")
    for row, words in zip(part.rows, values, strict=True):
        if not words or None in words:
            what = "has none" if not words else f"lacks word {words.index(None)}"
            raise ValueError(
                f"each row needs words, but {part.source.where(int(row))} {what} in column {column!r}: drop the row."
            )
    return values


def _read(part: Part, column: str, flag: str, fits: Any, rule: str) -> list[Any]:
    values = column_of(part.source, column, flag)
    if not fits(part.source.data.features[column]):
        raise ValueError(
            f"{rule}, but column {column!r} of {part.source.name} has {part.source.data.features[column]}: name "
            f"another with --{flag}."
        )
    return values.take(part.rows).to_pylist()
