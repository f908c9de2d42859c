"""Fingerprints of weights: hashes that tell another base, or one that was changed, from the base that was meant."""

import hashlib
from collections import defaultdict
from collections.abc import Iterable, Iterator

import torch
from torch import Tensor, nn

from ..torch_utils.plain_names import named_parameters
from .places import layer_numbers

SAMPLED = 1024  # elements of each tensor that are read
OUTSIDE = -1  # the layer number of a parameter outside the layers
BY_NAME, BY_LAYER = "sampled-sha256", "layered-sha256"  # kinds of fingerprint; deltas of format 0 have the first


def fingerprints(backbone: nn.Module) -> dict[str, str]:
    """Hashes of a backbone's weights, by kind: over shapes, dtypes and a sample of each tensor.

    Tensors of up to 1024 elements are read whole, larger ones only in the middle 1024: one page or two, because
    reading every byte would take longer than loading the model. Fine-tuning of any kind changes sampled elements too,
    but somebody who edits only other elements is not noticed.

    `BY_NAME` includes the parameters' names and order, which transformers may change. `BY_LAYER` does not: it takes
    the parameters of a layer in any order. Raises ValueError for weights that are not in memory (offloaded to disk).
    """
    named = named_parameters(backbone)
    numbers = layer_numbers(backbone, named)
    by_name, layers = hashlib.sha256(), defaultdict(list)
    for name, about, sample in _samples(named.items()):
        by_name.update(f"{name} {about}".encode())
        by_name.update(sample)
        number = OUTSIDE if numbers[name] is None else numbers[name]
        layers[number].append(hashlib.sha256(about.encode() + sample).hexdigest())
    by_layer = hashlib.sha256(repr([(number, sorted(layers[number])) for number in sorted(layers)]).encode())
    return {BY_LAYER: _written(BY_LAYER, by_layer), BY_NAME: _written(BY_NAME, by_name)}


def fingerprint_of(tensors: Iterable[tuple[str, Tensor]]) -> str:
    """A hash of named tensors, computed like the `BY_NAME` fingerprint of a backbone."""
    digest = hashlib.sha256()
    for name, about, sample in _samples(tensors):
        digest.update(f"{name} {about}".encode())
        digest.update(sample)
    return _written(BY_NAME, digest)


@torch.no_grad()
def _samples(tensors: Iterable[tuple[str, Tensor]]) -> Iterator[tuple[str, str, memoryview]]:
    """Yield for each tensor its name, its dtype and shape as text, and the sampled bytes."""
    for name, tensor in tensors:
        if tensor.device.type == "meta":
            raise ValueError(f"The backbone's weights must be in memory, but {name} is offloaded: load it whole.")
        flat = tensor.reshape(-1)
        if flat.numel() > SAMPLED:
            flat = flat.narrow(0, (flat.numel() - SAMPLED) // 2, SAMPLED)
        yield name, f"{tensor.dtype} {tuple(tensor.shape)}", memoryview(flat.cpu().view(torch.uint8).numpy())


def _written(kind: str, digest) -> str:
    return f"{kind}:{digest.hexdigest()[:32]}"
