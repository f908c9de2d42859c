"""The tokenizer of a base: loaded where it really has one, and set up for a model that reads so many tokens."""

import os
from collections.abc import Callable, Sequence
from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from ..hub.download import has_file

NAME_ROW = "row {}".format
TOKENIZER_FILE = "tokenizer_config.json"


def native_tokenizer(
    base: str | os.PathLike,
    rows: Sequence[Any],
    max_length: int | None = None,
    where: Callable[[int], str] = NAME_ROW,
    **hub_kwargs: Any,
) -> PreTrainedTokenizerBase:
    """Load a base's own tokenizer, which cuts and pads as these training rows need: texts, pairs, or lists of words.

    It reads as many tokens as the longest row has (or `max_length`), up to the base's limit. The fields of `FPTConfig`
    for it are `input_type="native"` and `sequence_length=tokenizer.model_max_length`. `where` names a row in messages.
    `hub_kwargs`: such as `revision`. Raises ValueError for a base without a tokenizer, and for a row that is no text.
    """
    rows = list(rows)
    words = bool(rows) and isinstance(rows[0], list)
    for number, row in enumerate(rows):
        parts = row if isinstance(row, (list, tuple)) else [row]
        if not parts or not all(isinstance(part, str) for part in parts):
            raise ValueError(f"each row is a text, or a list of words, but {where(number)} is {row!r:.60}: drop it.")
    tokenizer = load_tokenizer(os.fspath(base), "name a base that has one", words, **hub_kwargs)
    encoded = tokenizer(rows, verbose=False, is_split_into_words=words)["input_ids"]
    most = most_tokens(tokenizer, base, **hub_kwargs)
    if max_length is not None and max_length > most:
        raise ValueError(f"the base reads {most} tokens at most, got max_length={max_length}.")
    read_at_most(tokenizer, max_length or min(max(map(len, encoded)), most))
    return tokenizer


def load_tokenizer(source: str, instead: str, words: bool = False, **hub_kwargs: Any) -> PreTrainedTokenizerBase:
    """Load the tokenizer at `source`, a folder or a Hub id; for lists of `words`, one that knows whose each token is.

    Raises ValueError, with what to do `instead`, for none.
    """
    if not has_file(source, TOKENIZER_FILE, **hub_kwargs):  # transformers would make one up, which knows no word
        raise ValueError(f"{source!r} has no {TOKENIZER_FILE} beside its weights: {instead}.")
    tokenizer = AutoTokenizer.from_pretrained(source, trust_remote_code=False, **hub_kwargs)
    if not words:
        return tokenizer
    if not tokenizer.is_fast:
        raise ValueError("words need a tokenizer that knows which word each token is of: name a fast one.")
    if "add_prefix_space" in tokenizer.init_kwargs:  # byte-level ones take words with a space before them
        return type(tokenizer).from_pretrained(source, add_prefix_space=True, **hub_kwargs)
    return tokenizer


def most_tokens(tokenizer: PreTrainedTokenizerBase, base: str | None, **hub_kwargs: Any) -> float:
    """The most tokens that a base can read, as far as its tokenizer and its configuration tell."""
    if base is None:
        return tokenizer.model_max_length
    config = AutoConfig.from_pretrained(base, trust_remote_code=False, **hub_kwargs)
    return min(tokenizer.model_max_length, getattr(config, "max_position_embeddings", float("inf")))


def read_at_most(tokenizer: PreTrainedTokenizerBase, tokens: int) -> None:
    """Have a tokenizer cut and pad on the right, to `tokens` at most.

    One without padding takes its end of text for it, which a mask hides.
    """
    tokenizer.model_max_length, tokenizer.padding_side, tokenizer.truncation_side = tokens, "right", "right"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
