"""The base under an untrained model, and its configuration as the caller asked for it."""

import copy
import os
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import torch
from transformers import BitsAndBytesConfig, PreTrainedConfig

from ..backbones.device_maps import DeviceMap
from ..configuration_fpt import FPTConfig
from ..hub.download import has_file
from ..rules.quantization import settings_of
from ..rules.stock_arguments import IGNORED_LOADING, take_stock_arguments
from .base import Base
from .frozen_base import FoundBase, FrozenBase, build_on, find_base

if TYPE_CHECKING:
    from ..adapters.peft_api import PeftConfig


def untrained_base(
    name_or_path: str | os.PathLike | FrozenBase | PreTrainedConfig,
    config: FPTConfig | None,
    fields: dict[str, Any],
    *,
    base_model: str | None,
    revision: str | None,
    token: str | bool | None,
    cache_dir: str | os.PathLike | None,
    local_files_only: bool,
    dtype: torch.dtype | str | None,
    attn_implementation: str | None,
    quantization_config: BitsAndBytesConfig | dict[str, Any] | None,
    device_map: DeviceMap | None,
    peft_config: "PeftConfig | dict[str, Any] | str | None",
) -> Base:
    """Build the backbone and the configuration of a new model. Arguments and errors as for `from_backbone`."""
    fields = take_stock_arguments(fields, IGNORED_LOADING, {})
    if config is not None and fields:
        raise TypeError(f"Give from_backbone either a config or fields; got a config and {sorted(fields)}.")
    hub_kwargs = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    found = find_base(name_or_path, base_model, revision, **hub_kwargs)
    if config is None:
        fields = (name_or_path.settings if isinstance(name_or_path, FrozenBase) else {}) | fields
        fields.setdefault("base_model_config", found.config)
        config = FPTConfig(**fields)
    else:
        config = copy.deepcopy(config)
        config.base_model_config = config.base_model_config or copy.deepcopy(found.config)
    if quantization_config is not None:
        config.base_quantization = settings_of(quantization_config)
    base = build_on(found, config, dtype, attn_implementation, device_map, peft_config)
    return replace(base, processor=_processor(found, base.config)) if base.config.input.native else base


def _processor(found: FoundBase, config: FPTConfig) -> Any | None:
    """The tokenizer or processor beside a base; None where none lies there, or nobody knows where the base is."""
    if not isinstance(found.source, str):
        return None
    kind = config.input
    there = has_file(found.source, kind.processor_file, **found.hub_kwargs)
    return kind.load_processor(found.source, **found.hub_kwargs) if there else None
