"""FPT in peft's form: a peft configuration that trains what the policy trains, and an adapter folder with a delta.

peft trains copies of norms ("LN tuning") and other modules whole (`modules_to_save`). Its own table of norms knows
only some families; here the policy names them, which finds them by class. What peft cannot hold is refused: it trains
only whole modules, and saves only what trains.
"""

import os
from collections.abc import Collection
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.utils import CONFIG_NAME

from ..deltas.disk import new_folder, size_of
from ..deltas.errors import DeltaError
from ..deltas.file import read_json, whole_file
from ..deltas.tensors import as_stored
from ..hub.download import fetch, saying_whose
from ..rules.adapter_settings import LAYER_FIELDS, NAME
from ..rules.ranges import short
from ..torch_utils.plain_names import named_modules, named_parameters
from .adding import BASE_LAYER, adapter_buffers, adapter_parameters, on_conv1d, peft_config_of, settings_of
from .peft_api import (
    ADAPTER_CONFIG_NAME,
    ADAPTER_WEIGHTS_NAME,
    DUMMY_TARGET_MODULES,
    LNTuningConfig,
    PeftConfig,
)

ADAPTER_PLACE = "Give load_adapter the folder of a peft adapter, or its Hub id."
PREFIX = "base_model.model."  # begins every name in an adapter file
LN_TUNING = "ln_tuning_layers"  # peft's name for the copy of a norm
WRAPPED = (BASE_LAYER, "original_module")  # its names for the modules under a copy or an adapter


def trained_modules(model: PreTrainedModel) -> dict[str, str]:
    """The group of each module that the policy trains, by path, without an adapter inside the backbone.

    Raises ValueError for what peft cannot train or save: a part of a module, a new module that does not train, or a
    path that is also the end of another module's path (peft would train that one too).
    """
    names = plain_parameters(model)
    trained = {name: group for name, group in model.trained_groups.items() if group != "adapter"}
    lost = [name for name in names if name not in trained and not name.startswith(model.backbone_prefix)]
    if lost:
        raise ValueError(
            f"peft saves what trains, but {lost[0]} is new and frozen, so that it would be lost: train it too, or "
            "save the delta itself."
        )
    owners = {name.rpartition(".")[0]: group for name, group in trained.items()}
    outer = {path: group for path, group in owners.items() if not _inside(path, owners)}
    for path in outer:
        if path.endswith(f".{BASE_LAYER}"):
            raise ValueError(f"peft does not train {path} and its adapter: leave its group out of trainable.")
        frozen = [name for name in names if name.startswith(f"{path}.") and name not in trained]
        if frozen:
            raise ValueError(f"peft trains whole modules, but {path} also has {frozen[0]}, which the policy freezes.")
    for path in named_modules(model, remove_duplicate=False):
        if path not in outer and path.endswith(tuple(outer)) and not _inside(path, outer):
            wanted = next(one for one in outer if path.endswith(one))
            raise ValueError(f"peft finds modules by the ends of their paths, so that {wanted} would also be {path}.")
    return outer


def plain_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """A model's own parameters, under their names without peft's wrappers."""
    added = {id(parameter) for parameter in adapter_parameters(model)}
    named = {name: parameter for name, parameter in named_parameters(model).items() if id(parameter) not in added}
    parts = {name: name.split(".") for name in named}
    return {
        ".".join(part for part in parts[name] if part not in WRAPPED): parameter
        for name, parameter in named.items()
        if "modules_to_save" not in parts[name]
    }


def _inside(path: str, others: Collection[str]) -> bool:
    return any(path.startswith(f"{other}.") for other in others)


def to_peft_config(model: PreTrainedModel) -> PeftConfig:
    """The peft configuration with which `get_peft_model(model, ...)` trains exactly what the policy trains.

    LN tuning for the norms and `modules_to_save` for the rest; with an adapter in the backbone, its own configuration,
    with the norms in `modules_to_save`. Raises ValueError as `trained_modules` does.
    """
    modules = trained_modules(model)
    if model.config.peft_config is not None:
        config = peft_config_of(model.config.peft_config)
        if hasattr(config, "fan_in_fan_out"):
            config.fan_in_fan_out = on_conv1d(model)
        paths = {field: getattr(config, field, None) for field in LAYER_FIELDS}
        for field, names in paths.items():
            if names:
                setattr(config, field, {f"{model.backbone_prefix}{name}" for name in names})
        config.modules_to_save = sorted(modules)
        return config
    norms = [path for path, group in modules.items() if group == "norm"]
    others = sorted(path for path in modules if path not in norms)
    return LNTuningConfig(target_modules=norms or DUMMY_TARGET_MODULES, modules_to_save=others or None)


