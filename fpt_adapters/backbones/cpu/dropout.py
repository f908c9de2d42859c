"""Fast dropout for CPUs, where torch's own spends a tenth of a training step on drawing the mask.

torch draws a Bernoulli number for each element, one after another. Here each element gets 16 bits of a random 64-bit
integer, and is dropped if they are below p * 2**16: p is rounded to a multiple of 2**-16, and the scale is that of the
rounded p. On other devices, and under torch.compile or jit.trace, torch's own dropout runs.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LEVELS = 2**16  # possible values of an element's bits
PER_DRAW = 4  # elements per int64


class _Dropped(torch.autograd.Function):
    """Dropout that keeps one byte per element for the backward pass; torch's own keeps a number."""

    @staticmethod
    def forward(ctx, inputs: Tensor, threshold: int) -> Tensor:
        draws = inputs.new_empty(-(-inputs.numel() // PER_DRAW), dtype=torch.int64).random_(-(2**63), None)
        bits = draws.view(torch.int16)[: inputs.numel()].view(inputs.shape)  # evenly -2**15 .. 2**15 - 1
        kept = bits >= threshold - LEVELS // 2
        ctx.save_for_backward(kept)
        ctx.scale = LEVELS / (LEVELS - threshold)
        return (inputs * ctx.scale).mul_(kept)

    @staticmethod
    def backward(ctx, gradient: Tensor) -> tuple[Tensor, None]:
        (kept,) = ctx.saved_tensors
        return (gradient * ctx.scale).mul_(kept), None


def drop(inputs: Tensor, p: float) -> Tensor:
    """Zero each element with probability `p` and scale the others by 1 / (1 - p). Draws from torch's own generator."""
    threshold = round(p * LEVELS)
    if threshold == 0:
        return inputs
    if inputs.device.type != "cpu" or threshold == LEVELS or torch.compiler.is_compiling() or torch.jit.is_tracing():
        return F.dropout(inputs, p)
    return _Dropped.apply(inputs, threshold)


class Dropout(nn.Dropout):
    """`torch.nn.Dropout`, with `drop` as its function."""

    def forward(self, inputs: Tensor) -> Tensor:
        """Any shape -> the same shape."""
        return drop(inputs, self.p) if self.training else inputs


def replace_dropout(module: nn.Module) -> None:
    """Replace every `torch.nn.Dropout` inside `module` with `Dropout`."""
    for parent in module.modules():
        for name, child in parent.named_children():
            if type(child) is nn.Dropout and not child.inplace:
                setattr(parent, name, Dropout(child.p).train(child.training))
