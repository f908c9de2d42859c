"""The input projection: raw inputs -> embeddings for the backbone. Input types share this module.

Initialisation follows the paper's code: linear layers orthogonal with gain 1.41 and zero bias, token embeddings from
N(0, 1), then dropout 0.1.
"""

from torch import Tensor, nn
from transformers import PreTrainedConfig

from ..backbones.cpu.dropout import Dropout
from .encoded import Encoded

ORTHOGONAL_GAIN = 1.41


class Projection(nn.Module):
    """A linear layer from each token's numbers to an embedding, then dropout. Subclasses cut inputs into tokens."""

    input_name = "input_values"
    beside: tuple[str, ...] = ()  # what `forward` may take beside it, and the mask
    embeddings_name = "projection"  # the attribute that makes embeddings

    def __init__(self, config: PreTrainedConfig, width: int):
        super().__init__()
        self.config = config
        self.projection = nn.Linear(config.token_size, width)
        nn.init.orthogonal_(self.projection.weight, gain=ORTHOGONAL_GAIN)
        nn.init.zeros_(self.projection.bias)
        self.dropout = Dropout(config.input_dropout)

    def to_tokens(self, inputs: Tensor, mask: Tensor | None) -> Encoded:
        """Raw inputs -> an `Encoded` with `states` (batch, tokens, numbers per token), the token mask and the like."""
        raise NotImplementedError

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Encoded:
        """Raw inputs and their mask (None: all real) -> embeddings (batch, tokens, width) and the token mask."""
        encoded = self.to_tokens(inputs, mask)
        check_length(encoded.states.shape[1], self.config)
        tokens = encoded.states.to(self.projection.weight.dtype)  # (batch, tokens, numbers)
        encoded.states = self.dropout(self.projection(tokens))
        return encoded


def check_sequences(inputs: Tensor, steps: str, size_name: str, size: int) -> None:
    """Raise ValueError for `input_values` that are not (batch, steps, size); messages name axes by the arguments."""
    if inputs.ndim == 3 and inputs.shape[2] == size:
        return
    advice = ""
    if inputs.ndim == 3 and inputs.shape[1] == size:
        advice = f": the {size} come before the {steps} here, write input_values.transpose(1, 2)"
    raise ValueError(
        f"input_values has shape (batch, {steps}, {size_name}={size}), got {tuple(inputs.shape)}{advice}."
    )


def without_padding(inputs: Tensor, mask: Tensor | None) -> Tensor:
    """Inputs (batch, steps, numbers) with zeros where the mask (batch, steps) is 0, even in place of NaN."""
    return inputs if mask is None else inputs.masked_fill(mask[..., None] == 0, 0)


def check_length(tokens: int, config: PreTrainedConfig) -> None:
    """Raise ValueError for no tokens, and for more than the model was built for."""
    if tokens == 0:
        raise ValueError("The input has no tokens: give at least one.")
    if tokens > config.num_tokens:
        raise ValueError(
            f"The input has {tokens} tokens, but this model was built for at most {config.num_tokens}: shorten it, or "
            "build the model for the longer one."
        )


def check_stride(config: PreTrainedConfig) -> None:
    """Raise ValueError for patches of a series that leave steps out between them."""
    if config.patch_stride > config.patch_length:
        raise ValueError(
            f"patch_stride is at most patch_length, or steps would be lost; got {config.patch_stride} and "
            f"{config.patch_length}."
        )
