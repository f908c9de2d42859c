"""One answer for a sequence, from its pooled hidden states: a class, several labels, or numbers."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import SequenceClassifierOutput

from ..inputs.encoded import Encoded
from ..rules.ranges import MAX_LABELS, is_finite, short
from ..rules.travelling import TRAVELS
from .head import Head
from .problems import Numbers

SCALE = ("label_mean", "label_scale")


class SequenceHead(Head):
    """A linear layer on pooled hidden states (batch, hidden) -> logits (batch, num_labels).

    Those of channels that are read one at a time are averaged.
    Where it answers with numbers, `label_mean` and `label_scale` (num_labels,) are those of the training rows: the
    layer's outputs are standardised, and so is the loss; logits and labels are in the data's own units.
    """

    fields = SCALE
    output_class = SequenceClassifierOutput
    auto_class = "AutoModelForSequenceClassification"
    only_input: str | None = None  # the input type of a head that takes no other modality
    modality = "text"  # what the pipelines of this Auto class read

    def check_input(self, config: PreTrainedConfig) -> None:
        if self.only_input is not None and config.input.modality != self.modality:
            name = self.auto_class.replace("AutoModel", "FPT")
            raise ValueError(
                f"{name} needs input_type={self.only_input!r}, or 'native' on a backbone of them; got "
                f"{config.input_type!r}."
            )

    def check(self, config: PreTrainedConfig) -> None:
        super().check(config)
        if not TRAVELS:
            _check_scale(config)

    def build(self, config: PreTrainedConfig, width: int) -> nn.Module:
        return nn.Linear(width, config.num_labels)  # PyTorch's default initialisation, as in the paper

    def inputs(self, encoded: Encoded, config: PreTrainedConfig) -> Tensor:
        pooled = pool(encoded.states, encoded.mask, config.pooling)
        return pooled if encoded.sequences is None else pooled.unflatten(0, (-1, encoded.sequences)).mean(dim=1)

    def scale(self, outputs: Tensor, config: PreTrainedConfig) -> tuple[Tensor, Tensor] | None:
        if config.label_mean is None:
            return None
        return outputs.new_tensor(config.label_mean), outputs.new_tensor(config.label_scale)

    def pipeline_tag(self, config: PreTrainedConfig) -> str | None:
        return f"{self.modality}-classification" if config.input.modality == self.modality else None


def _check_scale(config: PreTrainedConfig) -> None:
    given = [name for name in SCALE if getattr(config, name, None) is not None]
    if len(given) == 1:
        raise ValueError(f"label_mean and label_scale come together, but only {given[0]} came.")
    for name in given:
        values = getattr(config, name)
        numbers = isinstance(values, list) and 0 < len(values) <= MAX_LABELS
        if not numbers or not all(is_finite(value) for value in values):
            raise ValueError(f"{name} is a list of numbers, one for each label; got {short(values)}.")
        if len(values) != config.num_labels or config.problem_type not in (None, Numbers.name):
            raise ValueError(
                f"{name} scales num_labels={config.num_labels} numbers of problem_type='regression'; got "
                f"{short(values)} for problem_type={config.problem_type!r}."
            )
    if given and min(config.label_scale) <= 0:
        raise ValueError(f"label_scale lies above 0, got {short(config.label_scale)}.")


def pool(hidden: Tensor, mask: Tensor | None, pooling: str) -> Tensor:
    """Pool hidden states (batch, tokens, hidden) with a mask (batch, tokens) or None -> (batch, hidden).

    "last" and "first" take the last and the first real token, wherever the padding is; "mean" averages real tokens.
    """
    if mask is None:
        return hidden.mean(dim=1) if pooling == "mean" else hidden[:, -1 if pooling == "last" else 0]
    if pooling == "mean":
        mask = mask.to(hidden.dtype)  # (batch, tokens)
        weights = mask / mask.sum(dim=1, keepdim=True).clamp(min=1)
        return torch.einsum("bth,bt->bh", hidden, weights)
    order = torch.arange(1, mask.shape[1] + 1, device=mask.device)  # 1 .. tokens
    index = (mask.to(torch.long) * (order if pooling == "last" else order.flip(0))).argmax(dim=1)  # (batch,)
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), index]
