"""`FrozenBase`: a base that is read once and shared by any number of models."""

import copy
import os
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from transformers import AutoConfig, BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import CONFIG_NAME

from ..backbones.building import DROPOUT_FIELDS, backbone_without_weights, check_same_architecture
from ..backbones.device_maps import DeviceMap
from ..backbones.fingerprints import fingerprints
from ..backbones.native import NOT_TEXT
from ..backbones.sharing import shared_copy, take_numbers
from ..configuration_fpt import FPTConfig
from ..hub.download import commit_of, fetch, saying_whose
from ..inputs.native import native_kind
from ..rules.quantization import settings_of
from .base import Base, build_base

if TYPE_CHECKING:
    from ..adapters.peft_api import PeftConfig

BASE_PLACE = "Give from_backbone the base's folder, or its Hub id, such as 'openai-community/gpt2'."
# What a configuration says of the frozen weights, which is the same for all models on one base.
SETTLED = ("backbone_init", "backbone_init_seed", "backbone_init_scheme", "backbone_layers", "base_quantization")
NEUTRAL = {"input_type": "values", "input_size": 1, "sequence_length": 1}  # of no model
LONG = 2**16  # samples or tokens, of no model either


@dataclass(frozen=True)
class FoundBase:
    """Where a base is, and its own configuration."""

    source: "str | FrozenBase | None"  # None: it is a configuration, which has no weights
    config: PreTrainedConfig
    base_model: str | None = None  # its Hub id
    commit: str | None = None
    hub_kwargs: dict[str, Any] = field(default_factory=dict)


def find_base(
    name_or_path: "str | os.PathLike | FrozenBase | PreTrainedConfig",
    base_model: str | None,
    revision: str | None,
    **hub_kwargs: Any,
) -> FoundBase:
    """Look a base up, on the Hub at one commit. Raises OSError, and ValueError for a delta."""
    if isinstance(name_or_path, FrozenBase):
        own = name_or_path.config
        return FoundBase(name_or_path, own.base_model_config, own.base_model, own.base_model_revision)
    if isinstance(name_or_path, PreTrainedConfig):
        return FoundBase(None, name_or_path, base_model, hub_kwargs=hub_kwargs)
    source, commit = os.fspath(name_or_path), None
    with saying_whose(source, f"the base {source!r}", BASE_PLACE):
        if not os.path.isdir(source):
            commit = commit_of(fetch(source, CONFIG_NAME, revision=revision, **hub_kwargs))
            base_model, hub_kwargs["revision"] = base_model or source, commit
        config_file = fetch(source, CONFIG_NAME, **hub_kwargs)
        config = AutoConfig.from_pretrained(config_file.parent, trust_remote_code=False)
    if isinstance(config, FPTConfig):
        raise ValueError(f"{source!r} holds a delta, no base: load it with from_pretrained.")
    return FoundBase(source, config, base_model, commit, hub_kwargs)


def build_on(
    found: FoundBase,
    config: FPTConfig,
    dtype: torch.dtype | str | None,
    attn_implementation: str | None,
    device_map: DeviceMap | None = None,
    peft_config: "PeftConfig | dict[str, Any] | str | None" = None,
) -> Base:
    """Build the backbone that `config` describes on a base that was found; the arguments are `build_base`'s."""
    config = copy.deepcopy(config)
    config.base_model, config.base_model_revision = found.base_model, found.commit
    config.base_model_config.name_or_path = found.base_model or ""  # and never a local path
    config.base_model_fingerprint = None
    config.check()
    source = found.source
    if source is None and config.backbone_init != "random":
        raise ValueError(
            f"A configuration holds no weights for backbone_init={config.backbone_init!r}: give from_backbone a "
            "Hub id or a folder, or write backbone_init='random'."
        )
    with saying_whose(source, f"the base {source!r}", BASE_PLACE) if isinstance(source, str) else nullcontext():
        return build_base(config, source, dtype, attn_implementation, found.hub_kwargs, device_map, peft_config)


def _native(base_config: PreTrainedConfig) -> dict[str, Any]:
    """The fields of a native input on a base, of no model."""
    return {"input_type": "native"} | dict.fromkeys(native_kind(base_config).needs, LONG)


