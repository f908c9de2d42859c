"""Loading a backbone onto given devices or quantised, and checking that training can run on these devices.

transformers quantises and dispatches layer by layer while it reads a checkpoint, so that the whole is never in memory
in full precision. The device map is checked, because a backbone that trains cannot be offloaded: the gradient passes
through every layer, and every layer has weights that train.

Unverified: backbones on more than one accelerator. The tests have one device under two names.
"""

import contextlib
import copy
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel

from ..rules.quantization import bitsandbytes_config
from .quantized_layers import freeze_layers
from .stored_weights import read_weights
from .structure import is_quantized

AUTOMATIC = ("auto", "balanced", "balanced_low_0", "sequential")  # accelerate's ways of using all devices
DeviceMap = str | int | torch.device | dict[str, str | int | torch.device]
INSTEAD = (
    "quantise it with quantization_config, keep fewer layers with backbone_layers, or give more or larger devices"
)


def load_placed(
    model_class: type[PreTrainedModel],
    source: str | os.PathLike,
    config: PreTrainedConfig,
    dtype: torch.dtype,
    quantization: dict[str, Any] | None,
    device_map: DeviceMap | None,
) -> PreTrainedModel:
    """Load the weights at `source`, in `dtype` or quantised, onto the devices of `device_map`.

    `device_map=None`: one device, which transformers chooses. Raises ValueError for devices that cannot hold the
    backbone, and for a backbone without linear layers to quantise.
    """
    check_device_map(device_map)
    arguments: dict[str, Any] = {} if device_map is None else {"device_map": device_map}
    if quantization is not None:
        arguments["quantization_config"] = bitsandbytes_config(quantization)
    config = copy.deepcopy(config)  # transformers writes into it
    backbone = read_weights(model_class, source, config, dtype, **arguments)
    _check_in_memory(backbone)
    if quantization is not None:
        if not any(is_quantized(parameter) for parameter in backbone.parameters()):
            raise ValueError(
                f"quantization_config quantises linear layers, and {type(backbone).__name__} has none: leave it out, "
                "or write dtype='bfloat16'."
            )
        freeze_layers(backbone)
    return backbone


def check_device_map(device_map: DeviceMap | None) -> None:
    """Raise ValueError for devices that no backbone can train on, before anything is loaded."""
    places = {str(place) for place in device_map.values()} if isinstance(device_map, dict) else set()
    if "disk" in places or len({place.partition(":")[0] == "cpu" for place in places}) > 1:
        raise ValueError(
            f"A backbone that trains lies on accelerators, or on the CPU, but not on both and not on disk; device_map "
            f"has {', '.join(sorted(places))}: {INSTEAD}."
        )
    if device_map in AUTOMATIC and int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise ValueError(
            f"device_map={device_map!r} spreads one backbone over all devices, but each of {os.environ['WORLD_SIZE']} "
            "processes has its own: leave device_map out, or start one process."
        )


def refuse_meta() -> None:
    """Raise RuntimeError on the meta device, where new parameters have no values, as transformers does on loading."""
    if nn.ParameterList([torch.empty(1)])[0].is_meta:
        raise RuntimeError(
            "A frozen transformer cannot be built on the meta device, under torch.device('meta') or "
            "init_empty_weights(): its base is read, or drawn from a seed, and its fingerprint needs the values. "
            "Build it outside of that, and write model.to('meta') for one without values, or, to save memory, "
            "dtype='bfloat16', quantization_config or device_map."
        )


def _check_in_memory(backbone: nn.Module) -> None:
    away = [name for name, parameter in backbone.named_parameters() if parameter.is_meta]
    if away:
        raise ValueError(
            f"The backbone does not fit on the devices: {len(away)} tensors are left outside, the first is {away[0]}, "
            f"and it cannot train from there: {INSTEAD}."
        )


@contextlib.contextmanager
def checkpoint_of(source: Path | PreTrainedModel) -> Iterator[Path | str]:
    """Yield a folder that `load_placed` can read: `source` itself, or a temporary copy of a model in memory."""
    if isinstance(source, Path):
        yield source
        return
    with tempfile.TemporaryDirectory() as folder:
        source.save_pretrained(folder)
        yield folder
