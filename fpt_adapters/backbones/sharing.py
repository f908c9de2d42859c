"""Several backbones on one copy of the frozen weights, each with its own modules, which may be cut and adapted."""

import copy

import torch
from torch import nn
from transformers import PreTrainedModel


def shared_copy(backbone: PreTrainedModel) -> PreTrainedModel:
    """A copy of `backbone` that shares the memory of its parameters and masks.

    What trains must be given its own memory (`own_weights`). Floating-point buffers are copied, because training may
    change a batch norm's statistics.
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
    """Copy the parameters that train, so that they share memory with no other model."""
    for parameter in module.parameters():
        if parameter.requires_grad:
            parameter.data = parameter.data.clone()


def take_numbers(backbone: PreTrainedModel, other: nn.Module) -> None:
    """Copy float attributes (dropout probabilities) from the modules of `other` to those of the same name."""
    modules = dict(other.named_modules())
    for name, module in backbone.named_modules():
        for key, value in vars(modules.get(name, module)).items():
            if type(value) is float:
                setattr(module, key, value)
