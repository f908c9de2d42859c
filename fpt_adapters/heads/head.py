"""The base class of heads. Each head has a file: its module, loss and scores, Auto class, and words for the card."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn
from transformers import PreTrainedConfig
from transformers.utils import ModelOutput

from ..inputs.encoded import Encoded
from ..rules.ranges import short
from .problems import PROBLEMS, Classes, Numbers, classification_loss

if TYPE_CHECKING:
    import numpy as np

TOKENS = -1  # in a shape: the number of tokens of an example


class Head:
    """A head: a subclass in its own file, with an object of it in `HEADS` that a model's class names.

    `fields`: the configuration fields that only this head uses. Those that `FPTConfig` does not know are added to it,
    with the default None.
    """

    fields: tuple[str, ...] = ()
    output_class: type[ModelOutput]
    output_name = "logits"
    auto_class: str  # the transformers class that loads such a model
    per_token = False  # whether each token has an answer of its own
    implied: dict[str, str] = {}  # fields that a configuration has where nobody says them
    gaps = False  # whether a label may be NaN, where nothing was measured

    def check(self, config: PreTrainedConfig) -> None:
        """Raise ValueError for `fields` out of range. Called for every configuration, even for another head's."""
        if config.problem_type not in (None, *PROBLEMS):
            raise ValueError(f"problem_type is one of {', '.join(PROBLEMS)}; got {short(config.problem_type)}.")

    def check_input(self, config: PreTrainedConfig) -> None:
        """Raise ValueError for an input type that this head does not support."""

    def problem_type(self, config: PreTrainedConfig) -> str | None:
        """The `problem_type` that the labels are for; None: the labels tell, as in every transformers model."""
        return Numbers.name if config.num_labels == 1 and config.problem_type is None else config.problem_type

    def output(self, loss: Tensor | None, answers: Tensor, encoded: Encoded) -> ModelOutput:
        """What `forward` returns."""
        states = {"hidden_states": encoded.hidden_states, "attentions": encoded.attentions}
        return self.output_class(loss=loss, **{self.output_name: answers}, **states)

    def build(self, config: PreTrainedConfig, width: int) -> nn.Module:
        """Make the head's module for hidden states of `width`; it turns what `inputs` returns into logits."""
        raise NotImplementedError

    def inputs(self, encoded: Encoded, config: PreTrainedConfig) -> Tensor:
        """The module's input, as one tensor: (batch, hidden), or for tokens (batch, tokens, hidden)."""
        raise NotImplementedError

    def shape_of_inputs(self, config: PreTrainedConfig, width: int) -> tuple[str | int, ...]:
        """The shape of what `inputs` returns, with names for the axes that vary."""
        return ("batch", width)

    def scale(self, outputs: Tensor, config: PreTrainedConfig) -> tuple[Tensor, Tensor] | None:
        """Mean and standard deviation of the labels, by which outputs are standardised; None: they are not."""
        return None

    def answers(self, outputs: Tensor, config: PreTrainedConfig) -> Tensor:
        """The module's outputs -> logits, of the same shape, in the units of the labels."""
        scale = self.scale(outputs, config)
        return outputs if scale is None else outputs * scale[1] + scale[0]

    def loss(
        self, outputs: Tensor, labels: Tensor, config: PreTrainedConfig, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """The loss of the module's outputs: see `classification_loss`."""
        scale = self.scale(outputs, config)
        return classification_loss(outputs, labels, config.problem_type, num_items_in_batch, scale)

    def shape_of_answers(self, config: PreTrainedConfig) -> tuple[int, ...]:
        """The shape of an example's answers, each of which is a class or `num_labels` numbers; () for one answer."""
        return ()

    def confusion(self, predictions: Any, labels: Any, config: PreTrainedConfig) -> "np.ndarray | None":
        """Counts (labels, labels) of the answers, or None: see `confusion_of`."""
        from .scores import confusion_of  # a loaded model does not need it

        return confusion_of(predictions, labels, config)

    def floors(self, predictions: Any, labels: Any, metrics: Mapping[str, float]) -> dict[str, float]:
        """The scores that need no learning, by the names in `metrics`: see `mean_floors`."""
        from .scores import mean_floors

        return mean_floors(predictions, labels, metrics)

    def pipeline_tag(self, config: PreTrainedConfig) -> str | None:
        """The Hub's name for what the model does, if there is a transformers pipeline for it."""
        return None

    def shape_of_output(self, config: PreTrainedConfig) -> tuple[str | int, ...]:
        """The shape of the output for a batch of one example of full length, for the card."""
        answers = (config.num_tokens if length == TOKENS else length for length in self.shape_of_answers(config))
        return (1, *answers, config.num_labels)

    def describe(self, config: PreTrainedConfig) -> str | None:
        """The answers in words, for the card; None if there are none."""
        return PROBLEMS[config.problem_type or Classes.name].describe(config)


class Headless(Head):
    """No head: the output is the hidden states."""

    output_name = "last_hidden_state"
    auto_class = "AutoModel"

    def shape_of_output(self, config: PreTrainedConfig) -> tuple[str | int, ...]:
        return (1, config.num_tokens, "hidden size")

    def describe(self, config: PreTrainedConfig) -> None:
        return None
