"""peft adapters on the frozen layers: LoRA and the like inside the backbone, trained and saved with the rest.

peft wraps the linear layers, draws the adapter's weights and runs them; this module says where, and finds the result.
It is imported only where there is an adapter, because importing peft takes long.
"""

import copy
import dataclasses
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from ..backbones.fingerprints import fingerprint_of
from ..backbones.places import layer_lists
from ..backbones.quantized_layers import parameter_size
from ..rules.adapter_settings import METHODS, NAME, checked_settings
from ..rules.ranges import short
from ..torch_utils.isolation import DefaultDtype, DrawsFrom
from ..torch_utils.plain_names import named_buffers, named_modules, plain_state
from .peft_api import (
    PEFT_TYPE_TO_CONFIG_MAPPING,
    BaseTunerLayer,
    ModulesToSaveWrapper,
    PeftConfig,
    get_peft_model_state_dict,
    inject_adapter_in_model,
)

BASE_LAYER = "base_layer"  # peft's name for the layer that it wraps
PLAIN_STARTS = (True, False, "gaussian", "orthogonal")  # values of `init_lora_weights` that do not change the base
NUMBERS = {int: (int,), float: (int, float)}  # type of a setting's default -> the types that it takes
# Fields that peft fills in itself, or that are settled once the layers are chosen.
RESOLVED = (
    "auto_mapping",
    "base_model_name_or_path",
    "exclude_modules",
    "fan_in_fan_out",
    "inference_mode",
    "layers_pattern",
    "layers_to_transform",
    "peft_type",
    "peft_version",
    "revision",
    "runtime_config",
    "task_type",
)


def peft_config_of(given: PeftConfig | dict[str, Any] | str) -> PeftConfig:
    """Make a peft configuration: from another one, from a dict of settings (adapter_config.json), or a method's name.

    Raises ValueError for a method that is not in `METHODS`, and for a setting that the method does not have.
    """
    if isinstance(given, PeftConfig):
        given = given.to_dict()
    values = {"peft_type": given} if isinstance(given, str) else dict(given)
    method = values.pop("peft_type", None)
    method = str(getattr(method, "value", method)).lower()
    if method not in METHODS:
        checked_settings({"peft_type": method})  # raises, and lists the methods
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[method.upper()]
    known = {field.name: field for field in dataclasses.fields(config_class) if field.init}
    for name, value in values.items():
        if name not in known:
            raise ValueError(f"peft's {method} has no setting {name!s:.60}; it has {', '.join(sorted(known))}.")
        kinds = NUMBERS.get(type(_default(known[name])))
        if kinds is not None and type(value) not in kinds:
            raise ValueError(
                f"peft's {method} takes a number for {name}, whole if its default is; got {short(value)}."
            )
    try:
        return config_class(**values)
    except (AttributeError, TypeError) as error:  # for a type of value that peft does not expect
        raise ValueError(f"peft's {method} does not take {short(values)}: {error}") from error


def add_adapter(backbone: PreTrainedModel, config: PeftConfig | dict[str, Any] | str) -> dict[str, Any]:
    """Wrap the layers of `backbone` that `config` names. Returns the settings that wrap the same layers again.

    Without named layers, peft's defaults for the family are taken. The weights drawn follow from torch's random
    state, which does not change, so that later draws are those of the same seed without an adapter.

    Raises ValueError, and leaves the backbone as it was, for layers that do not exist or that peft cannot wrap, for an
    adapter larger than the backbone, and for a method that changes the base's own weights.
    """
    config = peft_config_of(config)
    if getattr(config, "init_lora_weights", True) not in PLAIN_STARTS:
        raise ValueError(_changes_base(config))
    if hasattr(config, "fan_in_fan_out"):
        config.fan_in_fan_out = on_conv1d(backbone)
    stored = list(backbone.named_parameters())
    digest, limit = fingerprint_of(stored), sum(parameter_size(parameter) for _, parameter in stored)
    seed = _seed_of_random_state()
    try:
        with torch.device("meta"):  # takes no memory, whatever the settings ask for
            _inject(config, backbone, seed)
        size = sum(parameter.numel() for parameter in adapter_parameters(backbone))
        if size > limit:
            raise ValueError(
                f"The adapter {short(settings_of(config))} has {size:,} parameters, more than the {limit:,} of the "
                "backbone: lower its rank, or name fewer layers."
            )
        remove_adapters(backbone)
        _inject(config, backbone, seed)
        if fingerprint_of(stored) != digest:
            raise ValueError(_changes_base(config))
        return _resolved_settings(config, backbone)
    except ValueError:
        remove_adapters(backbone)
        raise


def _inject(config: PeftConfig, backbone: PreTrainedModel, seed: int) -> None:
    try:
        with DrawsFrom(seed), DefaultDtype(torch.float32):
            inject_adapter_in_model(config, backbone, NAME)
    except (ValueError, TypeError, AttributeError, RuntimeError) as error:
        linear = sorted(
            {name.rpartition(".")[2] for name, module in named_modules(backbone).items() if _is_linear(module)}
        )
        raise ValueError(
            f"peft cannot put {config.peft_type.value.lower()} on this {backbone.config.model_type}: {error} Its "
            f"linear layers are {', '.join(linear) or 'none'}; name some in target_modules."
        ) from error


