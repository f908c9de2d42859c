"""Keeping weights precise: norms and positions of a half-precision backbone, and all weights through an evaluation."""

import contextlib
from collections.abc import Iterator

import torch
from torch import nn
from transformers import PreTrainedModel

from .structure import norm_parameters, position_parameters


def cast_frozen(backbone: PreTrainedModel, dtype: torch.dtype | None) -> None:
    """Cast all parameters except norms and positions to `dtype` (None: cast nothing)."""
    if dtype is None or all(parameter.dtype == dtype for parameter in backbone.parameters()):
        return
    kept = fp32_names(backbone)
    for name, parameter in backbone.named_parameters():  # copies, so that the mapped file can leave memory
        parameter.data = parameter.data.clone() if name in kept else parameter.data.to(dtype)


def take_fp32(backbone: PreTrainedModel, stored: PreTrainedModel) -> None:
    """Set norms and positions to their values in `stored`, in fp32."""
    if all(parameter.dtype == torch.float32 for parameter in backbone.parameters()):
        return
    parameters, values = dict(backbone.named_parameters()), dict(stored.named_parameters())
    for name in fp32_names(backbone):
        place = parameters[name]
        place.data = values[name].data.to(place.device, torch.float32)


def fp32_names(backbone: PreTrainedModel) -> set[str]:
    """Names of norms and positions, which stay fp32: they are small and train, and autocast computes norms in fp32."""
    kept = {id(one) for one in [*norm_parameters(backbone, qk_norms=True), *position_parameters(backbone)]}
    return {name for name, parameter in backbone.named_parameters() if id(parameter) in kept}


@contextlib.contextmanager
def weights_kept(model: nn.Module) -> Iterator[None]:
    """Context manager: afterwards `model` has the weights and buffers from before, even if it was cast or moved."""
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
