"""Texts as a tokenizer takes them: strings, pairs of strings, or lists of words; and the labels of words."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import BatchEncoding, PreTrainedConfig

from .answers import answers_of


def encode_texts(tokenizer: Any, rows: Sequence[Any], first: int = 0) -> BatchEncoding:
    """Strings, pairs (tuples) of them, or lists of words, symbols or ids -> ids, padded to the longest.

    `first`: the number of the first row, for messages. Raises ValueError for a row that has none.
    """
    for row, value in enumerate(rows):
        parts = value if isinstance(value, (list, tuple)) else [value]
        if not parts or not all(isinstance(part, (str, int)) and str(part).strip() for part in parts):
            raise ValueError(f"each row needs a text, but row {first + row} has {value!r:.60}: write one, or drop it.")
    words = isinstance(rows[0], list)
    rows = [[str(word) for word in row] for row in rows] if words else list(rows)
    return tokenizer(rows, is_split_into_words=words, padding=True, truncation=True, return_tensors="pt")


def first_pieces(words: Sequence[int | None]) -> list[int]:
    """Which tokens are the first of a word. `words`: the number of the word that each is of, None for special ones."""
    pairs = zip([None, *words], words, strict=False)
    return [token for token, (before, word) in enumerate(pairs) if word is not None and word != before]


def answers_of_words(
    logits: Tensor, encoded: BatchEncoding, rows: Sequence[list[str]], config: PreTrainedConfig
) -> dict[str, list[Any]]:
    """Logits (batch, tokens, num_labels) -> for each row, an answer a word: that of its first piece.

    None for the words behind the last one that the model reads.
    """
    places = [first_pieces(encoded.word_ids(row)) for row in range(len(rows))]
    picked = torch.nn.utils.rnn.pad_sequence([logits[row, place] for row, place in enumerate(places)], True)
    answers = answers_of(picked, config, torch.tensor(list(map(len, places))))
    return {
        name: [found + [None] * (len(words) - len(found)) for found, words in zip(column, rows, strict=True)]
        for name, column in answers.items()
    }
