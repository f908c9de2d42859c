"""GELU's tanh form by torch's own function: transformers computes it in eight steps, and keeps four results.

GPT-2, ALBERT, T5 1.1 and others use it. The values are the same up to rounding.
"""

from torch import nn
from transformers.activations import AccurateGELUActivation, FastGELUActivation, NewGELUActivation

IN_STEPS = (NewGELUActivation, FastGELUActivation, AccurateGELUActivation)


def replace_gelu(module: nn.Module) -> None:
    """Replace every such activation inside `module` with `torch.nn.GELU`."""
    for parent in module.modules():
        for name, child in parent.named_children():
            if type(child) in IN_STEPS:
                setattr(parent, name, nn.GELU(approximate="tanh"))
