"""Windows of time series, normalised each by itself, for forecasts: patches with the end repeated, a token each.

Names of fields and arguments are PatchTST's (Nie et al., arXiv 2211.14730; transformers' `PatchTSTConfig`). Instance
normalisation as in RevIN without weights (Kim et al., ICLR 2022), patches and their padding as in GPT4TS (Zhou et al.,
"One Fits All", arXiv 2302.11939). What differs: values that are missing are left out of mean and scale.
"""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from ..rules.ranges import check_finite_list, short
from ..rules.wording import counted, thousands
from .encoded import Encoded
from .input_type import InputType, Loading
from .projection import Projection, check_length, check_stride

SCALINGS = ("std", "last", "none")
SMALLEST = 1e-5  # added to a window's variance, in the units of `channel_scale`


class WindowsProjection(Projection):
    """`past_values` (batch, context_length, channels); NaN, or 0 in `past_observed_mask`, is missing.

    Each window is brought to mean 0 ("last": its last observed value becomes 0) and deviation 1; what is missing
    becomes 0. Its end is repeated for `patch_stride` steps, and it is cut into patches. Without `mix_channels` each
    channel is a sequence of its own: (batch * channels, patches, width); with it a patch holds all channels.
    """

    input_name = "past_values"
    beside = ("past_observed_mask",)

    def forward(self, inputs: Tensor, mask: Tensor | None = None, past_observed_mask: Tensor | None = None) -> Encoded:
        """Windows and what of them was observed, (batch, steps, channels) -> embeddings, and each window's scale."""
        config = self.config
        if mask is not None:
            raise ValueError("past_values say what is missing by past_observed_mask: leave attention_mask out.")
        shape = (config.context_length, config.num_input_channels)
        for name, given in (("past_values", inputs), ("past_observed_mask", past_observed_mask)):
            if given is not None and (given.ndim != 3 or tuple(given.shape[1:]) != shape):
                raise ValueError(
                    f"{name} has shape (batch, context_length={shape[0]}, num_input_channels={shape[1]}), got "
                    f"{tuple(given.shape)}."
                )
        observed = ~inputs.isnan() if past_observed_mask is None else past_observed_mask.bool() & ~inputs.isnan()
        values = inputs.float().masked_fill(~observed, 0)
        mean, scale = self._scale(values, observed)  # (batch, 1, channels) each
        values = ((values - mean) / scale).masked_fill(~observed, 0)
        end = values[:, -1:].expand(-1, config.patch_stride, -1)
        patches = torch.cat([values, end], dim=1).unfold(1, config.patch_length, config.patch_stride)
        if config.mix_channels:
            tokens = patches.flatten(2)  # (batch, patches, channels * patch_length)
        else:
            tokens = patches.transpose(1, 2).flatten(0, 1)  # (batch * channels, patches, patch_length)
        check_length(tokens.shape[1], config)
        embeds = self.dropout(self.projection(tokens.to(self.projection.weight.dtype)))
        each = None if config.mix_channels else config.num_input_channels
        return Encoded(embeds, mean=mean[:, 0], scale=scale[:, 0], sequences=each)

    def _scale(self, values: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        """What is subtracted from each window, and what it is divided by: (batch, 1, channels) each."""
        config = self.config
        unit = 1.0 if config.channel_scale is None else values.new_tensor(config.channel_scale)  # (channels,)
        origin = 0.0 if config.channel_mean is None else values.new_tensor(config.channel_mean)
        if config.scaling == "none":
            ones = torch.ones_like(values[:, :1])
            return ones * origin, ones * unit
        count = observed.sum(dim=1, keepdim=True)  # (batch, 1, channels)
        values = ((values - origin) / unit).masked_fill(~observed, 0)  # so that sums are exact for any units
        mean = values.sum(dim=1, keepdim=True) / count.clamp(min=1)
        variance = (values - mean).masked_fill(~observed, 0).square().sum(dim=1, keepdim=True) / count.clamp(min=1)
        if config.scaling == "last":
            steps = torch.arange(values.shape[1], device=values.device)[:, None]
            last = torch.where(observed, steps, -1).amax(dim=1, keepdim=True).clamp(min=0)  # (batch, 1, channels)
            mean = values.gather(1, last)
        return mean * unit + origin, (variance + SMALLEST).sqrt() * unit


class WindowsInput(InputType):
    """Windows of `context_length` steps and `num_input_channels` channels.

    `scaling`: "std" (the default), "last" or "none". `channel_mean` and `channel_scale` (channels,): those of the
    training rows, in which losses are measured. `mix_channels`: whether a token holds all channels.
    """

    needs = ("context_length", "num_input_channels", "patch_length", "patch_stride")
    optional = ("scaling", "mix_channels", "channel_mean", "channel_scale")
    module = WindowsProjection

    def check(self, config: PreTrainedConfig) -> None:
        check_stride(config)
        if config.patch_length > config.context_length + config.patch_stride:
            raise ValueError(
                f"patch_length is at most context_length and patch_stride together; got {config.patch_length} for "
                f"context_length={config.context_length}."
            )
        if config.scaling not in (None, *SCALINGS):
            raise ValueError(f"scaling is one of {', '.join(SCALINGS)}; got {short(config.scaling)}.")
        if config.mix_channels not in (None, False, True):
            raise ValueError(f"mix_channels is true or false, got {short(config.mix_channels)}.")
        if (config.channel_mean is None) != (config.channel_scale is None):
            raise ValueError("channel_mean and channel_scale come together: write both, or neither.")
        for name in ("channel_mean", "channel_scale"):
            if getattr(config, name) is not None:
                check_finite_list(name, getattr(config, name), config.num_input_channels)
        if config.channel_scale is not None and min(config.channel_scale) <= 0:
            raise ValueError(f"channel_scale lies above 0, got {short(config.channel_scale)}: drop constant channels.")

    def num_tokens(self, config: PreTrainedConfig) -> int:
        return (config.context_length + config.patch_stride - config.patch_length) // config.patch_stride + 1

    def token_size(self, config: PreTrainedConfig) -> int:
        return config.patch_length * (config.num_input_channels if config.mix_channels else 1)

    def processor(self, config: PreTrainedConfig, **settings: Any) -> None:
        raise ValueError("Which columns and times a table has is up to the data: give the processor that was fitted.")

    def describe(self, config: PreTrainedConfig) -> str:
        steps, channels = counted(config.context_length, "step"), counted(config.num_input_channels, "channel")
        patches = counted(config.num_tokens, "patch", "patches")
        each = "all channels in one" if config.mix_channels else "each channel by itself"
        return (
            f"windows of {steps} and {channels}, {each}, as {patches} of {counted(config.patch_length, 'step')}, "
            f"{thousands(config.patch_stride)} apart."
        )

    def example(self, config: PreTrainedConfig) -> str:
        return f"torch.zeros(1, {config.context_length}, {config.num_input_channels})"

    def usage(self, config: PreTrainedConfig, loading: Loading) -> None:
        return None
