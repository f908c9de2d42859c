"""`FPTPreTrainedModel`, the base class of all models: building on a backbone, and loading a delta.

The freezing policy and saving are mixins; the networks themselves are in modeling_fpt.py.
"""

import copy
import os
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME

from ..adapters.peft_mixin import PeftMixin
from ..backbones.device_maps import DeviceMap
from ..backbones.structure import device_of
from ..configuration_fpt import FPTConfig
from ..deltas.errors import DeltaError
from ..deltas.file import Delta, read_delta, read_json, warn_of_edits
from ..deltas.tensors import check_delta, overlay, running_statistics
from ..hub.download import HUB_KEYS, commit_of, fetch, saying_whose
from ..hub.sharing import Origin
from ..rules.stock_arguments import (
    IGNORED_LOADING,
    REFUSED_LOADING,
    take_stock_arguments,
)
from ..torch_utils.plain_names import (
    keep_plain_states,
    named_buffers,
    named_parameters,
    plain_name,
)
from .loading import load_base
from .policy_mixin import PolicyMixin
from .saving_mixin import SavingMixin

if TYPE_CHECKING:
    from ..adapters.peft_api import PeftConfig
    from .frozen_base import FrozenBase

DELTA_PLACE = "Give from_pretrained the delta's folder, or its Hub id."


