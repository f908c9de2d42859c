"""Several backbones on one copy of the frozen weights: each has modules of its own, and may be cut and adapted."""

import copy

import torch
from torch import nn
from transformers import PreTrainedModel


def shared_copy(backbone: PreTrainedModel) -> PreTrainedModel:
    """A copy whose parameters and masks lie in the memory of `backbone`'s.

    What is trained must be given memory of its own (`own_weights`). Buffers of numbers are copied: training may move
    a batch norm's statistics.
    """
    memo: dict[int, object] = {}
    for parameter in backbone.parameters():  # quantised ones have a class of their own, and never train
        plain = type(parameter) is nn.Parameter
        memo[id(parameter)] = nn.Parameter(parameter.detach(), requires_grad=False) if plain else parameter
    for buffer in backbone.buffers():
        if not buffer.is_floating_point():
            memo[id(buffer)] = buffer
    return copy.deepcopy(backbone, memo)


@torch.no_grad()
def own_weights(module: nn.Module) -> None:
    """Give what trains memory of its own."""
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.clone()


def take_numbers(backbone: PreTrainedModel, other: nn.Module) -> None:
    """Give each module the plain numbers that the one of its name has in `other`: probabilities of dropout."""
    modules = dict(other.named_modules())
    for name, module in backbone.named_modules():
        for key, value in vars(modules.get(name, module)).items():
            if type(value) is float:
                setattr(module, key, value)
