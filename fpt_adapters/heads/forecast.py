"""Forecasts: the `prediction_length` steps after a window, of every channel, in the data's units."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig
from transformers.utils import ModelOutput

from ..inputs.encoded import Encoded
from ..rules.ranges import MAX_SIZE, check_within, short
from ..rules.wording import counted
from .head import Head
from .problems import Numbers
from .sequence import pool

LOSSES = {"mse": F.mse_loss, "mae": F.l1_loss, "huber": F.huber_loss}
PREDICTION_HEADS = ("flatten", "pooled")
MAX_QUANTILES = 99


@dataclass
class TimeSeriesPredictionOutput(ModelOutput):
    """As PatchTST's: `prediction_outputs` (batch, prediction_length, channels[, quantiles]), in the data's units.

    `loc` and `scale` (batch, 1, channels): the mean and deviation of each window, which the outputs contain.
    """

    loss: Tensor | None = None
    prediction_outputs: Tensor | None = None
    hidden_states: tuple[Tensor, ...] | None = None
    attentions: tuple[Tensor, ...] | None = None
    loc: Tensor | None = None
    scale: Tensor | None = None


class Forecaster(nn.Module):
    """What a window became, with its mean and scale behind -> (batch, prediction_length, channels[, quantiles])."""

    def __init__(self, config: PreTrainedConfig, size: int):
        super().__init__()
        self.channels, self.quantiles = config.num_input_channels, len(config.quantiles or (1,))
        self.mixed, self.has_quantiles = bool(config.mix_channels), config.quantiles is not None
        answers = config.prediction_length * self.quantiles * (self.channels if self.mixed else 1)
        self.out_proj = nn.Linear(size, answers)

    def forward(self, inputs: Tensor) -> Tensor:
        """(batch, channels, size + 2), with mixed channels (batch, size + 2 * channels)."""
        if self.mixed:
            states, mean, scale = inputs.split([inputs.shape[-1] - 2 * self.channels, *[self.channels] * 2], dim=-1)
            answers = self.out_proj(states).unflatten(1, (-1, self.channels, self.quantiles))
        else:
            states, mean, scale = inputs.split([inputs.shape[-1] - 2, 1, 1], dim=-1)
            answers = self.out_proj(states).unflatten(2, (-1, self.quantiles))  # (batch, channels, steps, quantiles)
            answers, mean, scale = answers.transpose(1, 2), mean[..., 0], scale[..., 0]
        answers = answers * scale[:, None, :, None] + mean[:, None, :, None]  # (batch, steps, channels, quantiles)
        return answers.sort(dim=-1).values if self.has_quantiles else answers[..., 0]  # quantiles do not cross


class ForecastHead(Head):
    """A linear layer on the tokens of a window, all in a row (`prediction_head="flatten"`, GPT4TS's) or "pooled".

    The pooled one has as many weights for a long window as for a short one. `loss`: "mse" (the default), "mae",
    "huber", or the pinball loss of `quantiles` (numbers between 0 and 1, rising); it is measured in `channel_scale`.
    """

    fields = ("prediction_length", "prediction_head", "loss", "quantiles")
    output_class = TimeSeriesPredictionOutput
    output_name = "prediction_outputs"
    auto_class = "AutoModelForTimeSeriesPrediction"
    implied = {"input_type": "windows"}
    gaps = True

    def check(self, config: PreTrainedConfig) -> None:
        if config.prediction_length is not None:
            check_within("prediction_length", config.prediction_length, 1, MAX_SIZE)
            if config.num_input_channels not in (None, config.num_labels):
                config.num_labels = config.num_input_channels  # their names are those of the channels
        if config.prediction_head not in (None, *PREDICTION_HEADS):
            raise ValueError(
                f"prediction_head is one of {', '.join(PREDICTION_HEADS)}; got {short(config.prediction_head)}."
            )
        if config.loss not in (None, *LOSSES):
            raise ValueError(f"loss is one of {', '.join(LOSSES)}; got {short(config.loss)}.")
        if config.quantiles is not None:
            levels = config.quantiles
            numbers = isinstance(levels, list) and all(isinstance(level, float) and 0 < level < 1 for level in levels)
            if not numbers or sorted(set(levels)) != levels or not 0 < len(levels) <= MAX_QUANTILES:
                raise ValueError(f"quantiles rise between 0 and 1, as [0.1, 0.5, 0.9] do; got {short(levels)}.")
            if config.loss is not None:
                raise ValueError("quantiles have the pinball loss: leave loss out.")

    def check_input(self, config: PreTrainedConfig) -> None:
        if config.input_type != "windows" or config.prediction_length is None:
            raise ValueError(
                "FPTForTimeSeriesPrediction needs input_type='windows' and prediction_length; got "
                f"{config.input_type!r} and {config.prediction_length}."
            )

    def problem_type(self, config: PreTrainedConfig) -> str:
        return Numbers.name

    def output(self, loss: Tensor | None, answers: Tensor, encoded: Encoded) -> ModelOutput:
        output = super().output(loss, answers, encoded)
        if encoded.mean is not None:
            output.loc, output.scale = encoded.mean[:, None], encoded.scale[:, None]
        return output

    def build(self, config: PreTrainedConfig, width: int) -> nn.Module:
        return Forecaster(config, self._size(config, width))

    def inputs(self, encoded: Encoded, config: PreTrainedConfig) -> Tensor:
        """Hidden states with the window's mean and scale behind; see `Forecaster`."""
        states = encoded.states  # (batch or batch * channels, tokens, hidden)
        if config.prediction_head == "pooled":
            states = pool(states, None, config.pooling)
        states = states.flatten(1).float()
        if encoded.sequences is None:
            return torch.cat([states, encoded.mean, encoded.scale], dim=1)
        states = states.unflatten(0, (-1, encoded.sequences))  # (batch, channels, size)
        return torch.cat([states, encoded.mean[..., None], encoded.scale[..., None]], dim=2)

    def shape_of_inputs(self, config: PreTrainedConfig, width: int) -> tuple[str | int, ...]:
        size, channels = self._size(config, width), config.num_input_channels
        return ("batch", size + 2 * channels) if config.mix_channels else ("batch", channels, size + 2)

    def loss(
        self, outputs: Tensor, labels: Tensor, config: PreTrainedConfig, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """The mean loss of forecasts, in units of `channel_scale`, over future values that are not NaN."""
        shape = outputs.shape if config.quantiles is None else outputs.shape[:-1]
        if labels.shape != shape:
            raise ValueError(f"future_values have shape {tuple(shape)}, as the forecasts; got {tuple(labels.shape)}.")
        outputs, labels = outputs.float(), labels.to(outputs.device).float()
        known = ~labels.isnan()
        unit = 1.0 if config.channel_scale is None else outputs.new_tensor(config.channel_scale)
        if config.quantiles is None:
            labels = torch.where(known, labels, outputs.detach())
            loss = LOSSES[config.loss or "mse"](outputs / unit, labels / unit, reduction="sum")
        else:
            levels = outputs.new_tensor(config.quantiles)
            labels = torch.where(known[..., None], labels[..., None], outputs.detach())
            error = (labels - outputs) / (unit if isinstance(unit, float) else unit[:, None])
            loss = torch.maximum(levels * error, (levels - 1) * error).sum() / len(config.quantiles)
        items = known.sum() if num_items_in_batch is None else num_items_in_batch
        return loss / torch.as_tensor(items).clamp(min=1)

    def shape_of_answers(self, config: PreTrainedConfig) -> tuple[int, ...]:
        return (config.prediction_length,)

    def shape_of_output(self, config: PreTrainedConfig) -> tuple[str | int, ...]:
        quantiles = () if config.quantiles is None else (len(config.quantiles),)
        return (1, config.prediction_length, config.num_input_channels, *quantiles)

    def pipeline_tag(self, config: PreTrainedConfig) -> str | None:
        return None

    def describe(self, config: PreTrainedConfig) -> str:
        steps, channels = counted(config.prediction_length, "step"), counted(config.num_input_channels, "channel")
        levels = "" if config.quantiles is None else f", as quantiles {', '.join(map(str, config.quantiles))}"
        return f"the {steps} after a window, of {channels}, in the data's units{levels}."

    def _size(self, config: PreTrainedConfig, width: int) -> int:
        return width if config.prediction_head == "pooled" else width * config.num_tokens
