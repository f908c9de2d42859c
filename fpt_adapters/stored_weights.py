"""Reading a backbone's weights as they are stored: from safetensors, without code, and with nothing put into them."""

import contextlib
import os
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedConfig
from transformers.utils import find_adapter_config_file, logging

NORMAL = nn.init.normal_  # transformers puts another in its place for a while


def read_weights(
    auto_class: type,
    source: str | os.PathLike,
    config: PreTrainedConfig,
    dtype: torch.dtype | str,
    hub_kwargs: dict[str, Any],
    **kwargs: Any,
) -> Any:
    """What `auto_class.from_pretrained` gives, without its list of the weights that a backbone leaves out.

    Raises ValueError for a source that holds a peft adapter too: transformers would put it into the weights, or take
    those of another base, whose name it has.
    """
    adapter = find_adapter_config_file(os.fspath(source), **hub_kwargs)
    if adapter is not None:
        raise ValueError(
            f"{os.fspath(source)!r} holds a peft adapter ({os.path.basename(adapter)}), and a backbone is the weights "
            "of one model: merge it (PeftModel.merge_and_unload) and give what save_pretrained writes then, or give "
            "the adapter's base."
        )
    if hub_kwargs.get("revision") is not None:  # or some versions of transformers look for the adapter of another
        kwargs["adapter_kwargs"] = {"revision": hub_kwargs["revision"]}
    with _quietly(), _NothingDrawn():
        return auto_class.from_pretrained(
            source,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            **hub_kwargs,
            **kwargs,
        )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


class _NothingDrawn(TorchFunctionMode):
    """Passes over normal draws for weights on the meta device, where torch takes longer over them than over a read."""

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None) -> Any:
        if func is NORMAL:
            tensor = args[0] if args else kwargs["tensor"]
            if tensor.is_meta:
                return tensor
        return func(*args, **(kwargs or {}))
