"""`IdentityConfig`: the control without a backbone, registered with AutoConfig; modeling_identity.py has the model."""

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
        """Check the size; the strict dataclass calls this. Raises ValueError with the rule and what came."""
        if self.hidden_size < 1:
            raise ValueError(f"hidden_size is a whole number of at least 1, got {self.hidden_size}.")


if IdentityConfig.model_type not in CONFIG_MAPPING:  # a copy in a model's repo must not replace another one
    AutoConfig.register(IdentityConfig.model_type, IdentityConfig)
