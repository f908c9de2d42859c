"""GELU's tanh form by torch's own function: transformers takes eight steps, and keeps the results of four of them.

GPT-2, ALBERT, T5 1.1 and others have it. The values are the same but for rounding.
"""

from torch import nn
from transformers.activations import AccurateGELUActivation, FastGELUActivation, NewGELUActivation

IN_STEPS = (NewGELUActivation, FastGELUActivation, AccurateGELUActivation)


def replace_gelu(module: nn.Module) -> None:
    """Put `torch.nn.GELU` in the place of every such activation inside `module`."""
    for parent in module.modules():
        for name, child in parent.named_children():
            if type(child) in IN_STEPS:
                setattr(parent, name, nn.GELU(approximate="tanh"))
