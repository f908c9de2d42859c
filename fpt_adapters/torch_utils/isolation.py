"""Random numbers and a default dtype for one thread only, so that what it builds changes nothing for the others.

torch's generators and default dtype belong to the whole process; the modes below to the thread that enters them.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

FLOATING = (torch.empty, torch.zeros, torch.ones, torch.rand, torch.randn, torch.linspace, torch.logspace, torch.eye)
BY_VALUE = (torch.tensor, torch.full, torch.arange)  # floating if the values given are
GENERATOR_OVERLOADS = {"default": "generator", "low": "low_generator"}  # of operators like randn and randint
LIKE = {torch.ops.aten.rand_like: torch.ops.aten.uniform_, torch.ops.aten.randn_like: torch.ops.aten.normal_}


class DrawsFrom(TorchDispatchMode):
    """Context manager: this thread draws from generators of its own, seeded with `seed`, one for each device.

    The numbers are those that follow `torch.manual_seed(seed)`. Nothing is drawn for tensors on the meta device, where
    torch would spend more time on it than reading the weights takes.
    """

    def __init__(self, seed: int):
        super().__init__()
        self._seed = seed
        self._generators: dict[torch.device, torch.Generator] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if torch.Tag.nondeterministic_seeded not in func.tags or kwargs.get("generator") is not None:
            return func(*args, **kwargs)
        filled = args[0] if args and isinstance(args[0], Tensor) else None
        device = filled.device if filled is not None else torch.device(kwargs.get("device") or "cpu")
        if device.type == "meta":
            return args[0] if torch.Tag.inplace in func.tags else func(*args, **kwargs)
        if func.overloadpacket in LIKE:
            return LIKE[func.overloadpacket](torch.empty_like(*args, **kwargs), generator=self._generator(device))
        return _taking_a_generator(func)(*args, **kwargs, generator=self._generator(device))

    def _generator(self, device: torch.device) -> torch.Generator:
        if device not in self._generators:
            self._generators[device] = torch.Generator(device).manual_seed(self._seed)
        return self._generators[device]


def _taking_a_generator(func: Any) -> Any:
    if any(argument.name == "generator" for argument in func._schema.arguments):
        return func
    return getattr(func.overloadpacket, GENERATOR_OVERLOADS[func._overloadname])


class DefaultDtype(TorchFunctionMode):
    """Context manager: floating tensors that this thread makes have `dtype` where the call names none.

    As after `torch.set_default_dtype(dtype)`, except that quotients of whole numbers keep the process's default.
    """

    def __init__(self, dtype: torch.dtype):
        super().__init__()
        self._dtype = dtype

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        kwargs = kwargs or {}
        if kwargs.get("dtype") is None and (func in FLOATING or (func in BY_VALUE and _is_floating(args, kwargs))):
            kwargs = kwargs | {"dtype": self._dtype}
        return func(*args, **kwargs)


def _is_floating(args: tuple, kwargs: dict[str, Any]) -> bool:
    values = [*args, *kwargs.values()]
    while any(isinstance(value, (list, tuple)) for value in values):
        values = [each for value in values for each in (value if isinstance(value, (list, tuple)) else [value])]
    return any(isinstance(value, float) for value in values)
