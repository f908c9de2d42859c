"""Finding the base of a delta: from the Hub at its pinned commit, or where the caller says; checked by fingerprint.

Only `cache_dir` and `local_files_only` of what the caller passed serve the base too: revision, subfolder and token
are the delta's, and `trust_remote_code` goes no further than the repo it was given for.
"""

import os
from typing import TYPE_CHECKING, Any

import torch

from ..backbones.device_maps import DeviceMap
from ..backbones.fingerprints import BY_LAYER
from ..configuration_fpt import FPTConfig
from ..deltas.errors import DeltaError
from ..hub.download import saying_whose
from ..rules.travelling import TRAVELS
from .base import Base, build_base

if TYPE_CHECKING:
    from .frozen_base import FrozenBase

BASE_KEYS = ("cache_dir", "local_files_only")
COPY = "If you have a copy of it, give its folder to from_pretrained(..., base_model_name_or_path=...)."
OVERRIDE = "Give base_model_name_or_path the folder of the base that the delta was trained on, or its Hub id."


def load_base(
    config: FPTConfig,
    override: "str | os.PathLike | FrozenBase | None",
    dtype: torch.dtype | str | None,
    attn_implementation: str | None,
    delta_hub_kwargs: dict[str, Any],
    device_map: DeviceMap | None = None,
) -> Base:
    """Load the base that `config` names, or the one at `override`, and check that it is the one trained on.

    Raises DeltaError for another base, for one without a Hub id if no `override` is given, and for a damaged download;
    for a missing or private base the Hub client's own error, which says that it is about the base.
    """
    if not TRAVELS:
        from .frozen_base import FrozenBase

        if isinstance(override, FrozenBase):
            base = build_base(config, override, dtype, attn_implementation, device_map=device_map)
            return _checked(base, config, "a FrozenBase")
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
    return _checked(
        base, config, repr(source) if config.backbone_init != "random" else "the weights drawn from the seed"
    )


def _checked(base: Base, config: FPTConfig, where: str) -> Base:
    """Return `base` if the delta of `config` was trained on it. Raises DeltaError."""
    wanted = config.base_model_fingerprint
    if wanted not in base.fingerprints.values():
        raise DeltaError(
            f"Another base: {where} with backbone_init={config.backbone_init!r} has the fingerprint "
            f"{_like(wanted, base.fingerprints)}, but the delta was trained on {wanted} "
            f"({config.base_model or 'no Hub id'}, commit {config.base_model_revision or 'unknown'}): give that one "
            "as base_model_name_or_path."
        )
    return base


def _source(config: FPTConfig, override: str | os.PathLike | None) -> tuple[str | None, dict[str, Any]]:
    """Return where the base is (None: drawn from its seed) and the revision to read."""
    if override is not None:
        return os.fspath(override), {}
    if config.base_model is None:
        if config.backbone_init == "random":
            return None, {}
        raise DeltaError(
            "This delta's base was a local folder without a Hub id: say where it is with "
            "from_pretrained(..., base_model_name_or_path='/path/to/the/base'), or, in a command, with the flag "
            "--base_model_name_or_path."
        )
    if config.backbone_init != "random" and os.path.isdir(config.base_model):
        raise DeltaError(
            f"The delta names the Hub model {config.base_model!r} as its base, but here a folder has that name, and "
            "would be read instead: work from another folder, or say which you mean with base_model_name_or_path."
        )
    return config.base_model, {"revision": config.base_model_revision}


def _like(wanted: str | None, fingerprints: dict[str, str]) -> str:
    """Return the fingerprint of the same kind as `wanted`."""
    return fingerprints.get(str(wanted).partition(":")[0], fingerprints[BY_LAYER])
