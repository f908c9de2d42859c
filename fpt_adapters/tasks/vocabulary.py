"""Tokenizers with a fixed vocabulary, of transformers' own class, so that they load without this library."""

from collections.abc import Sequence

from tokenizers import Tokenizer
from tokenizers.decoders import Decoder
from tokenizers.models import WordLevel
from tokenizers.normalizers import Normalizer
from tokenizers.pre_tokenizers import PreTokenizer
from transformers import PreTrainedTokenizerFast


def fixed_tokenizer(
    tokens: Sequence[str],
    max_length: int,
    normalizer: Normalizer | None,
    pre_tokenizer: PreTokenizer,
    decoder: Decoder | None = None,
    unknown: str | None = None,
) -> PreTrainedTokenizerFast:
    """Make a tokenizer whose ids are the positions in `tokens`. The first token is padding, on the right.

    `normalizer` and `pre_tokenizer` cut a text into words. A word that is no token is an error (the `tokenizers`
    library says "Missing [UNK] token"), or becomes the token `unknown`. So must the padding token in a text be.
    """
    backend = Tokenizer(WordLevel({token: number for number, token in enumerate(tokens)}, unk_token=unknown or ""))
    if normalizer is not None:
        backend.normalizer = normalizer
    backend.pre_tokenizer = pre_tokenizer
    if decoder is not None:
        backend.decoder = decoder
    return PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=tokens[0],
        unk_token=unknown,
        padding_side="right",
        model_max_length=max_length,
        model_input_names=["input_ids", "attention_mask"],
        split_special_tokens=True,  # a text must not contain padding
    )
