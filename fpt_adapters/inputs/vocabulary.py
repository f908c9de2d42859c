"""Tokenizers with a fixed vocabulary, of transformers' own class, so that they load without this library."""

from collections.abc import Sequence

from tokenizers import Regex, Tokenizer
from tokenizers.decoders import Decoder, Fuse
from tokenizers.models import WordLevel
from tokenizers.normalizers import Normalizer
from tokenizers.pre_tokenizers import PreTokenizer, Split
from transformers import PreTrainedTokenizerFast

PAD, UNKNOWN = "<pad>", "<unk>"


def symbol_tokenizer(
    rows: Sequence[Sequence[str]], separator: str = "", max_length: int | None = None
) -> PreTrainedTokenizerFast:
    """Make the tokenizer of these training rows: strings, whose symbols are their characters, or lists of symbols.

    Padding is 0, a symbol that the rows lack 1, and theirs follow in order. It takes strings: `separator` is what
    stands between two symbols there (a list of them is to be joined by it). It cuts at `max_length` symbols (None: as
    many as the longest row has). The fields of `FPTConfig` for it are `input_type="tokens"`,
    `vocab_size=len(tokenizer)`, `sequence_length=tokenizer.model_max_length`, `pad_token_id=tokenizer.pad_token_id`.
    Raises ValueError for rows without a symbol, and for symbols that are called as those two are.
    """
    symbols = sorted({symbol for row in rows for symbol in row})
    if not symbols or {PAD, UNKNOWN} & {*symbols}:
        what = f"{PAD!r} or {UNKNOWN!r} among them: these stand for padding and unknown ones" if symbols else "none"
        raise ValueError(f"the vocabulary is the symbols of the training rows, but they have {what}.")
    cutter = Split(separator, "removed") if separator else Split(Regex(r"[\s\S]"), "isolated")
    longest = max(len(row) for row in rows)
    return fixed_tokenizer((PAD, UNKNOWN, *symbols), max_length or longest, None, cutter, Fuse(), unknown=UNKNOWN)


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