class FrozenBase:
    """The frozen weights under any number of models, which are built and loaded on it in place of a folder or an id.

        base = FrozenBase.from_pretrained("openai-community/gpt2")
        digits = AutoModelForImageClassification.from_pretrained("org/digits", base_model_name_or_path=base)
        letters = AutoModelForImageClassification.from_pretrained("org/letters", base_model_name_or_path=base)

    Each model has modules of its own, and memory for what it trains; all else is this one copy, which a model that
    trains the groups of its `trainable` leaves as it is. Models on one base may be used in several threads at once.
    (What changes a frozen weight by hand changes it for all, as peft's `merge_adapter` does: the next load refuses.)
    """

    def __init__(self, base: Base):
        self._base = base
        self._kept = fingerprints(base.backbone)  # of the weights as they are kept, in the dtype that was chosen

    @classmethod
    def from_pretrained(
        cls,
        name_or_path: str | os.PathLike | PreTrainedConfig,
        *,
        base_model: str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike | None = None,
        local_files_only: bool = False,
        dtype: torch.dtype | str | None = None,
        attn_implementation: str | None = None,
        quantization_config: BitsAndBytesConfig | dict[str, Any] | None = None,
        native: bool = False,
        **settings: Any,
    ) -> "FrozenBase":
        """Read a base. The arguments are those of `from_backbone`; `settings`: its fields such as `backbone_init`.

        `native`: for models of `input_type="native"`. A text base serves those and all others, whatever it says here;
        one of pictures or sound serves either these or those.

        Raises as `from_backbone`, and TypeError for a field that says nothing of the frozen weights.
        """
        if wrong := sorted(settings.keys() - {*SETTLED}):
            raise TypeError(f"{wrong[0]} says nothing of the frozen weights: a FrozenBase takes {', '.join(SETTLED)}.")
        hub_kwargs = {"token": token, "cache_dir": cache_dir, "local_files_only": local_files_only}
        found = find_base(name_or_path, base_model, revision, **hub_kwargs)
        if quantization_config is not None:
            settings["base_quantization"] = settings_of(quantization_config)
        config = FPTConfig(
            base_model_config=found.config, **(_native(found.config) if native else NEUTRAL), **settings
        )
        return cls(build_on(found, config, dtype, attn_implementation))

    @property
    def config(self) -> FPTConfig:
        """The configuration of the base; its input and head mean nothing."""
        return self._base.config

    @property
    def settings(self) -> dict[str, Any]:
        """The fields on the frozen weights that a model's configuration must share."""
        return {name: getattr(self.config, name) for name in SETTLED}

    @property
    def fingerprints(self) -> dict[str, str]:
        """The fingerprints of its weights as stored, by kind."""
        return self._base.fingerprints

    def backbone_for(self, config: FPTConfig, **asked: Any) -> PreTrainedModel:
        """Build a backbone with new modules on these weights. Raises ValueError for other settings or changed weights.

        `asked`: `dtype`, `attn_implementation` and `device_map`, where the caller named one.
        """
        if fingerprints(self._base.backbone) != self._kept:
            raise ValueError("The weights of this FrozenBase were changed since it was read: read it anew.")
        own = self.config
        has = {"dtype": own.dtype, "attn_implementation": own._attn_implementation, "device_map": None}
        for name, given in asked.items():
            if given is not None and given != has[name]:
                raise ValueError(
                    f"{name}={given!r} came, but models on a FrozenBase have its own, {has[name]!r}: leave it out, or "
                    "give it to FrozenBase.from_pretrained."
                )
        for name, kept in self.settings.items():
            given = getattr(config, name)
            if given != kept and not (name == "backbone_init_scheme" and given is None):
                raise ValueError(
                    f"This FrozenBase was read with {name}={kept!r}, but the model has {given!r}: read one with "
                    f"FrozenBase.from_pretrained(..., {name}={given!r})."
                )
        check_same_architecture(config.base_model_config, own.base_model_config, own.base_model or "a FrozenBase")
        native = config.input.native
        if native != own.input.native and own.base_model_config.model_type in NOT_TEXT:
            raise ValueError(
                f"This FrozenBase was read with native={own.input.native}, but the model has input_type="
                f"{config.input_type!r}: read one with FrozenBase.from_pretrained(..., native={native})."
            )
        backbone = shared_copy(self._base.backbone)
        if config.backbone_dropout != own.backbone_dropout:
            layers, dropout = config.backbone_layers, config.backbone_dropout
            other = backbone_without_weights(config.base_model_config, layers, dropout, native)
            take_numbers(backbone, other)
            for name in [name for name in DROPOUT_FIELDS if name in backbone.config]:
                setattr(backbone.config, name, getattr(other.config, name))
        return backbone
