"""The tokenizer of a base: loaded where it really has one, and set up for a model that reads so many tokens."""

from typing import Any

from transformers import AutoConfig, AutoTokenizer, PreTrainedTokenizerBase

from ..hub.download import has_file

TOKENIZER_FILE = "tokenizer_config.json"


def load_tokenizer(source: str, instead: str, **hub_kwargs: Any) -> PreTrainedTokenizerBase:
    """Load the tokenizer at `source`, a folder or a Hub id. Raises ValueError, with what to do `instead`, for none."""
    if not has_file(source, TOKENIZER_FILE, **hub_kwargs):  # transformers would make one up, which knows no word
        raise ValueError(f"{source!r} has no {TOKENIZER_FILE} beside its weights: {instead}.")
    return AutoTokenizer.from_pretrained(source, trust_remote_code=False, **hub_kwargs)


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
