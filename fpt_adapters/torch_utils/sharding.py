"""Telling weights that are sharded over processes from whole ones.

FSDP2 (`fully_shard`) turns a parameter into a DTensor, and each process holds a part of it. DeepSpeed's ZeRO-3 leaves
an empty tensor in its place.
"""

import contextlib
from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor
from transformers.integrations import deepspeed, is_fsdp_enabled

ZERO3_ID, ZERO3_SHAPE = "ds_id", "ds_shape"  # what ZeRO-3 writes on a parameter


def is_sharded(tensor: Tensor) -> bool:
    """Whether a tensor is a shard, or the placeholder of a sharded tensor."""
    return isinstance(tensor, DTensor) or ZERO3_ID in vars(tensor)


def whole_shape(tensor: Tensor) -> torch.Size:
    """The shape that a tensor has when it is not sharded."""
    return vars(tensor).get(ZERO3_SHAPE, tensor.shape)


def refuse_sharded(tensors: Mapping[str, Tensor]) -> None:
    """Raise ValueError for a tensor that is sharded or empty: a part must not be saved as the whole."""
    for name, tensor in tensors.items():
        if is_sharded(tensor) or tensor.numel() == 0:
            raise ValueError(
                f"Only whole tensors are saved, but {name} is spread over processes or empty here: "
                "FPTTrainer.save_model gathers the delta; elsewhere let all processes call "
                "accelerator.get_state_dict(model), and give save_pretrained the result as state_dict."
            )


def written_class(model: nn.Module) -> type:
    """The class that `model` was built from: `fully_shard` gives it a new class with another name."""
    return next(cls for cls in type(model).__mro__ if not issubclass(cls, FSDPModule))


@contextlib.contextmanager
def whole_in_each_process() -> Iterator[None]:
    """Load the whole base in each process, even if ZeRO-3 shards it later: its fingerprint is that of the whole.

    Raises ValueError where FSDP is set to load in one process only.
    """
    if is_fsdp_enabled():
        raise ValueError(
            "Each process loads the whole base, to check its fingerprint, before FSDP shards it, but "
            "fsdp_cpu_ram_efficient_loading is on: write false, as examples/accelerate/fsdp2.yaml does."
        )
    if not deepspeed.is_deepspeed_zero3_enabled():
        yield
        return
    settings = deepspeed._hf_deepspeed_config_weak_ref()
    deepspeed.unset_hf_deepspeed_config()
    try:
        yield
    finally:
        deepspeed.set_hf_deepspeed_config(settings)
