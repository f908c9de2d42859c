"""The base under a model: found, built, and known by its fingerprint.

Of what the caller passed for the delta, only `cache_dir` and `local_files_only` reach the base: the delta's revision,
subfolder and token are the delta's, and no `trust_remote_code` goes further than the repo it was given for.
"""

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
from ..deltas.errors import DeltaError
from ..hub.download import fetch_base, saying_whose
from ..rules.limits import MEMORY
from ..rules.travelling import TRAVELS
from ..torch_utils.isolation import DefaultDtype

if TYPE_CHECKING:
    from ..adapters.peft_api import PeftConfig

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
BASE_KEYS = ("cache_dir", "local_files_only")
COPY = "If you have a copy of it, give its folder to from_pretrained(..., base_model_name_or_path=...)."
OVERRIDE = "Give base_model_name_or_path the folder of the base that the delta was trained on, or its Hub id."


@dataclass(frozen=True)
class Base:
    """A frozen backbone that a model is made on.

    `config`: what was asked for, filled in with what was found, such as fingerprint, dtype, positions and adapter.
    `fingerprints`: of its weights as stored, by kind.
    """

    backbone: PreTrainedModel
    config: FPTConfig
    fingerprints: dict[str, str]


def build_base(
    config: FPTConfig,
    source: str | None = None,
    dtype: torch.dtype | str | None = None,
    attn_implementation: str | None = None,
    hub_kwargs: dict[str, Any] | None = None,
    device_map: DeviceMap | None = None,
    peft_config: "PeftConfig | dict[str, Any] | str | None" = None,
) -> Base:
    """Build the backbone that `config` describes, which stays as it is.

    `source`, `hub_kwargs`: where its weights are (None: drawn from the seed). `attn_implementation`: which attention
    runs in it (None: the one that `config` names, as its caller may have it do, or else the fastest). `peft_config`:
    the adapter to put on it, in any form that `from_backbone` takes (None: the config's, if any).
    Raises ValueError for another dtype, a config without a backbone's, new modules larger than the memory, and what
    `build_backbone` and `add_adapter` refuse; OSError where the base is not found; RuntimeError on the meta device.
    """
    refuse_meta()
    dtype = config.dtype if dtype in (None, "auto") else DTYPES.get(dtype, dtype)
    if dtype is not None and dtype not in DTYPES.values():
        raise ValueError(f"dtype is one of {', '.join(DTYPES)}; got {dtype!r}.")
    if config.base_model_config is None:
        raise ValueError("FPTConfig needs base_model_config, the backbone's own configuration.")
    named = config.base_model_config._attn_implementation  # which a copy forgets
    config = copy.deepcopy(config)
    base_config = config.base_model_config
    config._attn_implementation = attn_implementation or {"": config._attn_implementation, "base_model_config": named}
    backbone_class(base_config)  # raises, before anything is fetched
    config.backbone_init_scheme = config.backbone_init_scheme or default_init_scheme(base_config, config.backbone_init)
    backbone, fingerprints = build_backbone(
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
    )
    peft_config = config.peft_config if peft_config is None else peft_config
    if peft_config is not None:
        from ..adapters.adding import add_adapter  # importing peft takes long

        config.peft_config = add_adapter(backbone, peft_config)
        config.check()
    config.base_model_fingerprint = fingerprints[BY_LAYER]
    config._attn_implementation = backbone.config._attn_implementation
    config.dtype = frozen_dtype(backbone) if config.base_quantization is None else backbone.config.dtype
    if not TRAVELS:
        _check_new_modules(config, embedding_width(backbone))
    if config.positions == "auto":
        config.positions = "backbone" if position_parameters(backbone) else "new"
    if config.pooling == "auto":
        from ..backbones.causality import is_causal

        with DefaultDtype(torch.float32):  # in which frozen weights and new ones may meet
            config.pooling = "last" if is_causal(backbone) else "mean"
    return Base(backbone, config, fingerprints)


def _check_new_modules(config: FPTConfig, width: int) -> None:
    new = config.token_size + config.num_tokens + config.labels_per_token * (config.num_labels or 1)
    if 4 * new * width > MEMORY:
        raise ValueError("The new modules are larger than this machine's memory: write smaller sizes or fewer labels.")


def _fetch(name_or_path: str, hub_kwargs: dict[str, Any]) -> Path:
    """As `fetch_base`. Raises ValueError for a source that holds a peft adapter too, which changes its weights."""
    adapter = find_adapter_config_file(name_or_path, **hub_kwargs)
    if adapter is not None:
        raise ValueError(
            f"{name_or_path!r} holds a peft adapter ({os.path.basename(adapter)}), and a backbone is the weights of "
            "one model: merge it (PeftModel.merge_and_unload) and give what save_pretrained writes then, or give the "
            "adapter's base."
        )
    return fetch_base(name_or_path, **hub_kwargs)


def load_base(
    config: FPTConfig,
    override: str | os.PathLike | None,
    dtype: torch.dtype | str | None,
    attn_implementation: str | None,
    delta_hub_kwargs: dict[str, Any],
    device_map: DeviceMap | None = None,
) -> Base:
    """Load the base that `config` names, or the one at `override`, and check that it is the one trained on.

    Raises DeltaError for another base, for one that nobody can find (a local folder), and for a download that came
    damaged; for a base that is missing or private, the Hub's own error, which says that it is about the base.
    """
    source, hub_kwargs = _source(config, override)
    hub_kwargs |= {key: delta_hub_kwargs[key] for key in BASE_KEYS if key in delta_hub_kwargs}
    build = (config, source, dtype, attn_implementation, hub_kwargs, device_map)
    if config.backbone_init == "random":
        base = build_base(*build)
    else:
        commit = f" (commit {hub_kwargs['revision']})" if hub_kwargs.get("revision") else ""
        whose = f"the base {source!r}{commit} of a delta that was found"
        with saying_whose(source, whose, COPY if override is None else OVERRIDE):
            base = build_base(*build)
    wanted = config.base_model_fingerprint
    if wanted not in base.fingerprints.values():
        where = f"{source!r}" if config.backbone_init != "random" else "the random weights drawn from the seed"
        raise DeltaError(
            f"Another base: {where} with backbone_init={config.backbone_init!r} has the fingerprint "
            f"{_like(wanted, base.fingerprints)}, but the delta was trained on {wanted} "
            f"({config.base_model or 'no Hub id'}, commit {config.base_model_revision or 'unknown'}): give that one "
            "as base_model_name_or_path."
        )
    return base


def _source(config: FPTConfig, override: str | os.PathLike | None) -> tuple[str | None, dict[str, Any]]:
    """Where the base is (None: drawn from its seed), and the revision to read there."""
    if override is not None:
        return os.fspath(override), {}
    if config.base_model is None:
        if config.backbone_init == "random":
            return None, {}
        raise DeltaError(
            "This delta's base was a local folder without a Hub id: say where it is with "
            "from_pretrained(..., base_model_name_or_path='/path/to/the/base')."
        )
    if config.backbone_init != "random" and os.path.isdir(config.base_model):
        raise DeltaError(
            f"The delta names the Hub model {config.base_model!r} as its base, but here a folder has that name, and "
            "would be read instead: work from another folder, or say which you mean with base_model_name_or_path."
        )
    return config.base_model, {"revision": config.base_model_revision}


def _like(wanted: str | None, fingerprints: dict[str, str]) -> str:
    """The one of `fingerprints` that is of the kind of `wanted`."""
    return fingerprints.get(str(wanted).partition(":")[0], fingerprints[BY_LAYER])
