"""Modality inputs: raw values, tokens, image patches or series patches -> embeddings for the backbone.

Initialisation follows the paper's code: linear layers orthogonal with gain 1.41 and zero bias, token embeddings from
N(0, 1), then dropout 0.1. A patch holds its pixels row by row with the channels innermost.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig

from ..backbones.cpu.dropout import Dropout

ORTHOGONAL_GAIN = 1.41


class InputProjection(nn.Module):
    """Base of all inputs: numbers per token -> (batch, tokens, embedding width), then dropout."""

    input_name = "input_values"

    def __init__(self, config: PreTrainedConfig, token_size: int, width: int):
        super().__init__()
        self.config = config
        self.projection = nn.Linear(token_size, width)
        nn.init.orthogonal_(self.projection.weight, gain=ORTHOGONAL_GAIN)
        nn.init.zeros_(self.projection.bias)
        self.dropout = Dropout(config.input_dropout)

    def to_tokens(self, inputs: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """Raw inputs -> (batch, tokens, numbers per token), and the mask (batch, tokens) or None."""
        raise NotImplementedError

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Raw inputs and their mask (None: all real) -> embeddings (batch, tokens, width) and token mask."""
        tokens, mask = self.to_tokens(inputs, mask)  # (batch, tokens, numbers)
        _check_length(tokens.shape[1], self.config)
        return self.dropout(self.projection(tokens.to(self.projection.weight.dtype))), mask


class ValuesInput(InputProjection):
    """`input_values` (batch, tokens, input_size), for example bits."""

    def __init__(self, config: PreTrainedConfig, width: int):
        super().__init__(config, config.input_size, width)

    def to_tokens(self, inputs: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        _check_sequences(inputs, "tokens", "input_size", self.config.input_size)
        return _without_padding(inputs, mask), mask


class ImagesInput(InputProjection):
    """`pixel_values` (batch, channels, height, width), cut into square patches read row by row."""

    input_name = "pixel_values"

    def __init__(self, config: PreTrainedConfig, width: int):
        super().__init__(config, config.num_channels * config.patch_size**2, width)

    def to_tokens(self, inputs: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        expected = (self.config.num_channels, *self.config.image_height_width)
        if tuple(inputs.shape[1:]) != expected:
            height_width_channels = (*expected[1:], expected[0])
            advice = "resize the images, or build the model for their size"
            if tuple(inputs.shape[1:]) == height_width_channels:
                advice = "the channels come last here: write pixel_values.permute(0, 3, 1, 2)"
            raise ValueError(
                f"pixel_values has shape (batch, channels, height, width) = (batch, {', '.join(map(str, expected))}), "
                f"got {tuple(inputs.shape)}: {advice}."
            )
        batch, channels, height, width = inputs.shape
        p = self.config.patch_size
        patches = inputs.reshape(batch, channels, height // p, p, width // p, p)
        patches = patches.permute(0, 2, 4, 3, 5, 1)  # (batch, rows, columns, p, p, channels)
        return patches.reshape(batch, -1, p * p * channels), mask  # (batch, tokens, numbers)


class SeriesInput(InputProjection):
    """`input_values` (batch, steps, channels), or (batch, steps) for one channel, cut into overlapping patches.

    The end is filled with zeros to a whole patch, so that no step is lost. `mask` (batch, steps) marks real steps; a
    patch is real if it adds a real step to those of the patches before, so that padding a series adds none.
    """

    def __init__(self, config: PreTrainedConfig, width: int):
        super().__init__(config, config.num_channels * config.patch_length, width)

    def to_tokens(self, inputs: Tensor, mask: Tensor | None) -> tuple[Tensor, Tensor | None]:
        if inputs.ndim == 2 and self.config.num_channels == 1:
            inputs = inputs[..., None]  # (batch, steps, 1)
        _check_sequences(inputs, "steps", "num_channels", self.config.num_channels)
        inputs = _without_padding(inputs, mask)
        steps, length, stride = inputs.shape[1], self.config.patch_length, self.config.patch_stride
        if steps == 0:
            raise ValueError("The input has no steps: give at least one.")
        patches = -(-max(steps - length, 0) // stride) + 1
        fill = (patches - 1) * stride + length - steps
        if mask is not None:
            steps_of = F.pad(mask, (0, fill)).unfold(1, length, stride)  # (batch, tokens, length)
            mask = steps_of[:, :, length - stride :].amax(dim=-1)  # (batch, tokens)
            mask[:, 0] = steps_of[:, 0].amax(dim=-1)
        windows = F.pad(inputs, (0, 0, 0, fill)).unfold(1, length, stride)  # (batch, tokens, channels, length)
        return windows.flatten(2), mask


class TokensInput(nn.Module):
    """`input_ids` (batch, tokens) -> a new embedding table, drawn from N(0, 1)."""

    input_name = "input_ids"

    def __init__(self, config: PreTrainedConfig, width: int):
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(config.vocab_size, width)
        self.dropout = Dropout(config.input_dropout)

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor | None]:
        """Ids and their mask (batch, tokens) -> embeddings (batch, tokens, width) and the mask.

        Without a mask, positions that hold `pad_token_id` (where the config has one) count as padding.
        """
        if inputs.is_floating_point():
            raise ValueError(f"input_ids are whole numbers, got {inputs.dtype}: write input_ids.long().")
        _check_length(inputs.shape[1], self.config)
        if mask is None and self.config.pad_token_id is not None:
            mask = (inputs != self.config.pad_token_id).to(torch.long)  # (batch, tokens)
        return self.dropout(self.embedding(inputs.long())), mask


def _check_sequences(inputs: Tensor, steps: str, size_name: str, size: int) -> None:
    if inputs.ndim == 3 and inputs.shape[2] == size:
        return
    advice = ""
    if inputs.ndim == 3 and inputs.shape[1] == size:
        advice = f": the {size} come before the {steps} here, write input_values.transpose(1, 2)"
    raise ValueError(
        f"input_values has shape (batch, {steps}, {size_name}={size}), got {tuple(inputs.shape)}{advice}."
    )


def _without_padding(inputs: Tensor, mask: Tensor | None) -> Tensor:
    """Inputs (batch, steps, numbers) with zeros for whatever lies under the mask (batch, steps), also NaN."""
    return inputs if mask is None else inputs.masked_fill(mask[..., None] == 0, 0)


def _check_length(tokens: int, config: PreTrainedConfig) -> None:
    if tokens == 0:
        raise ValueError("The input has no tokens: give at least one.")
    if tokens > config.num_tokens:
        raise ValueError(
            f"The input has {tokens} tokens, but this model was built for at most {config.num_tokens}: shorten it, or "
            "build the model for the longer one."
        )


INPUTS = {"values": ValuesInput, "tokens": TokensInput, "images": ImagesInput, "series": SeriesInput}


def build_input(config: PreTrainedConfig, width: int) -> InputProjection | TokensInput:
    """The input module that `config.input_type` names, for embeddings of `width`."""
    return INPUTS[config.input_type](config, width)