class FPTPreTrainedModel(PolicyMixin, SavingMixin, PeftMixin, PreTrainedModel):
    """The base class of all models of this library: building, the freezing policy, saving and loading the delta."""

    config: FPTConfig
    config_class = FPTConfig
    base_model_prefix = "fpt"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True  # the loss divides by Trainer's num_items_in_batch
    headless = False  # whether this is the model without a head
    processor: Any = None  # makes this model's inputs from raw data; pushed with it
    card: Any = None  # an `FPTCard`: facts for the model card that the model itself does not know
    origin: Origin | None = None  # where the delta was loaded from
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: FPTConfig):
        super().__init__(config)
        self.register_load_state_dict_pre_hook(_name_places)
        keep_plain_states(self)

    def init_weights(self) -> None:
        """Do nothing: the backbone has its weights already, and new modules draw theirs when they are built."""

    @property
    def fpt_model(self) -> PreTrainedModel:
        """The model without its head: `self`, or `self.fpt`."""
        return self if self.headless else self.fpt

    @property
    def _prefix(self) -> str:
        """The prefix of the headless model's parameter names in this model."""
        return "" if self.headless else self.base_model_prefix + "."

    @property
    def backbone_prefix(self) -> str:
        """The prefix of the backbone's parameter names in this model."""
        return self._prefix + "backbone."

    def get_input_embeddings(self) -> nn.Module:
        """The module that turns inputs into embeddings: a new token table, the input projection, or the base's own."""
        if self.config.input.native:
            return self.fpt_model.backbone.get_input_embeddings()
        return getattr(self.fpt_model.input_projection, self._embeddings_name)

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace that module, as `resize_token_embeddings` does; a table's rows then become `vocab_size`."""
        if self.config.input.native:
            raise ValueError(
                "Native input has the base's own embeddings: resize and save the base, and build on that."
            )
        setattr(self.fpt_model.input_projection, self._embeddings_name, value)
        if isinstance(value, nn.Embedding):
            self.config.vocab_size = value.num_embeddings

    @property
    def _embeddings_name(self) -> str:
        return self.fpt_model.input_projection.embeddings_name

    # Activation checkpointing

    def _set_gradient_checkpointing(self, enable: bool = True, **kwargs: Any) -> None:
        """Check that checkpointing is possible, then turn it on or off (transformers has no public hook for it)."""
        if enable:
            from ..backbones.activation_checkpointing import check_checkpointable, trains

            backbone, projection = self.fpt_model.backbone, self.fpt_model.input_projection
            check_checkpointable(backbone)
            if trains(backbone) and not trains(projection):
                self.enable_input_require_grads()  # else a reentrant checkpoint gives no gradient to its inside
        super()._set_gradient_checkpointing(enable, **kwargs)

    # Attention

    def set_attn_implementation(self, attn_implementation: str | dict[str, str], **kwargs: Any) -> None:
        """Set the backbone's attention; the configuration then names the one that runs.

        `attn_implementation`: a name, or a dict with a name for "base_model_config" or for "".
        """
        if isinstance(attn_implementation, dict):
            named = attn_implementation.get("", self.config._attn_implementation)
            attn_implementation = attn_implementation.get("base_model_config", named)
        backbone = self.fpt_model.backbone
        backbone.set_attn_implementation(attn_implementation, **kwargs)
        self.config._attn_implementation = backbone.config._attn_implementation

    # Building

    @classmethod
    def from_backbone(
        cls,
        name_or_path: "str | os.PathLike | FrozenBase | PreTrainedConfig",
        config: FPTConfig | None = None,
        *,
        base_model: str | None = None,
        revision: str | None = None,
        token: str | bool | None = None,
        cache_dir: str | os.PathLike | None = None,
        local_files_only: bool = False,
        dtype: torch.dtype | str | None = None,
        attn_implementation: str | None = None,
        quantization_config: BitsAndBytesConfig | dict[str, Any] | None = None,
        device_map: DeviceMap | None = None,
        peft_config: "PeftConfig | dict[str, Any] | str | None" = None,
        **fields,
    ):
        """Build an untrained model on a backbone.

        `name_or_path`: a Hub id, a local folder, a `FrozenBase` that models share, or (for `backbone_init="random"`) a
        transformers configuration.
        `config` or `fields`: an `FPTConfig` (copied), or its fields, such as `input_type="images"`.
        `base_model`: the Hub id that a local folder is a copy of; paths are never written into the config, so without
        it `base_model_name_or_path` is needed to load the delta.
        `revision`, `token`, `cache_dir`, `local_files_only`: for the Hub, as everywhere in transformers.
        `dtype`: of the frozen weights (None: as stored); what trains is fp32.
        `quantization_config`: quantise the frozen linear layers to 8 or 4 bits as they are loaded; bitsandbytes only.
        `device_map`: where the backbone is loaded, for one that a single device cannot hold: "auto", a device, or a
        dict of module names; not on disk, and not on CPU and accelerators at once.
        `peft_config`: an adapter on frozen layers, trained and saved with the rest: a peft configuration, its settings
        as a dict, or a method's name, such as "lora"; if it names no layers, peft's defaults for the family.

        For `input_type="native"` the tokenizer or processor that lies beside the base becomes the model's `processor`.

        Raises ValueError for a model that cannot be a backbone or an input that does not fit, TypeError for an unknown
        field, OSError if the backbone cannot be found, ImportError to quantise without bitsandbytes, RuntimeError
        under `torch.device("meta")` or accelerate's `init_empty_weights`.
        """
        from .untrained import untrained_base

        if config is None:
            fields = cls.head_type.implied | fields
        base = untrained_base(
            name_or_path,
            config,
            fields,
            base_model=base_model,
            revision=revision,
            token=token,
            cache_dir=cache_dir,
            local_files_only=local_files_only,
            dtype=dtype,
            attn_implementation=attn_implementation,
            quantization_config=quantization_config,
            device_map=device_map,
            peft_config=peft_config,
        )
        model = cls(base.config, base)
        model.processor = base.processor
        model._join_devices()
        return model

    @classmethod
    def from_pretrained(
        cls,
        pretrained_model_name_or_path: str | os.PathLike,
        *,
        config: FPTConfig | None = None,
        base_model_name_or_path: "str | os.PathLike | FrozenBase | None" = None,
        dtype: torch.dtype | str | None = None,
        attn_implementation: str | None = None,
        quantization_config: BitsAndBytesConfig | dict[str, Any] | Literal[False] | None = None,
        device_map: DeviceMap | None = None,
        output_loading_info: bool = False,
        **kwargs,
    ):
        """Load base and delta, checked: the base's fingerprint, and every tensor of the delta.

        `pretrained_model_name_or_path`: the delta's folder or Hub id. `base_model_name_or_path`: where the base is,
        instead of the Hub id and commit that the delta names, or a `FrozenBase` that several models share; it must
        have the same weights. `dtype`: of the frozen weights (None: as in training). `quantization_config`: how to
        quantise them (None: as in training; False: not at all). `device_map`: as for `from_backbone`. `kwargs`:
        `revision`, `subfolder`, `token` and the like for the delta (only `cache_dir` and `local_files_only` are also
        used for the base), and fields of `FPTConfig`. Other arguments of transformers' models are ignored if they
        change nothing here, else refused by name.

        Raises DeltaError (a ValueError) for a wrong or damaged delta or base; an OSError that says which of the two
        cannot be found (the Hub client's own if there is one); ImportError for a quantised base without bitsandbytes;
        RuntimeError under `torch.device("meta")` or accelerate's `init_empty_weights`.
        """
        kwargs = take_stock_arguments(kwargs, IGNORED_LOADING, REFUSED_LOADING)
        dtype = kwargs.pop("torch_dtype", None) if dtype is None else dtype
        hub_kwargs = {key: kwargs.pop(key, None) for key in HUB_KEYS}
        hub_kwargs = {key: value for key, value in hub_kwargs.items() if value is not None}
        source = os.fspath(pretrained_model_name_or_path)
        with saying_whose(source, f"the delta {source!r}, not its base", DELTA_PLACE):
            config_file = fetch(source, CONFIG_NAME, **hub_kwargs)
            if not os.path.isdir(source):  # so that both files are of one commit
                hub_kwargs["revision"] = commit_of(config_file)
            delta_file = fetch(source, SAFE_WEIGHTS_NAME, **hub_kwargs)
        kind = read_json(config_file).get("model_type")
        if kind not in (None, FPTConfig.model_type):
            raise DeltaError(
                f"{source!r} holds no delta, but a model of type {kind!r:.60}: from_backbone builds on it."
            )
        delta = read_delta(delta_file, config_file)  # before the base, which is large
        if config is None:
            config, kwargs = FPTConfig.from_dict(delta.values, return_unused_kwargs=True, **kwargs)
        elif config.name_or_path == source:
            config = config.carried_over(delta.values)
        warn_of_edits(config_file, delta_file, delta.values)
        if kwargs:
            raise TypeError(f"from_pretrained does not know {', '.join(sorted(kwargs))}.")
        config = copy.deepcopy(config)
        if quantization_config is not None:
            config.base_quantization = None
        if quantization_config:
            from ..rules.quantization import settings_of

            config.base_quantization = settings_of(quantization_config)
        config.check()
        base = load_base(config, base_model_name_or_path, dtype, attn_implementation, hub_kwargs, device_map)
        with torch.device("meta"):  # nothing is drawn for the new modules: the delta fills them all
            model = cls(base.config, base)
        model._load_delta(delta, delta_file)
        model._join_devices()
        model.name_or_path = model.config.name_or_path = source
        model.origin = Origin(source, hub_kwargs)
        model.eval()
        if output_loading_info:
            return model, {"missing_keys": set(), "unexpected_keys": set(), "mismatched_keys": set(), "error_msgs": []}
        return model

    def _join_devices(self) -> None:
        """Move the new modules to the backbone's device, and set `hf_device_map` for Trainer if there are several."""
        backbone, prefix = self.fpt_model.backbone, self.backbone_prefix
        parameters, device = named_parameters(self), device_of(backbone)
        for name, parameter in parameters.items():
            if not name.startswith(prefix):
                parameter.data = parameter.data.to(device)
        if len({parameter.device for parameter in parameters.values()}) > 1:
            self.hf_device_map = {name: parameter.device for name, parameter in parameters.items()}

    def _load_delta(self, delta: Delta, file: str | os.PathLike) -> None:
        headless = delta.without_head()
        if self.headless:
            delta = headless
        elif delta.tensors.keys() == headless.tensors.keys():
            raise DeltaError(f"{file} holds an FPTModel without a head: load it with AutoModel.")
        tensors = delta.by_name(self.tensor_places(), file)
        parameters, buffers = named_parameters(self), running_statistics(self)
        check_delta(tensors, self._delta_parameters(parameters), buffers, file)
        overlay(self, tensors)


def _name_places(model: FPTPreTrainedModel, state_dict: dict[str, Tensor], prefix: str, *_) -> None:
    """A pre-hook of `load_state_dict`: rename a delta file's tensors, which Trainer reads, to names in the model."""
    known = {*named_parameters(model, remove_duplicate=False), *named_buffers(model)}
    others = [
        key for key in state_dict if key.startswith(prefix) and plain_name(key.removeprefix(prefix)) not in known
    ]
    names = {place: name for name, place in model.tensor_places().items()} if others else {}
    for key in others:
        place = key.removeprefix(prefix)
        state_dict[prefix + names.get(place, place)] = state_dict.pop(key)
