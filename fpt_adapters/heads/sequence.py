"""One answer for a sequence, from its pooled hidden states: a class, several labels, or numbers."""

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import ImageClassifierOutput, SequenceClassifierOutput

from ..inputs.encoded import Encoded
from .head import Head


class SequenceHead(Head):
    """A linear layer on pooled hidden states (batch, hidden) -> logits (batch, num_labels)."""

    output_class = SequenceClassifierOutput
    auto_class = "AutoModelForSequenceClassification"
    modality = "text"  # what the pipelines of this Auto class read

    def build(self, config: PreTrainedConfig, width: int) -> nn.Module:
        return nn.Linear(width, config.num_labels)  # PyTorch's default initialisation, as in the paper

    def inputs(self, encoded: Encoded, config: PreTrainedConfig) -> Tensor:
        return pool(encoded.states, encoded.mask, config.pooling)

    def pipeline_tag(self, config: PreTrainedConfig) -> str | None:
        return f"{self.modality}-classification" if config.input.modality == self.modality else None


class ImageHead(SequenceHead):
    """The same head for images, under the Auto class that image pipelines load."""

    output_class = ImageClassifierOutput
    auto_class = "AutoModelForImageClassification"
    modality = "image"

    def check_input(self, config: PreTrainedConfig) -> None:
        if config.input.modality != self.modality:
            raise ValueError(f"FPTForImageClassification needs input_type='images', got {config.input_type!r}.")


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
