"""`FPTPreTrainedModel`: building on a backbone, the freezing policy, loading and saving the delta.

What the models share; the networks themselves are in modeling_fpt.py.
"""

import copy
import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from huggingface_hub import CommitInfo
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedConfig, PreTrainedModel
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME

from ..adapters.peft_mixin import PeftMixin
from ..backbones.device_maps import DeviceMap
from ..backbones.places import backbone_places, own_place
from ..backbones.policy import apply_policy, backbone_groups
from ..backbones.structure import device_of, frozen_dtype
from ..configuration_fpt import FPTConfig
from ..deltas.errors import DeltaError
from ..deltas.file import Delta, read_delta, read_json, warn_of_edits
from ..deltas.tensors import check_delta, overlay, persistent_buffers, running_statistics, tensor_digest
from ..deltas.writing import write_delta
from ..hub.auto_map import AUTO_MAP
from ..hub.download import HUB_KEYS, commit_of, fetch, saying_whose
from ..hub.sharing import TAGS, Origin, check_shareable, write_code
from ..rules.stock_arguments import (
    IGNORED_LOADING,
    IGNORED_SAVING,
    REFUSED_LOADING,
    REFUSED_SAVING,
    take_stock_arguments,
)
from ..rules.travelling import TRAVELS
from ..torch_utils.plain_names import (
    keep_plain_states,
    named_buffers,
    named_parameters,
    plain_module,
    plain_name,
    plain_state,
)
from ..torch_utils.sharding import refuse_sharded, written_class
from .base import DTYPES
from .loading import load_base

if TYPE_CHECKING:
    from ..adapters.peft_api import PeftConfig
    from ..backbones.counting import GroupCount
    from .frozen_base import FrozenBase

DELTA_PLACE = "Give from_pretrained the delta's folder, or its Hub id."


