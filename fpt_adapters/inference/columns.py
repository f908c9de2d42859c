"""Which column of raw rows holds what a model reads."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

from ..inputs.input_type import InputType

WORD_COLUMNS = ("tokens", "words")
LABEL_COLUMNS = ("label", "labels", "tags", "ner_tags")  # which hold no inputs, whatever is in them


def input_columns(
    columns: Sequence[str], read: Callable[[str], Sequence[Any]], kind: InputType, of_words: bool, given: str | None
) -> list[str]:
    """The column with the inputs: the `given` one (or two, with a comma), a usual name, or the only one that fits.

    `read`: a column's name -> its values. Raises ValueError, with all columns, where that is none or several.
    """
    usual = WORD_COLUMNS + kind.columns if of_words else kind.columns
    names = [name for name in usual if name in columns][:1] or (list(columns) if len(columns) == 1 else [])
    if given is not None:
        names = [given] if given in columns else [name.strip() for name in given.split(",")]
    names = names or [name for name in columns if name not in LABEL_COLUMNS and _fit(read(name), kind, of_words)]
    if not set(names) <= set(columns) or (given is None and len(names) != 1):
        raise ValueError(
            f"the rows have the columns {', '.join(columns)}: write which of them holds the inputs with "
            f"input_column (of pairs of texts both, with a comma between), or call it {' or '.join(usual)}."
        )
    return names


def _fit(values: Sequence[Any], kind: InputType, of_words: bool) -> bool:
    """Whether all values, of those that are there, are of the sort that a model reads."""
    there = [value for value in values if value is not None]
    return bool(there) and all(_fits(value, kind, of_words) for value in there)


def _fits(value: Any, kind: InputType, of_words: bool) -> bool:
    if kind.modality in ("image", "audio"):
        return isinstance(value, (bytes, Mapping, Image.Image))
    inner = next(iter(value), None) if isinstance(value, (list, tuple, np.ndarray)) else None
    if kind.modality != "text":
        return inner is not None and not isinstance(inner, (str, Mapping))
    if isinstance(value, str):
        return not of_words
    return isinstance(inner, str) if of_words else not kind.native and isinstance(inner, (str, int))
