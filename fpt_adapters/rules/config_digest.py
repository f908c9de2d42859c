"""The digest of those fields of a configuration that say what the tensors beside it compute."""

import hashlib
import json

# Fields of config.json that may be edited later, because they do not change what the tensors compute.
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
    """Return 16 hex digits over the fields that say what the tensors compute."""
    meaning = {name: value for name, value in values.items() if name not in EDITABLE and not name.startswith("_")}
    return hashlib.sha256(json.dumps(meaning, sort_keys=True).encode()).hexdigest()[:16]
