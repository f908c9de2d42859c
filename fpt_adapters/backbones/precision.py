"""Which weights keep their precision: norms and positions in a backbone of half precision, all in an evaluation."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from transformers import PreTrainedModel

from .structure import norm_parameters, position_parameters


def cast_frozen(backbone: PreTrainedModel, dtype: torch.dtype | None) -> None:
    """Cast all parameters but norms and positions to `dtype` (None: leave them as they are)."""
    if dtype is None or all(parameter.dtype == dtype for parameter in backbone.parameters()):
        return
    kept = fp32_names(backbone)
    for name, parameter in backbone.named_parameters():  # copied, or the whole mapped file would stay in memory
        parameter.data = parameter.data.clone() if name in kept else parameter.data.to(dtype)


def take_fp32(backbone: PreTrainedModel, stored: PreTrainedModel) -> None:
    """Give norms and positions the values that they have in `stored`, in fp32."""
    if all(parameter.dtype == torch.float32 for parameter in backbone.parameters()):
        return
    parameters, values = dict(backbone.named_parameters()), dict(stored.named_parameters())
    for name in fp32_names(backbone):
        place = parameters[name]
        place.data = values[name].data.to(place.device, torch.float32)


def fp32_names(backbone: PreTrainedModel) -> set[str]:
    """Names of norms and positions: they are small, they are what trains, and autocast computes norms in fp32."""
    kept = {id(one) for one in [*norm_parameters(backbone, qk_norms=True), *position_parameters(backbone)]}
    return {name for name, parameter in backbone.named_parameters() if id(parameter) in kept}


@contextlib.contextmanager
def weights_kept(model: nn.Module) -> Iterator[None]:
    """Whatever casts or moves `model` in the block, afterwards it has the very weights and buffers it had before."""
    parameters = [(parameter, parameter.data) for parameter in model.parameters()]
    buffers = [(module, dict(module.named_buffers(recurse=False))) for module in model.modules()]
    try:
        yield
    finally:
        for parameter, data in parameters:
            parameter.data = data
        for module, named in buffers:
            for name, buffer in named.items():
                setattr(module, name, buffer)
