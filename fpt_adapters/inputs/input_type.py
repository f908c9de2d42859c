"""What an input type is. Each has a file: its fields, its module, its processor, and its words in a model card."""

from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig


@dataclass(frozen=True)
class Loading:
    """What the code in a card that loads a model names."""

    repo_id: str
    auto_class: str
    pipeline_tag: str | None  # of the Hub; None: no pipeline of transformers does what the model does
    base_argument: str  # ", base_model_name_or_path=..." where a loader must be told, else ""
    pipeline_arguments: str  # the same for a pipeline
    output_name: str
    text: str  # a text that the tokenizer takes, as Python writes it


class InputType:
    """An input type: a subclass in a file of its own, and an object of it in `INPUTS` under its name.

    `needs`, `optional`: the fields of the configuration that it must or may declare, and no others. Those that
    `FPTConfig` does not know are added to it. A field that is needed holds a whole number of at least 1, or a list of
    them; `check` looks at all else.
    """

    needs: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    module: type[nn.Module]  # raw inputs and their mask -> `Encoded`; see `Projection`
    modality: str | None = None  # "text" or "image" where pipelines of transformers read it
    step_is_token = False  # whether a batch has as many tokens as its inputs have steps

    @property
    def fields(self) -> tuple[str, ...]:
        """The fields that a configuration may declare for it."""
        return self.needs + self.optional

    @property
    def argument(self) -> str:
        """What `forward` calls it: "input_ids", "pixel_values" or "input_values"."""
        return self.module.input_name

    def build(self, config: PreTrainedConfig, width: int) -> nn.Module:
        """The module that makes embeddings of `width`."""
        return self.module(config, width)

    def check(self, config: PreTrainedConfig) -> None:
        """Raise ValueError for fields that do not fit each other; what is needed is there, and above 0."""

    def num_tokens(self, config: PreTrainedConfig) -> int:
        """The most tokens that an example makes."""
        raise NotImplementedError

    def token_size(self, config: PreTrainedConfig) -> int:
        """The numbers that a token's projection reads; for tokens, the rows of the table."""
        raise NotImplementedError

    def wrong_ids(self, config: PreTrainedConfig, inputs: Tensor) -> tuple[Tensor, str] | None:
        """Where ids in a batch's inputs are out of range, a mask (batch, ...), and what is wrong; None: nowhere."""
        return None

    def processor(self, config: PreTrainedConfig, **settings: Any) -> Any:
        """A processor that makes inputs which fit; `settings`: what the configuration cannot know.

        Raises ValueError where nothing but the data knows the processor, as for tokens.
        """
        raise NotImplementedError

    def describe(self, config: PreTrainedConfig) -> str:
        """The input in words, for the card."""
        raise NotImplementedError

    def example(self, config: PreTrainedConfig) -> str:
        """Python's code for a batch of one example."""
        raise NotImplementedError

    def usage(self, config: PreTrainedConfig, loading: Loading) -> str | None:
        """A paragraph and code that go from raw data to answers, with the model's processor; None where none can."""
        return None
