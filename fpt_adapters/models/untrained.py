"""The base of an untrained model: read or drawn, under the configuration that the caller asked for."""

import copy
import os
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, BitsAndBytesConfig, PreTrainedConfig
from transformers.utils import CONFIG_NAME

from ..backbones.device_maps import DeviceMap
from ..configuration_fpt import FPTConfig
from ..hub.download import commit_of, fetch, saying_whose
from ..rules.quantization import settings_of
from ..rules.stock_arguments import IGNORED_LOADING, take_stock_arguments
from .loading import Base, build_base

if TYPE_CHECKING:
    from ..adapters.peft_api import PeftConfig

BASE_PLACE = "Give from_backbone the base's folder, or its Hub id, such as 'openai-community/gpt2'."


def untrained_base(
    name_or_path: str | os.PathLike | PreTrainedConfig,
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
    """Build the backbone of a new model, with its configuration: arguments and errors of `from_backbone`."""
    fields = take_stock_arguments(fields, IGNORED_LOADING, {})
    if config is not None and fields:
        raise TypeError(f"Give from_backbone either a config or fields; got a config and {sorted(fields)}.")
    hub_kwargs: dict[str, Any] = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
    commit = None
    if isinstance(name_or_path, PreTrainedConfig):
        base_config, source = name_or_path, None
    else:
        source = os.fspath(name_or_path)
        with saying_whose(source, f"the base {source!r}", BASE_PLACE):
            if not os.path.isdir(source):
                commit = commit_of(fetch(source, CONFIG_NAME, revision=revision, **hub_kwargs))
                base_model, hub_kwargs["revision"] = base_model or source, commit
            config_file = fetch(source, CONFIG_NAME, **hub_kwargs)
            base_config = AutoConfig.from_pretrained(config_file.parent, trust_remote_code=False)
        if isinstance(base_config, FPTConfig):
            raise ValueError(f"{source!r} holds a delta, no base: load it with from_pretrained.")
    if config is None:
        fields.setdefault("base_model_config", base_config)
        config = FPTConfig(**fields)
    else:
        config = copy.deepcopy(config)
        config.base_model_config = config.base_model_config or copy.deepcopy(base_config)
    if quantization_config is not None:
        config.base_quantization = settings_of(quantization_config)
    config.base_model, config.base_model_revision = base_model, commit
    config.base_model_config.name_or_path = base_model or ""  # and never a local path
    config.base_model_fingerprint = None
    config.check()
    if source is None and config.backbone_init != "random":
        raise ValueError(
            f"A configuration holds no weights for backbone_init={config.backbone_init!r}: give from_backbone a "
            "Hub id or a folder, or write backbone_init='random'."
        )
    build = (config, source, dtype, attn_implementation, hub_kwargs, device_map, peft_config)
    with nullcontext() if source is None else saying_whose(source, f"the base {source!r}", BASE_PLACE):
        return build_base(*build)
