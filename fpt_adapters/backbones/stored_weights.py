"""Reading a backbone's weights as they are stored: from safetensors, without running code, and unchanged.

transformers changes the whole process while it loads: torch's default dtype, its own `tie_weights`, functions of
torch. Here these changes are made only for the thread that loads, and no other thread sees them.
"""

import contextlib
import functools
import logging
import os
import threading
from contextlib import AbstractContextManager
from typing import Any

import torch
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.monkey_patching import apply_patches

from ..torch_utils.isolation import DefaultDtype, DrawsFrom

TIE_WEIGHTS = PreTrainedModel.tie_weights  # transformers replaces it for a while when another thread loads
UNUSED_SEED = 0  # draws weights that a checkpoint lacks; none of them is kept
NO_LIMIT = contextlib.nullcontext()
_thread = threading.local()  # has the attribute `limit` while this thread reads weights
INITIALISING = threading.RLock()  # transformers replaces functions of torch while it initialises; one at a time


def read_weights(
    model_class: type[PreTrainedModel],
    folder: str | os.PathLike,
    config: PreTrainedConfig,
    dtype: torch.dtype | str,
    limit: AbstractContextManager = NO_LIMIT,
    **kwargs: Any,
) -> Any:
    """Call `model_class.from_pretrained` without its report of weights that a backbone does not use.

    `limit`: a context manager that is entered while the model is built on the meta device.
    """
    _thread.limit = limit
    try:
        found = reading_class(model_class).from_pretrained(
            folder,
            config=config,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            **kwargs,
        )
    finally:
        del _thread.limit
    model = found[0] if isinstance(found, tuple) else found
    model.__class__ = model_class
    return found


@functools.cache
def reading_class(model_class: type[PreTrainedModel]) -> type[PreTrainedModel]:
    """A subclass of `model_class` whose `from_pretrained` changes nothing that other threads see."""

    class Reading(model_class):
        @classmethod
        def get_init_context(cls, dtype: torch.dtype, *args: Any) -> list:
            own = [torch.device("meta"), DefaultDtype(dtype), DrawsFrom(UNUSED_SEED)]
            return [apply_patches(), *own, _thread.limit]

        def tie_weights(self, *args: Any, **kwargs: Any) -> None:
            if not torch.empty(0).is_meta:  # while it is built, every name must exist for its weight to be read
                TIE_WEIGHTS(self, *args, **kwargs)

        def initialize_weights(self) -> None:
            with INITIALISING, DrawsFrom(UNUSED_SEED):
                super().initialize_weights()

    Reading.__name__, Reading.__qualname__ = model_class.__name__, model_class.__qualname__
    Reading.__module__ = model_class.__module__
    return Reading


class _NoReport(logging.Filter):
    """Drops transformers' warnings while this thread reads: they list the weights that a backbone does not use."""

    def filter(self, record: logging.LogRecord) -> bool:
        return record.levelno >= logging.ERROR or "limit" not in vars(_thread)


logging.getLogger(PreTrainedModel.__module__).addFilter(_NoReport())
