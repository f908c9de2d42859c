"""A head in one file: the next `horizon` steps of a signal, in its own units."""

import torch
from torch import nn
from torch.nn import functional as F
from transformers.modeling_outputs import SequenceClassifierOutput

from fpt_adapters.heads.head import Head
from fpt_adapters.heads.problems import Numbers
from fpt_adapters.modeling_fpt import FPTModelWithHead
from fpt_adapters.rules.ranges import check_within


class Forecaster(nn.Module):
    """(batch, hidden + 2) -> (batch, horizon), scaled back by the last two, a mean and a scale."""

    def __init__(self, width: int, horizon: int):
        super().__init__()
        self.out_proj = nn.Linear(width, horizon)

    def forward(self, inputs):
        return self.out_proj(inputs[:, :-2]) * inputs[:, -1:] + inputs[:, -2:-1]


class ForecastHead(Head):
    fields = ("horizon",)
    output_class = SequenceClassifierOutput
    auto_class = "AutoModelForTimeSeriesPrediction"

    def check(self, config):
        if config.horizon is not None:
            check_within("horizon", config.horizon, 1, 1000)

    def problem_type(self, config):
        return Numbers.name

    def build(self, config, width):
        return Forecaster(width, config.horizon)

    def inputs(self, encoded, config):
        real = torch.arange(encoded.states.shape[1])[None] < encoded.lengths[:, None]  # (batch, tokens)
        pooled = (encoded.states * real[..., None]).sum(dim=1) / encoded.lengths[:, None]  # (batch, hidden)
        return torch.cat([pooled, encoded.mean, encoded.scale], dim=1)

    def shape_of_inputs(self, config, width):
        return ("batch", width + 2)

    def loss(self, logits, labels, config, num_items_in_batch=None):
        items = labels.numel() if num_items_in_batch is None else num_items_in_batch
        return F.l1_loss(logits.float(), labels, reduction="sum") / items

    def shape_of_answers(self, config):
        return (config.horizon,)

    def shape_of_output(self, config):
        return (1, config.horizon)

    def pipeline_tag(self, config):
        return "time-series-forecasting"

    def describe(self, config):
        return f"the next {config.horizon} steps."


class FPTForForecast(FPTModelWithHead):
    """A forecast of a signal."""

    head_type = ForecastHead()
