"""Saving a model as its delta, and pushing it."""

import os
from collections.abc import Collection, Mapping
from pathlib import Path

import torch
from huggingface_hub import CommitInfo
from torch import Tensor, nn

from ..backbones.structure import frozen_dtype
from ..deltas.tensors import persistent_buffers, running_statistics, tensor_digest
from ..deltas.writing import write_delta
from ..hub.auto_map import auto_map
from ..hub.sharing import TAGS, check_shareable, write_code
from ..rules.stock_arguments import IGNORED_SAVING, REFUSED_SAVING, take_stock_arguments
from ..rules.travelling import TRAVELS
from ..torch_utils.plain_names import named_parameters, plain_module, plain_state
from ..torch_utils.sharding import refuse_sharded, written_class
from .base import DTYPES
from .consistency import refuse_other_fields, refuse_outside_policy


class SavingMixin:
    """The methods of `FPTPreTrainedModel` that save and push."""

    _with_code: bool | None = None

    @property
    def with_code(self) -> bool:
        """Whether the library's code is saved beside the delta, for machines that have only transformers."""
        return TRAVELS if self._with_code is None else self._with_code

    @with_code.setter
    def with_code(self, value: bool) -> None:
        self._with_code = value

    def _ignore_on_save(self, saved: Collection[str]) -> None:
        """Tell Trainer which keys a checkpoint lacks on purpose, so that it warns only of others when it resumes."""
        names = {*named_parameters(self, remove_duplicate=False), *persistent_buffers(self)}
        self._keys_to_ignore_on_save = names.difference(saved)

    def _delta_parameters(self, parameters: dict[str, nn.Parameter]) -> dict[str, Tensor]:
        """Return those of `parameters` that a checkpoint holds: the policy's, and what the base does not have.

        Those that somebody froze by hand are among them: their values may differ from the base's.
        """
        own, held = self.backbone_prefix, vars(self).get("trained_groups")  # a model under a head has no policy
        adapter = {id(parameter) for parameter in self._adapter_parameters()}  # disabled, it does not train
        return {
            name: one
            for name, one in parameters.items()
            if (one.requires_grad if held is None else name in held) or not name.startswith(own) or id(one) in adapter
        }

    def delta_tensors(self, state_dict: Mapping[str, Tensor] | None = None) -> dict[str, Tensor]:
        """The tensors of a checkpoint, by name: everything that cannot be taken from the base.

        These are the trained parameters, the new modules' parameters (input, head, new positions) even if they do not
        train, and buffers that training changed. Values come from `state_dict` if given (Trainer passes gathered
        ones). Raises KeyError if one is missing there, ValueError if peft wraps the model or has merged an adapter
        into its base.
        """
        self._refuse_wrapped()
        if not TRAVELS:
            refuse_outside_policy(self)
        tensors = self._delta_parameters(named_parameters(self))
        for name, buffer in running_statistics(self).items():
            if tensor_digest(buffer) != self._base_buffer_digests[name]:
                tensors[name] = buffer
        if state_dict is not None:  # some back ends gather, and some hold, the values in half precision
            state_dict = plain_state(state_dict)
            dtypes = {name: torch.promote_types(t.dtype, state_dict[name].dtype) for name, t in tensors.items()}
            tensors = {name: state_dict[name].to(dtype) for name, dtype in dtypes.items()}
        return tensors

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

        The tensors are saved in float32, whatever dtype the model was cast to (float64 is rounded, with a warning);
        `config.dtype` becomes the present dtype of the frozen weights, which loading restores.

        `with_code`: save the library's code too, for machines without it (None: as the last time; a model that runs
        from a repo's own code always saves it). `push_to_hub`, `token` and `push_kwargs` (`repo_id` ...): also call
        `push_to_hub`. Other arguments that transformers' models take are accepted if they change nothing, such as
        `max_shard_size` (a delta is always one file), `save_function` and `safe_serialization=True`.

        Raises DeltaError if `save_directory` holds another kind of model, ValueError for a tensor that is empty
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
        """Return the bytes that `save_pretrained` would write as `model.safetensors`; raises as it does."""
        from ..deltas.size import delta_bytes

        return delta_bytes(self.config, self._to_write(state_dict))

    def _to_write(self, state_dict: Mapping[str, Tensor] | None) -> dict[str, Tensor]:
        """Return the delta's checked tensors by place, and note in the configuration what belongs to them."""
        if not TRAVELS:
            refuse_other_fields(self)
        tensors = self.delta_tensors(state_dict)
        refuse_sharded(tensors)
        infinite = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
        if infinite:
            raise ValueError(f"{infinite[0]} is not finite: training diverged, and nothing was saved.")
        self._ignore_on_save(tensors)
        if state_dict is None or len(state_dict) > len(tensors):  # back ends that cast the base give no more
            self.note_dtype()
        self.config.architectures = [written_class(self).__name__]
        vars(self.config).pop("auto_map", None)
        if self.with_code:
            self.config.auto_map = auto_map(self.config)
        places = self.tensor_places()
        return {places[name]: tensor for name, tensor in tensors.items()}

    def note_dtype(self) -> None:
        """Write the frozen weights' present dtype into the configuration, because `half()` may have cast them."""
        dtype = frozen_dtype(self.fpt_model.backbone)
        if self.config.base_quantization is None:
            self.config.dtype = dtype if dtype in DTYPES.values() else torch.float32

    def save_backbone(self, save_directory: str | os.PathLike, is_main_process: bool = True) -> None:
        """Save the backbone with its present weights as an ordinary transformers checkpoint: a base for new deltas.

        `save_directory`, a new or empty folder, gets `config.json`, the base's own configuration, and weights in
        float32, which `from_backbone` and transformers' Auto classes load (for T5: AutoModelForTextEncoding). Parts
        that the backbone does not use here have no trained values: positions beyond this model's tokens are drawn from
        N(0, initializer_range) with a fixed seed, a pooler is left out, token embeddings are the base's. An adapter is
        merged into its layers. Input projection, head and new positions (`positions="new"`) are not part of the
        backbone; `save_pretrained` saves them.

        Raises ValueError for a folder that is not empty, weights that are empty (sharded, and not gathered) or not
        finite, and a backbone that is only a part of a model (an image model's layers, BART's encoder).
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

        The repo is created if it is missing. `with_code` and `max_shard_size`: as for `save_pretrained`; `tags`: for
        the card; the others as for every transformers model. Processor and card are `self.processor` and `self.card`
        (FPTTrainer sets both), or those beside the delta that this model was loaded from. A model that runs from a
        repo's own code uploads configuration, delta and code, and transformers' own card.

        Raises ValueError, before anything is sent, if the base has no Hub id, and the Hub client's errors.
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
