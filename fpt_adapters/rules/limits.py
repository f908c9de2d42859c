"""Limits on the size of a model: one that asks for too much is refused while it is still on the meta device.

For a pretrained backbone the limit is the size of its files; for a random one it is this machine's memory, and the
size of the largest models of its width, so that a small delta cannot ask for a huge random backbone.
"""

import os
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

MEMORY = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 2**40  # bytes
# Numbers in a random backbone, by powers of its width: twice what the layers of the largest mixtures of experts have
# (DeepSeek-V3: 13,000 times the square), and tables of so many rows.
PER_SQUARE, PER_WIDTH = 2**15, 2**18
MAX_TENSORS = 2**13  # twice the number in any transformers model; each takes time, however small it is


def most_of_random(width: int) -> "NoLargerThan":
    """The limit for a random backbone whose hidden states have `width` numbers."""
    most = 4 * (PER_SQUARE * width**2 + PER_WIDTH * width)  # bytes in fp32
    if most < MEMORY:
        return NoLargerThan(most, f"any model of width {width}")
    return NoLargerThan(MEMORY, "this machine's memory")


class NoLargerThan(TorchDispatchMode):
    """Context manager: raise ValueError as soon as this thread has made more than `most` bytes on the meta device.

    `what`: the limit's name in the message. Other threads are not counted.
    """

    def __init__(self, most: int, what: str):
        super().__init__()
        self._most = most
        self._what = what
        self._bytes = self._tensors = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor) and made.is_meta and not any(each.alias_info for each in func._schema.returns):
            self._add(made)
        return made

    def _add(self, tensor: Tensor) -> None:
        self._bytes += tensor.numel() * tensor.element_size()
        self._tensors += 1
        if self._bytes > self._most:
            raise ValueError(
                f"A tensor of shape {tuple(tensor.shape)} makes the backbone larger than {self._what}, {self._most} "
                "bytes: its base_model_config asks for too much."
            )
        if self._tensors > MAX_TENSORS:
            raise ValueError(f"The backbone has over {MAX_TENSORS} tensors: its base_model_config asks for too much.")
