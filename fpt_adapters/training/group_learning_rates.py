"""A learning rate for each group of parameters, set in Trainer's optimizer."""

from collections.abc import Mapping

import torch

from ..models.pretrained import FPTPreTrainedModel
from ..torch_utils.plain_names import named_parameters


def split_by_group(
    optimizer: torch.optim.Optimizer, model: FPTPreTrainedModel, rates: Mapping[str, float], default: float
) -> None:
    """Split the optimizer's parameter groups (by weight decay) by FPT group; groups not in `rates` get `default`."""
    names = {id(parameter): name for name, parameter in named_parameters(model).items()}
    group_of = model.parameter_groups()
    param_groups = list(optimizer.param_groups)
    optimizer.param_groups.clear()
    for param_group in param_groups:
        by_group: dict[str, list] = {}
        for parameter in param_group["params"]:
            by_group.setdefault(group_of[names[id(parameter)]], []).append(parameter)
        for group, parameters in by_group.items():
            optimizer.add_param_group({**param_group, "params": parameters, "lr": rates.get(group, default)})
