"""Random weights for a backbone: drawn by its family's scheme, or with only the pretrained ones' mean and spread."""

import copy
import math

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..rules.config_rules import refusing_unfit
from ..rules.limits import most_of_random
from ..rules.travelling import TRAVELS
from ..torch_utils.isolation import DefaultDtype, DrawsFrom
from .stored_weights import INITIALISING


def draw_random(
    model_class: type[PreTrainedModel], config: PreTrainedConfig, seed: int, scheme: str
) -> PreTrainedModel:
    """A model with random weights, drawn from `seed` by one of the schemes that `default_init_scheme` describes.

    Raises ValueError for a model that does not fit into memory.
    """
    if not TRAVELS:
        with torch.device("meta"), most_of_random(config.hidden_size), refusing_unfit(model_class):
            model_class(copy.deepcopy(config))
    config = copy.deepcopy(config)
    config.dtype = torch.float32
    with torch.device("cpu"), DrawsFrom(seed), DefaultDtype(torch.float32), INITIALISING:  # so all draw the same
        backbone = model_class(config)
        if scheme in ("gpt2-scaled-residual", "gpt2-flat"):  # transformers' versions differ here
            std = config.initializer_range
            if scheme == "gpt2-scaled-residual":
                std /= math.sqrt(2 * config.n_layer)
            for block in backbone.h:
                for projection in (block.attn.c_proj, block.mlp.c_proj):
                    nn.init.normal_(projection.weight, std=std)
    return backbone


@torch.no_grad()
def draw_from_statistics(backbone: nn.Module, seed: int) -> None:
    """Replace every tensor with normal draws of its own mean and standard deviation (the paper's table 6)."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in backbone.parameters():
        values = parameter.cpu().float()  # another device would sum in another order
        mean, std = values.mean().item(), values.std(unbiased=False).item()
        drawn = torch.empty(values.shape, dtype=torch.float32, device="cpu").normal_(mean, std, generator=generator)
        parameter.copy_(drawn)