def _seed_of_random_state() -> int:
    """A seed made from torch's random state, which does not change; it is none of the numbers drawn next."""
    present = torch.Generator()
    present.set_state(torch.get_rng_state())
    return int(torch.randint(2**62, (), generator=present))


def _changes_base(config: PeftConfig) -> str:
    return (
        f"The adapter's settings change the base's own weights, which a delta does not hold: "
        f"{short(settings_of(config))}. Take an initialisation that does not, such as init_lora_weights=True."
    )


def _resolved_settings(config: PeftConfig, backbone: PreTrainedModel) -> dict[str, Any]:
    layers = {name: one for name, one in named_modules(backbone).items() if isinstance(one, BaseTunerLayer)}
    outside = [name for name in layers if not _in_repeated_layers(name, backbone)]
    if outside:
        raise ValueError(
            f"An adapter goes on layers of attention or feed-forward; {outside[0]} is none: leave it out."
        )
    settings = settings_of(config) | {"target_modules": sorted(layers)}
    if getattr(config, "feedforward_modules", None):
        settings["feedforward_modules"] = sorted(name for name, layer in layers.items() if layer.is_feedforward)
    return checked_settings(settings)


def on_conv1d(model: nn.Module) -> bool:
    """Whether a model has GPT-2's linear layers, whose weights are transposed."""
    return any(isinstance(module, Conv1D) for module in model.modules())


def _in_repeated_layers(name: str, backbone: nn.Module) -> bool:
    lists = list(layer_lists(backbone))
    return any(name.startswith(path + ".") for path in lists)


def _is_linear(module: nn.Module) -> bool:
    return isinstance(module, (nn.Linear, Conv1D))


def settings_of(config: PeftConfig) -> dict[str, Any]:
    """The method and the settings that differ from peft's defaults, as a dict."""
    differing = {
        field.name: getattr(config, field.name)
        for field in dataclasses.fields(config)
        if field.name not in RESOLVED and getattr(config, field.name) != _default(field)
    }
    return {"peft_type": config.peft_type.value.lower()} | differing


def _default(field: dataclasses.Field) -> Any:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def adapter_parameters(backbone: nn.Module) -> list[nn.Parameter]:
    """The weights that peft added to the layers that it wraps."""
    return [
        parameter
        for layer in backbone.modules()
        if isinstance(layer, BaseTunerLayer)
        for name, parameter in layer.named_parameters()
        if not name.startswith(BASE_LAYER + ".")
    ]


def adapter_buffers(backbone: nn.Module) -> dict[str, Tensor]:
    """Buffers that peft saves with the weights, though it can compute them from its settings and the base."""
    layers = [name for name, module in named_modules(backbone).items() if isinstance(module, BaseTunerLayer)]
    inside = tuple(f"{name}." for name in layers)
    own = [name for name in named_buffers(backbone) if name.startswith(inside) and f".{BASE_LAYER}." not in name]
    stored = plain_state(backbone.state_dict()) if own else {}
    return {name: stored[name] for name in own if name in stored}


def merged_state(backbone: nn.Module) -> dict[str, Tensor]:
    """The state dict that a backbone would have with its adapter merged; the backbone itself does not change."""
    layers = {name: one for name, one in named_modules(backbone).items() if isinstance(one, BaseTunerLayer)}
    inside = tuple(f"{name}." for name in layers)
    state = plain_state(backbone.state_dict())
    tensors = {name: tensor for name, tensor in state.items() if not name.startswith(inside)}
    for path, layer in layers.items():
        merged = copy.deepcopy(layer)
        merged.merge()
        tensors |= {f"{path}.{name}": tensor for name, tensor in merged.get_base_layer().state_dict().items()}
    return tensors


def set_enabled(backbone: nn.Module, enabled: bool) -> None:
    """Let the layers run with their adapter, or without it."""
    for layer in backbone.modules():
        if isinstance(layer, BaseTunerLayer):
            layer.enable_adapters(enabled)


def adapter_state_dict(model: PreTrainedModel, state_dict: dict[str, Tensor] | None = None) -> dict[str, Tensor]:
    """The adapter's tensors in a state dict of `model`, under the names that peft saves them by."""
    return get_peft_model_state_dict(model, state_dict, adapter_name=NAME, save_embedding_layers=False)


def remove_adapters(model: nn.Module) -> None:
    """Remove all adapters and all copies of modules, and put back the modules that they wrapped."""
    done: list[str] = []
    for path, module in list(model.named_modules(remove_duplicate=False)):
        if path.startswith(tuple(done)):
            continue
        if isinstance(module, ModulesToSaveWrapper):
            replace_module(model, path, module.original_module)
        elif isinstance(module, BaseTunerLayer):
            replace_module(model, path, module.get_base_layer())
        else:
            continue
        done.append(path + ".")
    vars(model).pop("peft_config", None)  # peft sets it on a backbone


def replace_module(model: nn.Module, path: str, module: nn.Module) -> None:
    """Replace the module at a path."""
    parent, _, name = path.rpartition(".")
    setattr(model.get_submodule(parent), name, module)
