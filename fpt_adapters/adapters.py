"""peft adapters on the frozen layers: LoRA and its kin inside the backbone, trained and saved with the rest.

peft draws the adapter's weights, wraps the linear layers and computes; a delta keeps peft's own settings and the
adapter's weights. The settings may have been written by a stranger: they name a method out of a closed list and each
adapted layer by its path, so that no pattern of his is matched, and no file, module or base of his is looked up.
"""

import dataclasses
import math
import re
from collections.abc import Iterator
from typing import Any

from peft import PeftConfig, inject_adapter_in_model
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from .untrusted import MAX_LAYERS, short

NAME = "default"  # of the one adapter that a delta has, as peft names it
# Methods that wrap linear layers one by one, leave the base's weights as they are, and ask nothing of the training.
METHODS = (
    "boft",
    "c3a",
    "delora",
    "fourierft",
    "gralora",
    "hira",
    "hra",
    "ia3",
    "loha",
    "lokr",
    "lora",
    "miss",
    "oft",
    "randlora",
    "road",
    "waveft",
)
# What peft writes into a configuration and a delta says itself, or has resolved into the list of layers.
NO_SETTINGS = (
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
INSTEAD = {
    "modules_to_save": "what trains beside the adapter is said by trainable",
    "trainable_token_indices": "what trains beside the adapter is said by trainable",
    "bias": "the backbone's biases stay frozen",
}
LAYERS = ("target_modules", "feedforward_modules")
MAX_ADAPTED = 64 * MAX_LAYERS
MAX_NUMBER = 2**20
PATH = re.compile(r"\w+(\.\w+)*")


def settings_of(given: PeftConfig | dict[str, Any] | str) -> dict[str, Any]:
    """The settings of a peft configuration, of one as a dict (adapter_config.json), or of a method's name.

    `peft_type`, and what differs from peft's defaults. Raises ValueError for a method that is none of `METHODS`, and
    for a name that the method does not have.
    """
    if isinstance(given, str):
        given = {"peft_type": given}
    values = given.to_dict() if isinstance(given, PeftConfig) else dict(given)
    kind = str(getattr(values.get("peft_type"), "value", values.get("peft_type"))).lower()
    if kind not in METHODS:
        raise ValueError(
            f"An adapter on frozen layers is one of {', '.join(METHODS)}; got {short(kind)}: other methods of peft "
            "change the base, share weights between layers, or need a training loop of their own."
        )
    defaults = _defaults(kind)
    for name in values:
        if name not in defaults:
            raise ValueError(f"{kind} has no setting {name!s:.60}; peft's are {', '.join(sorted(defaults))}.")
    differing = {
        name: sorted(value) if isinstance(value, set) else value
        for name, value in values.items()
        if name not in NO_SETTINGS and value != defaults[name]
    }
    for name in differing:
        if name in INSTEAD:
            raise ValueError(f"{kind} is given {name}={short(differing[name])}, but {INSTEAD[name]}: leave it out.")
    return {"peft_type": kind} | dict(sorted(differing.items()))


def _defaults(kind: str) -> dict[str, Any]:
    """Names and default values of a method's settings."""
    config_class = PEFT_TYPE_TO_CONFIG_MAPPING[kind.upper()]
    return {field.name: getattr(config_class(), field.name) for field in dataclasses.fields(config_class)}