class FPTPreTrainedModel(PeftMixin, PreTrainedModel):
    """What all models of this library share: building, the freezing policy, saving and loading the delta."""

    config: FPTConfig
    config_class = FPTConfig
    base_model_prefix = "fpt"
    supports_gradient_checkpointing = True
    accepts_loss_kwargs = True  # the loss divides by Trainer's num_items_in_batch
    headless = False  # whether this is the model without a head
    processor: Any = None  # what makes this model's inputs of raw data; travels with it
    card: Any = None  # an `FPTCard`: what the model card says beyond what the model itself knows
    origin: Origin | None = None  # where the delta was loaded from
    trained_groups: dict[str, str]  # of each parameter that the policy trains, by name
    _with_code: bool | None = None
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: FPTConfig):
        super().__init__(config)
        self.register_load_state_dict_pre_hook(_name_places)
        keep_plain_states(self)

    def apply_policy(self) -> None:
        """Have the groups of `config.trainable` train, all else frozen; the outermost constructor ends with this."""
        self.main_input_name = self.fpt_model.input_projection.input_name
        trainable = [group for group in self.config.trainable if not (self.headless and group == "output")]
        if self.config.base_quantization is not None:
            from ..backbones.quantized_layers import settle_biases

            settle_biases(self.fpt_model.backbone)
        parameters = named_parameters(self)
        whose = f"the backbone {type(self.fpt_model.backbone).__name__}"
        groups = self.parameter_groups()
        apply_policy(parameters, groups, trainable, whose)
        if self.fpt_model.shares_base:
            from ..backbones.sharing import own_weights

            own_weights(self.fpt_model.backbone)
        self.trained_groups = {name: groups[name] for name, parameter in parameters.items() if parameter.requires_grad}
        buffers = running_statistics(self)
        self._base_buffer_digests = {name: tensor_digest(buffer) for name, buffer in buffers.items()}
        self._ignore_on_save(self._delta_parameters(parameters))

    def _ignore_on_save(self, saved: Collection[str]) -> None:
        """Tell Trainer which keys a checkpoint lacks on purpose, so that its resume neither warns nor hides others."""
        names = {*named_parameters(self, remove_duplicate=False), *persistent_buffers(self)}
        self._keys_to_ignore_on_save = names.difference(saved)

    def init_weights(self) -> None:
        """Nothing: the backbone arrives with its weights, and new modules draw theirs as they are built."""

    @property
    def fpt_model(self) -> PreTrainedModel:
        """The headless model: `self`, or the one under the head."""
        return self if self.headless else self.fpt

    @property
    def _prefix(self) -> str:
        """What the headless model's parameter names begin with here."""
        return "" if self.headless else self.base_model_prefix + "."

    @property
    def with_code(self) -> bool:
        """Whether the library's code is saved beside the delta, for machines that have transformers alone."""
        return TRAVELS if self._with_code is None else self._with_code

    @with_code.setter
    def with_code(self, value: bool) -> None:
        self._with_code = value

    @property
    def backbone_prefix(self) -> str:
        """What the names of the backbone's parameters begin with here."""
        return self._prefix + "backbone."

    def get_input_embeddings(self) -> nn.Module:
        """The module that turns inputs into embeddings: the new token table, or the input projection."""
        return getattr(self.fpt_model.input_projection, self._embeddings_name)

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Put a module in that place, which `resize_token_embeddings` does; a table's rows are then the vocabulary."""
        setattr(self.fpt_model.input_projection, self._embeddings_name, value)
        if isinstance(value, nn.Embedding):
            self.config.vocab_size = value.num_embeddings

    @property
    def _embeddings_name(self) -> str:
        return self.fpt_model.input_projection.embeddings_name

    # The policy

    def parameter_groups(self) -> dict[str, str]:
        """Group of every parameter by name: one of `PARAMETER_GROUPS`, or other."""
        prefix = self._prefix
        own_positions = self.config.positions == "backbone"
        backbone, qk_norms = self.fpt_model.backbone, self.config.train_qk_norms
        last_attention = "last_attention" in self.config.trainable
        groups = backbone_groups(backbone, own_positions, qk_norms, last_attention, self._adapter_parameters())
        groups = {self.backbone_prefix + name: group for name, group in groups.items()}
        for name in named_parameters(self):
            if name.startswith(f"{prefix}input_projection."):
                groups[name] = "input"
            elif name == f"{prefix}position_embeddings.weight":
                groups[name] = "position"
            elif name not in groups:
                groups[name] = "output"
        return groups

    def count_parameters(self) -> "list[GroupCount]":
        """Tensors, parameters and share of the whole for each group, and whether it trains."""
        from ..backbones.counting import count_by_group

        return count_by_group(self, self.parameter_groups())

    def print_trainable_parameters(self) -> None:
        """Print the table of parameters by group."""
        from ..backbones.counting import format_table

        print(format_table(self.count_parameters()))

    # Activation checkpointing

    def _set_gradient_checkpointing(self, enable: bool = True, **kwargs: Any) -> None:
        """What transformers calls to turn it on or off (no public hook is in all its versions): check it first."""
        if enable:
            from ..backbones.activation_checkpointing import check_checkpointable, trains

            backbone, projection = self.fpt_model.backbone, self.get_input_embeddings()
            check_checkpointable(backbone)
            if trains(backbone) and not trains(projection):
                self.enable_input_require_grads()  # or a reentrant checkpoint gives no gradient to what is inside it
        super()._set_gradient_checkpointing(enable, **kwargs)

    # Attention

    def set_attn_implementation(self, attn_implementation: str | dict[str, str], **kwargs: Any) -> None:
        """As of every transformers model: the backbone decides, and the configuration then says what runs in it.

        `attn_implementation`: a name, or a dict that has it for "base_model_config" or, there being one, for "".
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
        `base_model`: the Hub id that a local folder is a copy of; a path itself is never written into the config, so
        without it a loader must be told `base_model_name_or_path`.
        `revision`, `token`, `cache_dir`, `local_files_only`: for the Hub, as everywhere in transformers.
        `dtype`: to keep the frozen weights in (None: as stored); what trains is fp32.
        `quantization_config`: quantise the frozen linear layers to 8 or 4 bits as they are loaded; bitsandbytes only.
        `device_map`: where the backbone goes as it is loaded, for one that a single device cannot hold: "auto", a
        device, or a dict of module names; not to disk, and not to CPU and accelerators at once.
        `peft_config`: an adapter on frozen layers, trained and saved with the rest: a peft configuration, its settings
        as a dict, or a method's name, such as "lora"; where it names no layers, peft's own for the family.

        Raises ValueError for a backbone that cannot serve or an input that does not fit, TypeError for an unknown
        field, OSError where the backbone cannot be found, ImportError to quantise without bitsandbytes, RuntimeError
        under `torch.device("meta")` or accelerate's `init_empty_weights`.
        """
        from .untrained import untrained_base

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
        instead of the Hub id and commit that the delta names, or a `FrozenBase` that several models share; its weights
        must be the same. `dtype`: to keep the
        frozen weights in (None: as in training). `quantization_config`: how to quantise them (None: as in training;
        False: not at all). `device_map`: as for `from_backbone`. `kwargs`: `revision`, `subfolder`, `token` and the
        like for the delta (of these, only `cache_dir` and `local_files_only` also serve the base), and fields of
        `FPTConfig`; what else transformers' models take is ignored where it changes nothing, or refused by name.

        Raises DeltaError (a ValueError) for a delta or a base that is not the one meant or came damaged; where either
        cannot be found, an OSError that says which of the two (the Hub client's own where there is one); ImportError
        for a quantised base without bitsandbytes; RuntimeError under `torch.device("meta")` or accelerate's
        `init_empty_weights`.
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
        """Put the new modules beside the backbone's inputs and outputs, and tell Trainer of several devices."""
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

    # Saving

    def _delta_parameters(self, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
        """Of this model's `parameters` those that a checkpoint holds: what trains, and all that the base has not."""
        own = self.backbone_prefix
        adapter = {id(parameter) for parameter in self._adapter_parameters()}  # disabled, it does not train
        return {
            name: one
            for name, one in parameters.items()
            if one.requires_grad or not name.startswith(own) or id(one) in adapter
        }

    def delta_tensors(self, state_dict: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """What a checkpoint holds: all that the base cannot give back.

        These are the trained parameters, the new modules' parameters (input, head, new positions) even where they do
        not train, and buffers that training changed. Values come from `state_dict` where given (Trainer passes
        gathered ones). Raises KeyError if one is missing there, ValueError where peft wraps the model or has merged an
        adapter into its base.
        """
        self._refuse_wrapped()
        tensors = self._delta_parameters(named_parameters(self))
        for name, buffer in running_statistics(self).items():
            if tensor_digest(buffer) != self._base_buffer_digests[name]:
                tensors[name] = buffer
        if state_dict is not None:  # gathered in half precision by some back ends, held so by others
            state_dict = plain_state(state_dict)
            dtypes = {name: torch.promote_types(t.dtype, state_dict[name].dtype) for name, t in tensors.items()}
            tensors = {name: state_dict[name].to(dtype) for name, dtype in dtypes.items()}
        return tensors

    def tensor_places(self) -> dict[str, str]:
        """What each parameter, and each buffer that training changes, is called in a delta's file, by name."""
        prefix, groups = self.backbone_prefix, self.parameter_groups()
        groups |= dict.fromkeys(running_statistics(self), "statistics")
        own = {name: own_place(name.removeprefix(self._prefix)) for name in groups if not name.startswith(prefix)}
        within = {name.removeprefix(prefix): group for name, group in groups.items() if name.startswith(prefix)}
        places = backbone_places(self.fpt_model.backbone, within)
        return own | {prefix + name: place for name, place in places.items()}

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        state_dict: Mapping[str, Tensor] | None = None,
        push_to_hub: bool = False,
        max_shard_size: int | str | None = None,
        variant: str | None = None,
        token: str | bool | None = None,
        with_code: bool | None = None,
        **push_kwargs,
    ) -> None:
        """Write `config.json` and `model.safetensors`, which holds exactly `delta_tensors`. No network is needed.

        The tensors are saved in float32, whatever the model was cast to by hand (float64 is rounded, with a warning);
        `config.dtype` becomes the dtype that the frozen weights have then, which a loader gives them again.

        `with_code`: copy the library's code too, for machines without it (None: as the last time; a model that runs
        from a repo's own code keeps carrying it). `push_to_hub`, `token` and `push_kwargs` (`repo_id` ...): also call
        `push_to_hub`. What else callers pass to every model is accepted where it changes nothing, such as
        `max_shard_size` (a delta is always one file), `save_function` and `safe_serialization=True`.

        Raises DeltaError where `save_directory` holds another kind of model, ValueError for a tensor that is empty
        (sharded, and not gathered) or not finite, and for `variant` and `safe_serialization=False`.
        """
        push_kwargs = take_stock_arguments(push_kwargs | {"variant": variant}, IGNORED_SAVING, REFUSED_SAVING)
        if push_kwargs and not push_to_hub:
            raise TypeError(
                f"save_pretrained does not know {', '.join(sorted(push_kwargs))} without push_to_hub=True."
            )
        if with_code is not None:
            self.with_code = with_code
        if is_main_process:
            write_delta(save_directory, self.config, self._to_write(state_dict))
            if self.with_code:
                write_code(save_directory, self.config)
        if push_to_hub:
            repo_id = push_kwargs.pop("repo_id", Path(save_directory).name)
            self.push_to_hub(repo_id, token=token, **push_kwargs)

    def delta_bytes(self, state_dict: Mapping[str, Tensor] | None = None) -> int:
        """How large the `model.safetensors` is that `save_pretrained` would write. Raises ValueError as that does."""
        from ..deltas.size import delta_bytes

        return delta_bytes(self.config, self._to_write(state_dict))

    def _to_write(self, state_dict: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """The delta's tensors by place, checked; the configuration then says what belongs to them."""
        tensors = self.delta_tensors(state_dict)
        refuse_sharded(tensors)
        infinite = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
        if infinite:
            raise ValueError(f"{infinite[0]} is not finite: training diverged, and nothing was saved.")
        self._ignore_on_save(tensors)
        if state_dict is None or len(state_dict) > len(tensors):  # back ends that cast as they train give no more
            self.note_dtype()
        self.config.architectures = [written_class(self).__name__]
        vars(self.config).pop("auto_map", None)
        if self.with_code:
            self.config.auto_map = dict(AUTO_MAP)
        places = self.tensor_places()
        return {places[name]: tensor for name, tensor in tensors.items()}

    def note_dtype(self) -> None:
        """Write into the configuration the dtype that the frozen weights have now: `half()` may have cast them."""
        dtype = frozen_dtype(self.fpt_model.backbone)
        if self.config.base_quantization is None:
            self.config.dtype = dtype if dtype in DTYPES.values() else torch.float32

    def save_backbone(self, save_directory: str | os.PathLike, is_main_process: bool = True) -> None:
        """Write the backbone as an ordinary transformers checkpoint, with its present weights: a base for new deltas.

        `save_directory`, a new or empty folder, gets `config.json`, the base's own configuration, and weights in
        float32, which `from_backbone` and transformers' Auto classes load (for T5: AutoModelForTextEncoding). What the
        backbone does not use here has no trained value: positions beyond this model's tokens are drawn from N(0,
        initializer_range) with a fixed seed, a pooler is left out, token embeddings are as they came. An adapter is
        merged into the layers it is on. Input projection, head and positions of `positions="new"` are not the
        backbone's and are left to `save_pretrained`.

        Raises ValueError for a folder that holds something, weights that are empty (sharded, and not gathered) or not
        finite, and a backbone that is a part of a model (an image model's layers, BART's encoder).
        """
        from .saved_backbone import write_backbone

        if is_main_process:
            write_backbone(plain_module(self.fpt_model.backbone), self.config, save_directory)

    def push_to_hub(
        self,
        repo_id: str,
        *,
        commit_message: str = "Upload delta",
        commit_description: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        revision: str | None = None,
        create_pr: bool = False,
        with_code: bool | None = None,
        max_shard_size: int | str | None = None,
        tags: list[str] | None = None,
    ) -> CommitInfo:
        """Upload configuration, delta, processor and card with its pictures to a Hub repo, in one commit.

        The repo is made if missing. `with_code` and `max_shard_size`: as for `save_pretrained`; `tags`: for the card;
        the others are those of every transformers model. Processor and card are `self.processor` and `self.card`
        (FPTTrainer sets both), or those that lay beside the delta this model was loaded from. A model that runs from a
        repo's own code uploads configuration, delta and code, and transformers' own card.

        Raises ValueError, before anything is sent, for a base that has no Hub id; the Hub client's errors.
        """
        check_shareable(self.config)
        if with_code is not None:
            self.with_code = with_code
        commit = {
            "commit_message": commit_message,
            "commit_description": commit_description,
            "private": private,
            "token": token,
            "revision": revision,
            "create_pr": create_pr,
        }
        if TRAVELS:
            return super().push_to_hub(repo_id, tags=[*TAGS, *(tags or ())], **commit)
        from ..hub.repository import push

        return push(self, repo_id, tags, **commit)


def _name_places(model: FPTPreTrainedModel, state_dict: dict[str, Tensor], prefix: str, *_) -> None:
    """Before `load_state_dict`: give the tensors of a delta's file, as Trainer reads one, their names in the model."""
    known = {*named_parameters(model, remove_duplicate=False), *named_buffers(model)}
    others = [
        key for key in state_dict if key.startswith(prefix) and plain_name(key.removeprefix(prefix)) not in known
    ]
    names = {place: name for name, place in model.tensor_places().items()} if others else {}
    for key in others:
        place = key.removeprefix(prefix)
        state_dict[prefix + names.get(place, place)] = state_dict.pop(key)
