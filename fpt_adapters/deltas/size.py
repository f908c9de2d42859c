"""The size of a delta's file, before it is written."""

import json
from collections.abc import Mapping

from torch import Tensor

from ..configuration_fpt import FPTConfig
from .writing import metadata_of

BYTES = 4  # per number, in float32
DIGEST = "0" * 16  # has the length of a digest
ALIGNMENT = 8  # of the position where the numbers begin; spaces pad the header


def delta_bytes(config: FPTConfig, tensors: Mapping[str, Tensor]) -> int:
    """Return how many bytes `write_delta` would write for these as `model.safetensors`; no value is read.

    A safetensors file is the length of its header in 8 bytes, the header in JSON, and the numbers.
    """
    values = json.loads(config.to_json_string())
    header: dict[str, dict] = {"__metadata__": metadata_of(values, [DIGEST] * len(tensors))}
    end = 0
    for name in sorted(tensors):
        start, end = end, end + BYTES * tensors[name].numel()
        header[name] = {"dtype": "F32", "shape": list(tensors[name].shape), "data_offsets": [start, end]}
    length = len(json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode())
    return 8 + -(-length // ALIGNMENT) * ALIGNMENT + end
