"""What a head is. Each has a file: its module, loss and scores, how it is loaded, and its words in a model card."""

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

TOKENS = -1  # in a shape: as many as an example has tokens


class Head:
    """A head: a subclass in a file of its own, and an object of it in `HEADS`, which a model's class names.

    `fields`: those of the configuration that are its own, and mean nothing to other heads. Those that `FPTConfig` does
    not know are added to it, and None where nobody sets them.
    """

    fields: tuple[str, ...] = ()
    output_class: type[ModelOutput]
    output_name = "logits"
    auto_class: str  # transformers' class that loads such a model
    per_token = False  # whether each token has answers

    def check(self, config: PreTrainedConfig) -> None:
        """Raise ValueError for `fields` out of range; called for every configuration, whatever head it is for."""
        if config.problem_type not in (None, *PROBLEMS):
            raise ValueError(f"problem_type is one of {', '.join(PROBLEMS)}; got {short(config.problem_type)}.")

    def check_input(self, config: PreTrainedConfig) -> None:
        """Raise ValueError for an input that it does not serve."""

    def problem_type(self, config: PreTrainedConfig) -> str | None:
        """The problem that it has labels for; None: it depends on the labels, as of every transformers model."""
        return Numbers.name if config.num_labels == 1 and config.problem_type is None else config.problem_type

    def build(self, config: PreTrainedConfig, width: int) -> nn.Module:
        """The module, for hidden states of `width`: what `inputs` gives -> logits."""
        raise NotImplementedError

    def inputs(self, encoded: Encoded, config: PreTrainedConfig) -> Tensor:
        """All that enters the module, as one tensor, which can be kept where nothing in front of the head trains."""
        raise NotImplementedError

    def shape_of_inputs(self, config: PreTrainedConfig, width: int) -> tuple[str | int, ...]:
        """The shape of `inputs`, its free axes by name."""
        return ("batch", width)

    def answers(self, outputs: Tensor, config: PreTrainedConfig) -> Tensor:
        """The module's outputs -> logits, of the same shape, in the units of the labels."""
        return outputs

    def loss(
        self, outputs: Tensor, labels: Tensor, config: PreTrainedConfig, num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """The loss of the module's outputs: see `classification_loss`."""
        return classification_loss(outputs, labels, config.problem_type, num_items_in_batch)

    def shape_of_answers(self, config: PreTrainedConfig) -> tuple[int, ...]:
        """How many answers an example has, each of which is one class, or `num_labels` numbers: () for one."""
        return ()

    def confusion(self, predictions: Any, labels: Any, config: PreTrainedConfig) -> "np.ndarray | None":
        """See `confusion_of`."""
        from .scores import confusion_of  # which a loaded model does not need

        return confusion_of(predictions, labels, config)

    def floors(self, predictions: Any, labels: Any, metrics: Mapping[str, float]) -> dict[str, float]:
        """Scores that need no learning, by the names of `metrics`: see `mean_floors`."""
        from .scores import mean_floors

        return mean_floors(predictions, labels, metrics)

    def pipeline_tag(self, config: PreTrainedConfig) -> str | None:
        """The Hub's name for what the model does, where a pipeline of transformers does it."""
        return None

    def shape_of_output(self, config: PreTrainedConfig) -> tuple[str | int, ...]:
        """The shape of the output for a batch of one full example, for the card."""
        answers = (config.num_tokens if length == TOKENS else length for length in self.shape_of_answers(config))
        return (1, *answers, config.num_labels)

    def describe(self, config: PreTrainedConfig) -> str | None:
        """The answers in words, for the card; None: it gives none."""
        return PROBLEMS[config.problem_type or Classes.name].describe(config)


class Headless(Head):
    """No head: hidden states are the output."""

    output_name = "last_hidden_state"
    auto_class = "AutoModel"

    def shape_of_output(self, config: PreTrainedConfig) -> tuple[str | int, ...]:
        return (1, config.num_tokens, "hidden size")

    def describe(self, config: PreTrainedConfig) -> None:
        return None
