"""Tokens: ids of a vocabulary, for texts or anything else that has one, such as proteins."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from ..backbones.cpu.dropout import Dropout
from ..rules.wording import counted, thousands
from .encoded import Encoded
from .input_type import InputType, Loading, text_usage
from .projection import check_length


class TokenEmbedding(nn.Module):
    """A new embedding table for `input_ids` (batch, tokens), drawn from N(0, 1), then dropout."""

    input_name = "input_ids"
    beside: tuple[str, ...] = ()
    embeddings_name = "embedding"

    def __init__(self, config: PreTrainedConfig, width: int):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, width)
        self.dropout = Dropout(config.input_dropout)

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Encoded:
        """Ids and their mask (batch, tokens) -> embeddings (batch, tokens, width) and the mask.

        Without a mask, positions that hold `pad_token_id` (where the config has one) count as padding.
        """
        if inputs.is_floating_point():
            raise ValueError(f"input_ids are whole numbers, got {inputs.dtype}: write input_ids.long().")
        check_length(inputs.shape[1], self.config)
        if mask is None and self.config.pad_token_id is not None:
            mask = (inputs != self.config.pad_token_id).to(torch.long)  # (batch, tokens)
        return Encoded(self.dropout(self.embedding(inputs.long())), mask)


class TokensInput(InputType):
    """Ids 0..`vocab_size` - 1."""

    needs = ("sequence_length", "vocab_size")
    optional = ("pad_token_id",)
    module = TokenEmbedding
    modality = "text"
    columns = ("text", "sentence", "sequence", "seq")
    step_is_token = True

    def check(self, config: PreTrainedConfig) -> None:
        if config.pad_token_id is not None and not 0 <= config.pad_token_id < config.vocab_size:
            raise ValueError(
                f"pad_token_id lies in 0..{config.vocab_size - 1} (vocab_size), got {config.pad_token_id}."
            )

    def num_tokens(self, config: PreTrainedConfig) -> int:
        return config.sequence_length

    def token_size(self, config: PreTrainedConfig) -> int:
        return config.vocab_size

    def wrong_ids(self, config: PreTrainedConfig, inputs: Tensor) -> tuple[Tensor, str] | None:
        wrong = (inputs < 0) | (inputs >= config.vocab_size)
        if not wrong.any():
            return None
        rule = f"0..{config.vocab_size - 1} (vocab_size={config.vocab_size})"
        return wrong, f"input_ids must lie in {rule}, got {inputs[wrong][0].item()}"

    def processor(self, config: PreTrainedConfig, **settings: Any) -> None:
        raise ValueError("Which text has which ids is up to the data: give the model the tokenizer that made them.")

    def prepare(self, processor: Any, rows: Any) -> Any:
        """Of strings, or of lists of symbols, which the tokenizer takes with a space between."""
        rows = [row if isinstance(row, str) else " ".join(map(str, row)) for row in rows]
        return processor(rows, padding=True, truncation=True, return_tensors="pt")

    def describe(self, config: PreTrainedConfig) -> str:
        return f"up to {counted(config.num_tokens, 'token id')} out of {thousands(config.vocab_size)}."

    def example(self, config: PreTrainedConfig) -> str:
        fill = "ones" if config.pad_token_id == 0 else "zeros"  # not the padding id
        return f"torch.{fill}(1, {config.sequence_length}, dtype=torch.long)"

    def usage(self, config: PreTrainedConfig, loading: Loading) -> str | None:
        return text_usage(loading)
