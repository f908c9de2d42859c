"""Build the base under a model, and fill in the configuration with what was found."""

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from transformers import PreTrainedModel
from transformers.utils import find_adapter_config_file

from ..backbones.building import backbone_class, build_backbone, default_init_scheme
from ..backbones.device_maps import DeviceMap, refuse_meta
from ..backbones.fingerprints import BY_LAYER
from ..backbones.structure import embedding_width, frozen_dtype, position_parameters
from ..configuration_fpt import FPTConfig
from ..hub.download import fetch_base
from ..rules.limits import MEMORY
from ..rules.travelling import TRAVELS
from ..torch_utils.isolation import DefaultDtype

if TYPE_CHECKING:
    from ..adapters.peft_api import PeftConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


@dataclass(frozen=True)
class Base:
    """A frozen backbone that a model is made on.

    `config`: the requested one, filled in with what was found: fingerprint, dtype, positions, adapter and the like.
    `fingerprints`: of the stored weights, by kind. `shared`: whether other models share its memory.
    `processor`: what makes native inputs of raw data, if it lies beside the base.
    """

    backbone: PreTrainedModel
    config: FPTConfig
    fingerprints: dict[str, str]
    shared: bool = False
    processor: Any = None  # the base's own, of native inputs


def build_base(
    config: FPTConfig,
    source: Any = None,
    dtype: torch.dtype | str | None = None,
    attn_implementation: str | None = None,
    hub_kwargs: dict[str, Any] | None = None,
    device_map: DeviceMap | None = None,
    peft_config: "PeftConfig | dict[str, Any] | str | None" = None,
) -> Base:
    """Build the backbone that `config` describes; `config` itself is not changed.

    `source`, `hub_kwargs`: where the weights are: a folder, a Hub id, a `FrozenBase`, or None to draw them from the
    seed. A `FrozenBase` shares its weights, dtype and attention. `attn_implementation`: which attention runs (None:
    the one in `config`, if its caller set one, else the fastest). `peft_config`: the adapter to add, in any form that
    `from_backbone` takes (None: the config's, if any).
    Raises ValueError for another dtype, a config without a backbone's, new modules larger than the memory, and what
    `build_backbone` and `add_adapter` refuse; OSError where the base is not found; RuntimeError on the meta device.
    """
    refuse_meta()
    asked = {"dtype": None if dtype == "auto" else DTYPES.get(dtype, dtype)}
    asked |= {"attn_implementation": attn_implementation, "device_map": device_map}
    dtype = config.dtype if asked["dtype"] is None else asked["dtype"]
    if dtype is not None and dtype not in DTYPES.values():
        raise ValueError(f"dtype is one of {', '.join(DTYPES)}; got {dtype!r}.")
    if config.base_model_config is None:
        raise ValueError("FPTConfig needs base_model_config, the backbone's own configuration.")
    named = config.base_model_config._attn_implementation  # a copy loses it
    chosen = config._attn_implementation
    config = copy.deepcopy(config)
    base_config = config.base_model_config
    config._attn_implementation = attn_implementation or {"": chosen, "base_model_config": named}
    native = config.input.native
    backbone_class(base_config, native)  # raises, before anything is fetched
    config.backbone_init_scheme = config.backbone_init_scheme or default_init_scheme(base_config, config.backbone_init)
    shared = source is not None and not isinstance(source, str)
    if shared:
        asked["attn_implementation"] = attn_implementation or named or chosen
        backbone, found = source.backbone_for(config, **asked), source.fingerprints
    else:
        backbone, found = build_backbone(
            base_config,
            None if config.backbone_init == "random" else _fetch(source, hub_kwargs or {}),
            init=config.backbone_init,
            seed=config.backbone_init_seed,
            scheme=config.backbone_init_scheme,
            layers=config.backbone_layers,
            dropout=config.backbone_dropout,
            dtype=dtype,
            attn_implementation=base_config._attn_implementation or config._attn_implementation,
            quantization=config.base_quantization,
            device_map=device_map,
            source=source,
            native=native,
        )
    peft_config = config.peft_config if peft_config is None else peft_config
    if peft_config is not None:
        from ..adapters.adding import add_adapter  # importing peft takes long

        config.peft_config = add_adapter(backbone, peft_config)
        config.check()
    config.base_model_fingerprint = found[BY_LAYER]
    config._attn_implementation = backbone.config._attn_implementation
    config.dtype = frozen_dtype(backbone) if config.base_quantization is None else backbone.config.dtype
    if not TRAVELS:
        _check_new_modules(config, embedding_width(backbone))
    if config.positions == "auto":
        config.positions = "backbone" if position_parameters(backbone) else config.input.positions
        config.check()  # which now says what trains, where nobody did
    if config.pooling == "auto" and config.input.pooling is not None:
        config.pooling = config.input.pooling
    if config.pooling == "auto":
        from ..backbones.causality import is_causal

        with DefaultDtype(torch.float32):  # the embeddings' dtype, whatever the process's default is
            config.pooling = "last" if is_causal(backbone) else "mean"
    return Base(backbone, config, found, shared)


def _check_new_modules(config: FPTConfig, width: int) -> None:
    new = config.token_size + config.num_tokens + config.labels_per_token * (config.num_labels or 1)
    if 4 * new * width > MEMORY:
        raise ValueError("The new modules are larger than this machine's memory: write smaller sizes or fewer labels.")


def _fetch(name_or_path: str, hub_kwargs: dict[str, Any]) -> Path:
    """Fetch a base as `fetch_base` does. Raises ValueError if a peft adapter is with it, which changes the weights."""
    adapter = find_adapter_config_file(name_or_path, **hub_kwargs)
    if adapter is not None:
        raise ValueError(
            f"{name_or_path!r} holds a peft adapter ({os.path.basename(adapter)}), and a backbone is the weights of "
            "one model: merge it (PeftModel.merge_and_unload) and give what save_pretrained writes then, or give the "
            "adapter's base."
        )
    return fetch_base(name_or_path, **hub_kwargs)
