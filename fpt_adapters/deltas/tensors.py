"""The tensors of a delta: storing and hashing them, checking them against a model, and loading them into it."""

import hashlib
import os
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from transformers.utils import logging

from ..torch_utils.plain_names import named_buffers, named_modules, plain_state
from ..torch_utils.sharding import whole_shape
from .errors import DeltaError

logger = logging.get_logger(__name__)

DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # earlier versions saved some models in half precision
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
NAMES_SHOWN = 4


def tensor_digest(tensor: Tensor) -> str:
    """16 hex digits: a hash of a tensor's bytes."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy()).hexdigest()[:16]


def persistent_buffers(model: nn.Module) -> dict[str, Tensor]:
    """The floating-point buffers in a model's state dict (a batch norm's running statistics), by name."""
    floating = {name for name, buffer in named_buffers(model).items() if buffer.is_floating_point()}
    if not floating:  # most backbones; a state dict is slow to make
        return {}
    return {name: tensor for name, tensor in plain_state(model.state_dict()).items() if name in floating}


def running_statistics(model: nn.Module) -> dict[str, Tensor]:
    """The buffers that training changes: a batch norm's. Others, such as the bias that chooses experts, are frozen."""
    norms = {name: module for name, module in named_modules(model).items() if isinstance(module, BATCH_NORMS)}
    buffers = ((f"{path}.{name}", b) for path, norm in norms.items() for name, b in norm.named_buffers(recurse=False))
    return {name: buffer for name, buffer in buffers if buffer.is_floating_point()}


def as_stored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as a delta stores them: sorted by name, on the CPU, in float32. Warns if that rounds any (float64)."""
    wide = [name for name, tensor in tensors.items() if tensor.dtype == torch.float64]
    if wide:
        logger.warning(f"{wide[0]} is of torch.float64 ({len(wide)} tensors in all): a delta keeps them in float32.")
    return {name: tensors[name].detach().to("cpu", torch.float32).contiguous() for name in sorted(tensors)}


def check_delta(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    optional: Mapping[str, Tensor],
    source: str | os.PathLike,
) -> None:
    """Check a delta against the tensors that the model trains. Raises DeltaError, naming what differs.

    `optional`: tensors that may be missing (running statistics, saved only if training changed them).
    """
    missing = [name for name in expected if name not in tensors]
    unexpected = sorted(set(tensors) - set(expected) - set(optional))
    if missing:
        raise DeltaError(f"{source} lacks {listed(missing)}, which this model trains: it belongs to another model.")
    if unexpected:
        raise DeltaError(f"{source} has {listed(unexpected)}, which this model does not train (see `trainable`).")
    places = {**expected, **optional}
    for name, tensor in tensors.items():
        got, wanted = tuple(tensor.shape), tuple(whole_shape(places[name]))
        if got != wanted:
            raise DeltaError(f"{source}: {name} has shape {got}, but this model needs {wanted}.")
        if tensor.dtype not in DTYPES:
            raise DeltaError(f"{source}: {name} is of {tensor.dtype}, but a delta is of torch.float32.")
        if not torch.isfinite(tensor).all():
            raise DeltaError(f"{source}: {name} is not finite, but this library saves only finite values.")


@torch.no_grad()
def overlay(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Load checked tensors into the parameters and buffers of the same names.

    A parameter with values is filled in place, so that tied parameters follow; one on the meta device is replaced.
    """
    for name, tensor in tensors.items():
        owner_name, _, leaf = name.rpartition(".")
        owner = model.get_submodule(owner_name)
        place = getattr(owner, leaf)
        if place.is_meta:
            setattr(owner, leaf, nn.Parameter(tensor.to(place.dtype), requires_grad=place.requires_grad))
        else:
            place.copy_(tensor)


def listed(names: list[str]) -> str:
    """Word a list: its first names, and how many more there are."""
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(f"{name:.200}" for name in names[:NAMES_SHOWN]) + more
