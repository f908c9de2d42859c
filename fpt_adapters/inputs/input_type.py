"""What an input type is. Each has a file: its fields, its module, its processor, and its words in a model card."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn
from transformers import PreTrainedConfig

from ..rules.policy_rules import PAPER_GROUPS


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
    native = False  # whether the backbone's own embeddings read it
    positions = "new"  # which it has where a configuration leaves that open, and the backbone has none

    def of(self, config: PreTrainedConfig) -> "InputType":
        """What it is for a configuration: itself, but that what is native depends on the backbone."""
        return self

    def trained(self, config: PreTrainedConfig) -> Sequence[str] | None:
        """The groups that train where nobody says which; None while the positions are not known that decide it."""
        return PAPER_GROUPS

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
        """The numbers that a token's projection reads; for tokens, the rows of the table; natively none."""
        raise NotImplementedError

    def num_ids(self, config: PreTrainedConfig) -> int:
        """How many ids there are, of an input that has ids."""
        raise NotImplementedError

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


def text_usage(loading: Loading) -> str | None:
    """The usage of a model whose texts a pipeline of transformers reads."""
    if loading.pipeline_tag is None:
        return None
    cut = ", truncation=True" if loading.pipeline_tag == "text-classification" else ""
    return f"""\
From text to labels:

```python
import fpt_adapters
from transformers import pipeline

classify = pipeline("{loading.pipeline_tag}", model="{loading.repo_id}"{cut}{loading.pipeline_arguments})
print(classify({loading.text}))
```"""


def picture_usage(loading: Loading, mode: str, width: int, height: int) -> str:
    """The usage of a model whose pictures, of Pillow's `mode`, a pipeline of transformers reads."""
    return f"""\
From a picture to labels:

```python
import fpt_adapters
from PIL import Image
from transformers import pipeline

classify = pipeline("{loading.pipeline_tag}", model="{loading.repo_id}"{loading.pipeline_arguments})
image = Image.new("{mode}", ({width}, {height}))  # yours: Image.open("picture.png")
print(classify(image))
```"""
