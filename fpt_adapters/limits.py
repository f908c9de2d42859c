"""Limits: a configuration may ask for more than there is, and is refused while its model is still on the meta device.

For a random backbone the limit is this machine's memory, for a pretrained one the size of its files.
"""

import contextlib
import functools
import os
from collections.abc import Callable, Iterator

import torch
from torch import nn
from torch.nn.modules.module import (
    register_module_buffer_registration_hook,
    register_module_module_registration_hook,
    register_module_parameter_registration_hook,
)

MEMORY = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") if hasattr(os, "sysconf") else 2**40  # bytes
MAX_MODULES = 2**13  # twice what any model of transformers has; each takes time to build, however small it is


@contextlib.contextmanager
def no_larger_than(most: Callable[[], int], what: str) -> Iterator[None]:
    """Raise ValueError as soon as what is built on the meta device in the block has more than `most()` bytes."""
    built = {"bytes": 0, "modules": 0}
    most = functools.cache(most)

    def add_bytes(module: nn.Module, name: str, tensor: torch.Tensor | None) -> None:
        if tensor is not None and tensor.is_meta:
            built["bytes"] += tensor.numel() * tensor.element_size()
            if built["bytes"] > most():
                raise ValueError(
                    f"{type(module).__name__}.{name} of shape {tuple(tensor.shape)} makes the backbone larger than "
                    f"{what}, {most()} bytes: its base_model_config asks for too much."
                )

    def add_module(module: nn.Module, name: str, child: nn.Module | None) -> None:
        built["modules"] += 1
        if built["modules"] > MAX_MODULES:
            raise ValueError(f"The backbone has over {MAX_MODULES} modules: its base_model_config asks for too much.")

    hooks = [
        register_module_parameter_registration_hook(add_bytes),
        register_module_buffer_registration_hook(add_bytes),
        register_module_module_registration_hook(add_module),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
