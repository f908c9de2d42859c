"""What stands before a backbone that embeds raw inputs itself: it checks them, and knows which tokens are real."""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from .encoded import Encoded
from .projection import check_length


class Reader(nn.Module):
    """Raw inputs, checked, as the arguments of the backbone's own forward. It has no weights.

    `axes`: of the inputs, for messages; `takes_mask`: whether the backbone's forward does.
    """

    input_name: str
    beside: tuple[str, ...] = ()
    axes: tuple[str, ...]
    takes_mask = False

    def __init__(self, config: PreTrainedConfig, width: int):
        super().__init__()
        self.config = config

    def forward(self, inputs: Tensor, mask: Tensor | None = None, **more: Tensor) -> Encoded:
        """Raw inputs, their mask, and what may be `beside` -> arguments, and the mask over tokens."""
        if inputs.ndim != len(self.axes):
            raise ValueError(f"{self.input_name} has shape ({', '.join(self.axes)}), got {tuple(inputs.shape)}.")
        arguments = {self.input_name: inputs, **more}
        if mask is not None and self.takes_mask:
            arguments["attention_mask"] = mask
        return Encoded(inputs, self.mask_of_tokens(inputs, mask), arguments=arguments)

    def mask_of_tokens(self, inputs: Tensor, mask: Tensor | None) -> Tensor | None:
        """The mask over the tokens that the backbone makes: (batch, tokens)."""
        if mask is not None:
            raise ValueError(
                f"{self.config.base_model_config.model_type} reads whole examples: leave attention_mask out."
            )
        return None


class TextReader(Reader):
    """`input_ids` (batch, tokens), and `token_type_ids` of families that have segments.

    Without a mask all are real, as for the base itself; but not `pad_token_id`, where the config has one (a Trainer
    that is given the tokenizer writes it there).
    """

    input_name, beside, axes, takes_mask = "input_ids", ("token_type_ids",), ("batch", "tokens"), True

    def forward(self, inputs: Tensor, mask: Tensor | None = None, **more: Tensor) -> Encoded:
        """Ids, their mask, and segments, all (batch, tokens) -> arguments, and the mask."""
        if mask is None and self.config.pad_token_id is not None:
            mask = (inputs != self.config.pad_token_id).long()
        return super().forward(inputs, mask, **more)

    def mask_of_tokens(self, inputs: Tensor, mask: Tensor | None) -> Tensor | None:
        """The mask itself."""
        if inputs.is_floating_point():
            raise ValueError(f"input_ids are whole numbers, got {inputs.dtype}: write input_ids.long().")
        check_length(inputs.shape[1], self.config)
        return mask


class PictureReader(Reader):
    """`pixel_values` (batch, channels, height, width)."""

    input_name, axes = "pixel_values", ("batch", "channels", "height", "width")


class WaveReader(Reader):
    """`input_values` (batch, samples), which strided convolutions make tokens of.

    Bases whose convolutions end in a group norm (`feat_extract_norm="group"`, as wav2vec2-base) normalise over what
    fills a wave up, too, and were trained so: their extractors give no mask.
    """

    input_name, axes, takes_mask = "input_values", ("batch", "samples"), True

    def mask_of_tokens(self, inputs: Tensor, mask: Tensor | None) -> Tensor | None:
        """The tokens that the real samples make, padding being at the end."""
        base, samples = self.config.base_model_config, inputs.shape[1]
        if samples > self.config.sequence_length:
            raise ValueError(
                f"The wave has {samples} samples, but this model was built for at most {self.config.sequence_length}: "
                "cut it, or build the model for the longer one."
            )
        tokens = wave_tokens(samples, base)
        if tokens < 1:
            raise ValueError(f"A wave of {samples} samples makes no token of {base.model_type}: give a longer one.")
        if mask is None:
            return None
        real = wave_tokens(mask.sum(dim=1), base)  # (batch,)
        return (torch.arange(tokens, device=mask.device) < real[:, None]).to(mask.dtype)


class MelReader(Reader):
    """Log-mel spectrograms as AST's extractor gives them: `input_values` (batch, frames, mels)."""

    input_name, axes = "input_values", ("batch", "frames", "mels")


class WhisperReader(Reader):
    """Log-mel spectrograms as Whisper's extractor gives them: `input_features` (batch, mels, frames), always 30 s.

    The encoder sees the silence that fills them up; a mask over frames keeps it out of the pooled answer.
    """

    input_name, axes = "input_features", ("batch", "mels", "frames")

    def mask_of_tokens(self, inputs: Tensor, mask: Tensor | None) -> Tensor | None:
        """Every other frame: the second convolution strides by two."""
        return None if mask is None else mask[:, ::2]


def wave_tokens(samples: Any, base: PreTrainedConfig) -> Any:
    """How many tokens the convolutions of `base` make of so many samples, a number or a tensor of them."""
    for kernel, stride in zip(base.conv_kernel, base.conv_stride, strict=True):
        samples = (samples - kernel) // stride + 1
    return samples
