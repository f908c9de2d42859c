"""Saving a trained backbone as an ordinary transformers checkpoint, which then is a base like any other.

The paper's (arXiv 2103.05247) transformers that are pretrained on bit memory are made so: all groups of a random
backbone are trained, and the result is frozen under new deltas.
"""

import copy
import os

import torch
from torch import Tensor
from transformers import MODEL_FOR_TEXT_ENCODING_MAPPING, MODEL_MAPPING, PreTrainedConfig, PreTrainedModel

from ..backbones.structure import POSITION_TABLES, is_quantized
from ..configuration_fpt import FPTConfig
from ..deltas.disk import new_folder, size_of
from ..rules.depth import first_layers
from ..torch_utils.plain_names import named_parameters, plain_state
from ..torch_utils.sharding import refuse_sharded

POSITION_SEED = 0  # draws the rows of positions that the training did not use


def write_backbone(backbone: PreTrainedModel, config: FPTConfig, directory: str | os.PathLike) -> None:
    """Write the `backbone` of a model of `config` into `directory`: see `FPTPreTrainedModel.save_backbone`."""
    model = _ordinary_model(backbone, config)
    with new_folder(directory, "A backbone", size_of(model.state_dict().values())) as folder:
        model.save_pretrained(folder)


def _ordinary_model(backbone: PreTrainedModel, config: FPTConfig) -> PreTrainedModel:
    """Build a model of the backbone's class from the base's own configuration, with the backbone's weights in fp32."""
    base_config = _own_config(config)
    _check_savable(backbone, base_config)
    with torch.device("meta"):
        whole = type(backbone)(copy.deepcopy(base_config))
    whole.config = base_config  # some constructors change theirs
    if "pooler" in dict(whole.named_children()):
        whole.pooler = None  # the backbone has none either
    state = plain_state(backbone.state_dict())
    if config.peft_config is not None:
        from ..adapters.adding import merged_state  # importing peft takes long

        state = merged_state(backbone)
    tensors = {name: _stored(tensor) for name, tensor in state.items()}
    table = POSITION_TABLES.get(base_config.model_type)
    if table is not None:
        name, rows = f"{table.path}.weight", whole.get_submodule(table.path).weight.shape[0]
        tensors[name] = _with_rows(tensors[name], rows, base_config)
    whole.load_state_dict(tensors, assign=True)
    whole.tie_weights()
    return whole


def _own_config(config: FPTConfig) -> PreTrainedConfig:
    """Return the base's configuration for the layers that were kept, without this run's dropout and the like."""
    base_config = copy.deepcopy(config.base_model_config)
    if config.backbone_layers is not None:
        base_config = first_layers(base_config, config.backbone_layers)
    base_config.name_or_path = ""  # the weights are no longer the base's
    return base_config


def _check_savable(backbone: PreTrainedModel, base_config: PreTrainedConfig) -> None:
    wholes = [mapping.get(type(base_config), None) for mapping in (MODEL_MAPPING, MODEL_FOR_TEXT_ENCODING_MAPPING)]
    if type(backbone) not in wholes:
        raise ValueError(
            f"{type(backbone).__name__} is a part of a {base_config.model_type} model, whose checkpoint holds the "
            "rest too: only a backbone that is a whole model of transformers can be saved, such as GPT-2 or BERT."
        )
    parameters = named_parameters(backbone)
    refuse_sharded(parameters)
    for name, parameter in parameters.items():
        if is_quantized(parameter):
            raise ValueError(
                f"A backbone is saved in float32, but {name} is quantised here: load the delta with "
                "quantization_config=False and save that."
            )
        if not torch.isfinite(parameter).all():
            raise ValueError(f"{name} is not finite: training diverged, and nothing was saved.")


def _stored(tensor: Tensor) -> Tensor:
    return tensor.cpu().float() if tensor.is_floating_point() else tensor.cpu()


def _with_rows(weight: Tensor, rows: int, config: PreTrainedConfig) -> Tensor:
    """Lengthen a table of positions (rows, width) to the rows that its configuration says; new ones are drawn."""
    std = config.init_std if config.model_type == "opt" else config.initializer_range
    generator = torch.Generator().manual_seed(POSITION_SEED)
    new = torch.empty(rows - len(weight), weight.shape[1], device="cpu").normal_(0, std, generator=generator)
    return torch.cat([weight, new])  # (rows, width)
