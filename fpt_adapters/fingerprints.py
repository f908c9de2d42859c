"""The hash that tells one set of weights from another: a base that is not the one meant, or that was changed."""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from .plain_names import named_parameters

SAMPLED = 1024  # elements that are read of a tensor


def fingerprint(backbone: nn.Module) -> str:
    """A hash of a backbone's weights: names, shapes, dtypes and, of each tensor, a sample.

    Tensors of up to 1024 elements are read whole, of larger ones the 1024 in the middle: one page or two, because
    reading every byte would take longer than loading the model does. Fine-tuning of any kind moves sampled elements
    too. It is no defence against somebody who edits others.

    Raises ValueError for weights that are not in memory (offloaded to disk).
    """
    return fingerprint_of(named_parameters(backbone).items())


@torch.no_grad()
def fingerprint_of(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """As `fingerprint`, of tensors with their names."""
    digest = hashlib.sha256()
    for name, tensor in tensors:
        if tensor.device.type == "meta":
            raise ValueError(f"The backbone's weights must be in memory, but {name} is offloaded: load it whole.")
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.reshape(-1)
        if flat.numel() > SAMPLED:
            flat = flat.narrow(0, (flat.numel() - SAMPLED) // 2, SAMPLED)
        digest.update(flat.cpu().view(torch.uint8).numpy())
    return "sampled-sha256:" + digest.hexdigest()[:32]
