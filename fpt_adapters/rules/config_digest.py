"""What of a configuration belongs to the tensors beside it, and the digest of that."""

import hashlib
import json

# What of config.json may be edited later (label names, say) without changing what the tensors compute.
EDITABLE = (
    "architectures",
    "auto_map",
    "backbone_dropout",
    "base_model",
    "base_model_revision",
    "base_quantization",
    "custom_pipelines",
    "dtype",
    "id2label",
    "input_dropout",
    "label2id",
    "transformers_version",
)


def config_digest(values: dict) -> str:
    """16 hex digits over what a config.json says of the tensors beside it."""
    meaning = {name: value for name, value in values.items() if name not in EDITABLE and not name.startswith("_")}
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()[:16]
