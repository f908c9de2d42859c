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

BASE_PLACE = "Give the base's folder, or its Hub id, such as 'openai-community/gpt2'."
# The configuration fields about the frozen weights, which are the same for all models on one base.
SETTLED = ("backbone_init", "backbone_init_seed", "backbone_init_scheme", "backbone_layers", "base_quantization")
NEUTRAL = {"input_type": "values", "input_size": 1, "sequence_length": 1}  # a placeholder input
LONG = 2**16  # samples or tokens of a placeholder


@dataclass(frozen=True)
class FoundBase:
    """A base that was found: where it is, and its own configuration."""

    source: "str | FrozenBase | None"  # None: only a configuration, without weights
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
    """Find a base; on the Hub, at one fixed commit. Raises OSError, and ValueError for a delta."""
    if isinstance(name_or_path, FrozenBase):
        own, given = name_or_path.config, {"base_model": base_model, "revision": revision} | hub_kwargs
        if wrong := [name for name, value in given.items() if value not in (None, False)]:
            raise ValueError(
                f"{wrong[0]} says where a base is read, but a FrozenBase is read already: give it to "
                "FrozenBase.from_pretrained."
            )
        return FoundBase(name_or_path, own.base_model_config, own.base_model, own.base_model_revision)
    if isinstance(name_or_path, PreTrainedConfig):
        return FoundBase(None, name_or_path, base_model, hub_kwargs=hub_kwargs)
    if not isinstance(name_or_path, (str, os.PathLike)):
        raise TypeError(
            "a base is a folder, a Hub id, a FrozenBase or a configuration of transformers; got "
            f"{type(name_or_path).__name__}."
        )
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
    config.base_model_config.name_or_path = found.base_model or ""  # never a local path
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
    """Frozen weights that any number of models share; pass it wherever a base's folder or Hub id is expected.

        base = FrozenBase.from_pretrained("openai-community/gpt2")
        digits = AutoModelForImageClassification.from_pretrained("org/digits", base_model_name_or_path=base)
        letters = AutoModelForImageClassification.from_pretrained("org/letters", base_model_name_or_path=base)

    Each model has its own modules, and its own memory for what it trains; everything else is this one copy, which
    training does not change. Models on one base may be used in several threads at once. (Code that changes a frozen
    weight, such as peft's `merge_adapter`, changes it for all models: the next load then raises ValueError.)
    """

    def __init__(self, base: Base):
        self._base = base
        self._kept = fingerprints(base.backbone)  # of the weights in memory, in the chosen dtype

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
        """Read a base. Arguments as for `from_backbone`; `settings`: its fields for the base, such as `backbone_init`.

        `native`: for models of `input_type="native"`. A text base serves those and all others, whatever it says here;
        one of pictures or sound serves either these or those.

        Raises as `from_backbone` does, and TypeError for a field that does not concern the frozen weights.
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

        `asked`: `dtype`, `attn_implementation` and `device_map`, where the caller named one. A delta that was trained
        in another dtype runs in this base's.
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
