"""`LSTMConfig`: the recurrent baseline's configuration, registered with AutoConfig; modeling_lstm.py has the model."""

from huggingface_hub.dataclasses import strict
from transformers import CONFIG_MAPPING, AutoConfig, PreTrainedConfig

from ...rules.ranges import FloatFields


@strict
class LSTMConfig(FloatFields, PreTrainedConfig):
    """Configuration of an LSTM with layer norms: by default the paper's baseline, of GPT-2's width and 3 layers.

    The paper's deeper variant is `LSTMConfig(num_hidden_layers=12, residual=True)`.

    Raises huggingface_hub's `StrictDataclassFieldValidationError` for a wrong type, and its
    `StrictDataclassClassValidationError` for a size below 1 or a number out of its range.
    """

    model_type = "fpt_lstm"

    hidden_size: int = 768  # width of the embeddings, of every layer's state, and of the output
    num_hidden_layers: int = 3
    residual: bool = False  # whether each layer's input is added to its output
    hidden_dropout_prob: float | int = 0.0  # after each layer's norm
    layer_norm_eps: float | int = 1e-5  # PyTorch's

    def validate_architecture(self) -> None:
        """Check the numbers; the strict dataclass calls this. Raises ValueError with the rule and what came."""
        for name in ("hidden_size", "num_hidden_layers"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is a whole number of at least 1, got {getattr(self, name)}.")
        if not 0 <= self.hidden_dropout_prob < 1:
            raise ValueError(
                f"hidden_dropout_prob is a probability of at least 0 and below 1, got {self.hidden_dropout_prob}."
            )
        if not 0 < self.layer_norm_eps < 1:
            raise ValueError(f"layer_norm_eps is a small number above 0, got {self.layer_norm_eps}.")


if LSTMConfig.model_type not in CONFIG_MAPPING:  # a copy in a model's repo must not replace another one
    AutoConfig.register(LSTMConfig.model_type, LSTMConfig)
