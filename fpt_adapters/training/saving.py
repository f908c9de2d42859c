"""What a training saves: the delta, put together where it is spread over processes, without the base; room for it."""

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

ZERO_MASTER = "_hp_mapping"  # what ZeRO-1 and 2 write on a parameter that they train


def gather(tensor: Tensor) -> Tensor:
    """All of a tensor, detached. Where it is spread over processes, all must call this, in one order of tensors.

    What DeepSpeed trains in half precision has its fp32 values in the optimizer: those are returned (source:
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
    """All tensors of a delta, whole and on the CPU; all processes must call it."""
    return {name: gather(tensor).cpu() for name, tensor in model.delta_tensors().items()}


def room_for_checkpoint(
    model: FPTPreTrainedModel, folder: str | os.PathLike
) -> contextlib.AbstractContextManager[None]:
    """Meanwhile say it where the disk of `folder` becomes full; a checkpoint has the delta and two moments of Adam."""
    moments = [parameter for parameter in named_parameters(model).values() if parameter.requires_grad] * 2
    return room_for(folder, size_of([*model.delta_tensors().values(), *moments]))


@contextlib.contextmanager
def delta_missing_only(model: FPTPreTrainedModel) -> Iterator[None]:
    """Meanwhile `model.load_state_dict()` misses tensors of the delta and no others: files need no base."""
    names = model.delta_tensors().keys()

    def forgive(module: nn.Module, keys) -> None:
        keys.missing_keys[:] = [name for name in keys.missing_keys if name in names]

    hook = model.register_load_state_dict_post_hook(forgive)
    try:
        yield
    finally:
        hook.remove()


def base_left_out(trainer: Trainer) -> contextlib.AbstractContextManager[None]:
    """Meanwhile the files from which Trainer resumes a sharded model are saved without the base.

    DeepSpeed can leave out what is frozen, so that its files hold the base where the input or the head does not train.
    """
    if not trainer.shards:
        return contextlib.nullcontext()
    parameters, delta = named_parameters(trainer.model), trainer.model.delta_tensors().keys()
    if trainer.is_fsdp_enabled:
        return _state_dict_of(trainer.model, delta)
    if all(parameters[name].requires_grad for name in delta if name in parameters):
        return _frozen_left_out(trainer.model_wrapped)
    return contextlib.nullcontext()


@contextlib.contextmanager
def _state_dict_of(model: nn.Module, names: Collection[str]) -> Iterator[None]:
    """Meanwhile `model.state_dict()` has the tensors called `names` and no others."""

    def keep(module: nn.Module, state_dict: dict, prefix: str, metadata: dict) -> None:
        for name in [name for name in state_dict if name.removeprefix(prefix) not in names]:
            del state_dict[name]

    hook = model.register_state_dict_post_hook(keep)
    try:
        yield
    finally:
        hook.remove()


@contextlib.contextmanager
def _frozen_left_out(engine: nn.Module) -> Iterator[None]:
    """Meanwhile DeepSpeed's `engine.save_checkpoint` leaves the frozen parameters out."""
    engine.save_checkpoint = functools.partial(engine.save_checkpoint, exclude_frozen_parameters=True)
    try:
        yield
    finally:
        del engine.save_checkpoint
