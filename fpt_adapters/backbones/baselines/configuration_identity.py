"""`IdentityConfig`: the configuration of no backbone at all, registered with AutoConfig; see modeling_identity.py."""

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig


@strict
class IdentityConfig(PreTrainedConfig):
    """Configuration of the control without a backbone: only the width of the embeddings that pass through.

    Raises huggingface_hub's `StrictDataclassFieldValidationError` for a wrong type, and its
    `StrictDataclassClassValidationError` for a size below 1.
    """

    model_type = "fpt_identity"

    hidden_size: int = 768

    def validate_architecture(self) -> None:
        """Called by the strict dataclass. Raises ValueError: the rule, what came."""
        if self.hidden_size < 1:
            raise ValueError(f"hidden_size is a whole number of at least 1, got {self.hidden_size}.")


if IdentityConfig.model_type not in CONFIG_MAPPING:  # a copy that travels with a model takes no one's place
    AutoConfig.register(IdentityConfig.model_type, IdentityConfig)
