"""Activation checkpointing: which backbones can run their layers a second time in the backward pass.

Chen et al., "Training Deep Nets with Sublinear Memory Cost", arXiv 1604.06174. A frozen layer keeps the activations
that its gradient passes through, though nothing in it trains; a checkpointed one keeps only its input. transformers
does this for families whose layers are its `GradientCheckpointingLayer`.
"""

from torch import nn
from transformers import PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer


def check_checkpointable(backbone: PreTrainedModel) -> None:
    """Raise ValueError for a backbone whose layers transformers cannot checkpoint."""
    if not any(isinstance(module, GradientCheckpointingLayer) for module in backbone.modules()):
        raise ValueError(
            f"transformers cannot checkpoint the layers of {type(backbone).__name__} ({backbone.config.model_type}): "
            "leave activation_checkpointing out, and save memory with smaller batches and gradient_accumulation_steps."
        )


def trains(module: nn.Module) -> bool:
    """Whether any of a module's parameters trains."""
    return any(parameter.requires_grad for parameter in module.parameters())
