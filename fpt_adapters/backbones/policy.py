"""The freezing policy: every parameter belongs to one group, and a list of groups trains.

Attention and feed-forward are told apart by structure. Inside the repeated layers (the elements of a `ModuleList`),
everything under a module whose class is an attention is `attention`, everything in a recurrent module (LSTM gates) is
`recurrent`, and the rest is `feedforward`. Parameters outside the layers (token embeddings and the like), and those
that no input reaches, are `other` and never train; but where the backbone reads raw inputs itself, what embeds them is
`input`.
"""

from collections.abc import Iterable, Mapping

import torch
from torch import nn
from transformers import PreTrainedModel

from ..torch_utils.plain_names import named_modules, named_parameters
from .places import layer_lists
from .structure import is_quantized, norm_parameters, position_parameters, unused_parameters

FROZEN_GROUP = "other"


def backbone_groups(
    backbone: PreTrainedModel,
    own_positions: bool,
    qk_norms: bool,
    last_attention: bool = False,
    adapter: Iterable[nn.Parameter] = (),
    embeds: bool = False,
) -> dict[str, str]:
    """The group of each of the backbone's parameters, by name; a parameter with several names appears once.

    `own_positions`: whether the backbone's learned positions are the group `position` (else `other`);
    `qk_norms`: whether norms of queries and keys are `norm` (else `attention`); `last_attention`: whether the last
    layer's attention is a group of its own; `adapter`: the parameters that peft added; `embeds`: whether the
    backbone embeds raw inputs itself. Where layers share weights (ALBERT), the last layer's attention is that of all
    of them.
    """
    added = {id(parameter) for parameter in adapter}
    norms = {id(parameter) for parameter in norm_parameters(backbone, qk_norms)}
    positions = {id(parameter) for parameter in position_parameters(backbone)}
    unused = {id(parameter) for parameter in unused_parameters(backbone)}
    modules = named_modules(backbone).items()
    lists = tuple(name + "." for name in layer_lists(backbone))
    attentions = tuple(
        name + "." for name, module in modules if "Attention" in type(module).__name__ and name.startswith(lists)
    )
    recurrent = tuple(name + "." for name, module in modules if isinstance(module, nn.RNNBase))

    def group(name: str, parameter: nn.Parameter) -> str:
        if id(parameter) in added:
            return "adapter"
        if id(parameter) in norms:
            return "norm"
        if id(parameter) in positions:
            return "position" if own_positions else FROZEN_GROUP
        if id(parameter) in unused:
            return FROZEN_GROUP
        if embeds and not name.startswith(lists):
            return "input"
        if name.startswith(recurrent):
            return "recurrent"
        if name.startswith(attentions):
            return "attention"
        return "feedforward" if name.startswith(lists) else FROZEN_GROUP

    groups = {name: group(name, parameter) for name, parameter in named_parameters(backbone).items()}
    return _with_last_attention(groups, lists) if last_attention else groups


def _with_last_attention(groups: dict[str, str], lists: tuple[str, ...]) -> dict[str, str]:
    """`groups`, with the attention of the last layer that has any as `last_attention`."""

    def layer(name: str) -> int:
        outermost = min((prefix for prefix in lists if name.startswith(prefix)), key=len)
        return int(name.removeprefix(outermost).partition(".")[0])

    layers = {name: layer(name) for name, group in groups.items() if group == "attention"}
    last = max(layers.values(), default=None)
    return {name: "last_attention" if layers.get(name, -1) == last else group for name, group in groups.items()}


def apply_policy(
    parameters: Mapping[str, nn.Parameter], groups: Mapping[str, str], trainable: Iterable[str], whose: str
) -> None:
    """Set `requires_grad` of every parameter; what trains becomes fp32, because bf16 loses small steps.

    `groups` maps each name in `parameters` to its group; messages call the owner `whose`. Raises ValueError for a
    group in `trainable` that has no parameters, or whose weights are quantised.
    """
    trainable = list(trainable)
    quantized = {groups[name] for name, parameter in parameters.items() if is_quantized(parameter)}
    present = set(groups.values())
    for group in trainable:
        if group in quantized:
            raise ValueError(
                f"trainable has {group!r}, whose weights are quantised here and cannot train: leave {group!r} out, or "
                "leave quantization_config out."
            )
        if group not in present:
            raise ValueError(
                f"trainable has {group!r}, but {whose} has no {group} parameters: leave {group!r} out, "
                "or choose another backbone."
            )
    for name, parameter in parameters.items():
        parameter.requires_grad_(groups[name] in trainable)
        if parameter.requires_grad and parameter.dtype != torch.float32:
            parameter.data = parameter.data.float()
