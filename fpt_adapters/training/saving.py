"""Saving in a training: the delta, gathered if it is sharded, without the base; and errors for a full disk."""

import contextlib
import functools
import os
from collections.abc import Collection, Iterator

from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from transformers import Trainer

from ..deltas.disk import room_for, size_of
from ..models.pretrained import FPTPreTrainedModel
from ..torch_utils.plain_names import named_parameters
from ..torch_utils.sharding import ZERO3_ID

ZERO_MASTER = "_hp_mapping"  # attribute that ZeRO-1 and 2 set on a parameter that they train


def gather(tensor: Tensor) -> Tensor:
    """The whole of a tensor, detached. For a sharded one, all processes must call this, in the same order of tensors.

    For a weight that DeepSpeed trains in half precision, the optimizer's fp32 values are returned (source:
    `deepspeed.utils.safe_get_full_fp32_param`).
    """
    marks = vars(tensor)
    if isinstance(tensor, DTensor):
        return tensor.detach().full_tensor()
    if ZERO_MASTER in marks or (ZERO3_ID in marks and tensor.requires_grad):
        from deepspeed.utils import safe_get_full_fp32_param

        return safe_get_full_fp32_param(tensor).detach()
    if ZERO3_ID in marks:
        from deepspeed import zero

        with zero.GatheredParameters([tensor]):
            return tensor.detach().clone()
    return tensor.detach()


def gather_delta(model: FPTPreTrainedModel) -> dict[str, Tensor]:
    """All tensors of the delta, whole and on the CPU; all processes must call this."""
    return {name: gather(tensor).cpu() for name, tensor in model.delta_tensors().items()}


def room_for_checkpoint(
    model: FPTPreTrainedModel, folder: str | os.PathLike
) -> contextlib.AbstractContextManager[None]:
    """Context manager for writing a checkpoint (delta and Adam's two moments): raise NoSpaceError for a full disk."""
    moments = [parameter for parameter in named_parameters(model).values() if parameter.requires_grad] * 2
    return room_for(folder, size_of([*model.delta_tensors().values(), *moments]))


@contextlib.contextmanager
def missing_keys_of_delta_only(model: FPTPreTrainedModel) -> Iterator[None]:
    """Context manager: `model.load_state_dict()` reports missing tensors of the delta, but not of the base."""
    names = model.delta_tensors().keys()

    def forgive(module: nn.Module, keys) -> None:
        keys.missing_keys[:] = [name for name in keys.missing_keys if name in names]

    hook = model.register_load_state_dict_post_hook(forgive)
    try:
        yield
    finally:
        hook.remove()


def saving_without_base(trainer: Trainer) -> contextlib.AbstractContextManager[None]:
    """Context manager: the files from which Trainer resumes a sharded model are saved without the base.

    DeepSpeed can only leave out all that is frozen, so its files do hold the base if the input or head does not train.
    """
    if not trainer.shards:
        return contextlib.nullcontext()
    parameters, delta = named_parameters(trainer.model), trainer.model.delta_tensors().keys()
    if trainer.is_fsdp_enabled:
        return _state_dict_of_only(trainer.model, delta)
    if all(parameters[name].requires_grad for name in delta if name in parameters):
        return _saving_without_frozen(trainer.model_wrapped)
    return contextlib.nullcontext()


@contextlib.contextmanager
def _state_dict_of_only(model: nn.Module, names: Collection[str]) -> Iterator[None]:
    """Context manager: `model.state_dict()` has only the tensors called `names`."""

    def keep(module: nn.Module, state_dict: dict, prefix: str, metadata: dict) -> None:
        for name in [name for name in state_dict if name.removeprefix(prefix) not in names]:
            del state_dict[name]

    hook = model.register_state_dict_post_hook(keep)
    try:
        yield
    finally:
        hook.remove()


@contextlib.contextmanager
def _saving_without_frozen(engine: nn.Module) -> Iterator[None]:
    """Context manager: DeepSpeed's `engine.save_checkpoint` leaves out the frozen parameters."""
    engine.save_checkpoint = functools.partial(engine.save_checkpoint, exclude_frozen_parameters=True)
    try:
        yield
    finally:
        del engine.save_checkpoint