def write_adapter(model: PreTrainedModel, directory: str | os.PathLike) -> None:
    """Write the delta of `model` as a peft adapter folder, with FPT's config.json in it.

    Raises ValueError as `trained_modules` does, and for a folder that is not empty.
    """
    config = to_peft_config(model)
    groups, tuned = model.parameter_groups(), isinstance(config, LNTuningConfig)
    norms = {name.rpartition(".")[0] for name, group in groups.items() if group == "norm" and tuned}
    remade = {name: tensor.detach().cpu().contiguous() for name, tensor in _remade(model).items()}
    stored = as_stored(model.delta_tensors()) | remade
    tensors = {PREFIX + _peft_name(name, norms): tensor for name, tensor in stored.items()}
    model.note_dtype()
    config.inference_mode = True  # peft writes it so
    config.base_model_name_or_path = model.config.base_model
    config.revision = model.config.base_model_revision
    with new_folder(directory, "A peft adapter", size_of(tensors.values())) as folder:
        config.save_pretrained(folder)
        model.config.save_pretrained(folder)
        save_file(tensors, folder / ADAPTER_WEIGHTS_NAME, metadata={"format": "pt"})


def _remade(model: PreTrainedModel) -> dict[str, Tensor]:
    if model.config.peft_config is None:
        return {}
    buffers = adapter_buffers(model.fpt_model.backbone)
    return {model.backbone_prefix + name: buffer for name, buffer in buffers.items()}


def _peft_name(name: str, norms: Collection[str]) -> str:
    path, _, leaf = name.rpartition(".")
    return f"{path}.{LN_TUNING}.{leaf}" if path in norms else _without_name(name)


def _without_name(name: str) -> str:
    """A parameter's name without the adapter's name in it, which peft does not save."""
    return ".".join(part for part in name.split(".") if part != NAME)


def read_adapter(model: PreTrainedModel, source: str | os.PathLike, **hub_kwargs: Any) -> dict[str, Tensor]:
    """Read the tensors of a peft adapter, under their names in `model`; adds the adapter to the backbone if needed.

    Names and shapes are not checked here. Raises DeltaError for an adapter with other settings than the model's, or
    for another base; ValueError for one that cannot be added; OSError if a file cannot be found.
    """
    with saying_whose(os.fspath(source), f"the adapter {os.fspath(source)!r}", ADAPTER_PLACE):
        settings = read_json(fetch(source, ADAPTER_CONFIG_NAME, **hub_kwargs))
        _check_base(model, source, hub_kwargs)
        file = fetch(source, ADAPTER_WEIGHTS_NAME, **hub_kwargs)
    with whole_file(file):
        tensors = load_file(file)
    _match_adapter(model, settings, source)
    remade = _remade(model)
    ours = {_without_name(name): name for name in (*model.delta_tensors(), *remade)}
    named = {key.removeprefix(PREFIX).replace(f".{LN_TUNING}.", "."): tensor for key, tensor in tensors.items()}
    named = {ours.get(name, name): tensor for name, tensor in named.items()}
    for name, buffer in remade.items():
        if not torch.equal(named.pop(name, buffer).to(buffer.device), buffer):
            raise DeltaError(
                f"{source} has another {name} than this base and its settings give: give it its own base."
            )
    return named


def _check_base(model: PreTrainedModel, source: str | os.PathLike, hub_kwargs: dict[str, Any]) -> None:
    """Raise DeltaError for another base, if the folder has FPT's configuration (a folder written by peft has none)."""
    try:
        file = fetch(source, CONFIG_NAME, **hub_kwargs)
    except OSError:
        return
    wanted, found = read_json(file).get("base_model_fingerprint"), model.config.base_model_fingerprint
    if wanted not in (None, *model.fpt_model.base_fingerprints.values()):
        raise DeltaError(
            f"{source} was trained on a base with the fingerprint {short(wanted)}; this one's is {found}: load it on "
            "a model of its own base."
        )


def _match_adapter(model: PreTrainedModel, settings: dict[str, Any], source: str | os.PathLike) -> None:
    """Add the adapter of `settings` to the model's backbone, or check that the one there has these settings."""
    settings = {name: value for name, value in settings.items() if name != "modules_to_save"}
    if settings.get("peft_type") == "LN_TUNING":
        found = None
    else:
        prefix = model.backbone_prefix
        for field in LAYER_FIELDS:
            if isinstance(settings.get(field), str):
                raise ValueError(f"{source} finds {field} by a pattern, {settings[field]!r:.60}: list the layers.")
            if settings.get(field) is not None:
                settings[field] = [name.removeprefix(prefix) for name in settings[field]]
        found = peft_config_of(settings)
    if model.config.peft_config is None:
        if found is not None:
            model.add_adapter(found)
        return
    expected, given = model.config.peft_config, None if found is None else settings_of(found)
    names = {*expected, *(given or {})} - {*LAYER_FIELDS}
    differing = sorted(name for name in names if given is None or expected.get(name) != given.get(name))
    if differing:
        name = differing[0]
        there, here = (repr((values or {}).get(name, "as peft has it")) for values in (given, expected))
        raise DeltaError(
            f"{source} has no adapter like the model's: {name} is {there} there and {here} here. "
            "Load it into a model without one."
        )
