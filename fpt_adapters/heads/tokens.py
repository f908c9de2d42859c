"""One answer, or several, for each token."""

from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.modeling_outputs import TokenClassifierOutput

from ..inputs.encoded import Encoded
from ..rules.ranges import MAX_LABELS, MAX_SIZE, check_within
from .head import TOKENS, Head
from .problems import PROBLEMS, Classes


class TokenClassifier(nn.Module):
    """Hidden states (batch, tokens, hidden) -> logits of one or several labels per token.

    (batch, tokens, num_labels) for one label per token, else (batch, tokens, labels_per_token, num_labels).
    """

    def __init__(self, hidden_size: int, num_labels: int, labels_per_token: int):
        super().__init__()
        self.out_proj = nn.Linear(hidden_size, labels_per_token * num_labels)  # PyTorch's default, as in the paper
        self.shape = (labels_per_token, num_labels) if labels_per_token > 1 else (num_labels,)

    def forward(self, hidden: Tensor) -> Tensor:
        """Hidden states (batch, tokens, hidden) -> logits (batch, tokens, [labels_per_token,] num_labels)."""
        return self.out_proj(hidden).unflatten(-1, self.shape)


class TokensHead(Head):
    """`labels_per_token` answers for each token."""

    fields = ("labels_per_token",)
    output_class = TokenClassifierOutput
    auto_class = "AutoModelForTokenClassification"
    per_token = True

    def check(self, config: PreTrainedConfig) -> None:
        super().check(config)
        check_within("labels_per_token", config.labels_per_token, 1, MAX_LABELS)
        if config.labels_per_token * (config.num_labels or 1) > MAX_SIZE:
            raise ValueError(f"labels_per_token * num_labels is at most {MAX_SIZE}: write smaller ones.")

    def check_input(self, config: PreTrainedConfig) -> None:
        if config.input_type == "windows" and not config.mix_channels:
            raise ValueError(
                "FPTForTokenClassification labels tokens that hold all channels: write mix_channels=True."
            )
        if config.input.native and not config.input.step_is_token:
            raise ValueError(
                "FPTForTokenClassification labels what a batch has as steps: natively, the tokens of a text; "
                f"{config.base_model_config.model_type} makes others of its inputs. Use FPTForSequenceClassification."
            )

    def build(self, config: PreTrainedConfig, width: int) -> nn.Module:
        return TokenClassifier(width, config.num_labels, config.labels_per_token)

    def inputs(self, encoded: Encoded, config: PreTrainedConfig) -> Tensor:
        return encoded.states

    def shape_of_inputs(self, config: PreTrainedConfig, width: int) -> tuple[str | int, ...]:
        return ("batch", "tokens", width)

    def shape_of_answers(self, config: PreTrainedConfig) -> tuple[int, ...]:
        return (TOKENS, config.labels_per_token) if config.labels_per_token > 1 else (TOKENS,)

    def pipeline_tag(self, config: PreTrainedConfig) -> str | None:
        """As for every head; None for several labels per token, because no pipeline reads them."""
        return "token-classification" if config.input.modality == "text" and config.labels_per_token == 1 else None

    def describe(self, config: PreTrainedConfig) -> str:
        several = config.labels_per_token > 1
        each = f"{config.labels_per_token} for each token, each " if several else ""
        return PROBLEMS[config.problem_type or Classes.name].describe(config, each)
