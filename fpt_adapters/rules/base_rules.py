"""Rules for the fields that name the base: its Hub id, hashes, seed and how many layers are kept."""

import re

from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id
from transformers import PreTrainedConfig

from .config_rules import MAX_LAYERS
from .ranges import check_probability, check_within, short

HASHES = {"base_model_revision": "[0-9a-f]{7,64}", "base_model_fingerprint": "[a-z0-9-]{1,32}:[0-9a-f]{1,64}"}
MAX_SEED = 2**63 - 1  # torch's


def check_base(config: PreTrainedConfig) -> None:
    """Check the fields of an `FPTConfig` that name its base. Raises ValueError."""
    if config.base_model is not None:
        try:
            validate_repo_id(config.base_model)
        except HFValidationError as error:
            raise ValueError(
                f"base_model is a Hub id such as 'openai-community/gpt2', never a path; got "
                f"{short(config.base_model)}. Give a local copy to "
                "from_pretrained(..., base_model_name_or_path=...)."
            ) from error
    for name, form in HASHES.items():
        value = getattr(config, name)
        if value is not None and not re.fullmatch(form, value):
            raise ValueError(f"{name} is a hash, of the form {form}; got {short(value)}.")
    check_within("backbone_init_seed", config.backbone_init_seed, 0, MAX_SEED)
    if config.backbone_layers is not None:
        check_within("backbone_layers", config.backbone_layers, 1, MAX_LAYERS)
        if config.base_model_config is not None:
            from .depth import first_layers

            first_layers(config.base_model_config, config.backbone_layers)
    if config.backbone_dropout is not None:
        check_probability("backbone_dropout", config.backbone_dropout)
    if config.backbone_init_scheme in ("gpt2-scaled-residual", "gpt2-flat"):
        model_type = None if config.base_model_config is None else config.base_model_config.model_type
        if config.backbone_init != "random" or model_type not in (None, "gpt2"):
            raise ValueError(
                f"backbone_init_scheme={config.backbone_init_scheme!r} is for backbone_init='random' on GPT-2; got "
                f"backbone_init={config.backbone_init!r} on {model_type!r}: leave backbone_init_scheme out."
            )
