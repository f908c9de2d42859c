"""The base class of input types. Each has a file: its fields, module, processor, and words for the model card."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedConfig

from ..rules.policy_rules import PAPER_GROUPS

PICTURE_COLUMNS = ("image", "img", "pixels", "file", "path")  # what a column of these is usually called
SOUND_COLUMNS = ("audio", "file", "path", "speech")


@dataclass(frozen=True)
class Loading:
    """The parts of the loading code in a card."""

    repo_id: str
    auto_class: str
    pipeline_tag: str | None  # the Hub's name; None: there is no transformers pipeline for the model
    base_argument: str  # ", base_model_name_or_path=..." if the loader must be told, else ""
    pipeline_arguments: str  # the same for a pipeline
    output_name: str
    text: str  # a text that the tokenizer accepts, as a Python literal


class InputType:
    """An input type: a subclass in its own file, with an object of it in `INPUTS` under its name.

    `needs`, `optional`: the configuration fields that must or may be set for it; no others may. Those that `FPTConfig`
    does not know are added to it. A field in `needs` holds a whole number of at least 1, or a list of them; `check`
    checks everything else.
    """

    needs: tuple[str, ...] = ()
    optional: tuple[str, ...] = ()
    module: type[nn.Module]  # raw inputs and their mask -> `Encoded`; see `Projection`
    modality: str | None = None  # "text" or "image" where pipelines of transformers read it
    step_is_token = False  # whether a batch has as many tokens as its inputs have steps
    columns: tuple[str, ...] = ()  # what the column of raw inputs is usually called
    pooling: str | None = None  # what pooling="auto" is for it; None: what suits the backbone
    whole_rows = False  # whether its processor takes rows of a table, and no single column
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
        """All configuration fields that may be set for this input type."""
        return self.needs + self.optional

    @property
    def argument(self) -> str:
        """The name of the argument of `forward`: "input_ids", "pixel_values" or "input_values"."""
        return self.module.input_name

    @property
    def argument_names(self) -> tuple[str, ...]:
        """The names of all arguments of `forward` that hold inputs: `argument`, what may be beside it, the mask."""
        return (self.argument, *self.module.beside, "attention_mask")

    def build(self, config: PreTrainedConfig, width: int) -> nn.Module:
        """Make the module that turns raw inputs into embeddings (batch, tokens, `width`)."""
        return self.module(config, width)

    def check(self, config: PreTrainedConfig) -> None:
        """Raise ValueError for fields that do not fit together; those in `needs` are set, and above 0."""

    def num_tokens(self, config: PreTrainedConfig) -> int:
        """The most tokens that an example can have."""
        raise NotImplementedError

    def token_size(self, config: PreTrainedConfig) -> int:
        """How many numbers the projection reads per token: of ids, the rows of the embedding table; natively 0."""
        raise NotImplementedError

    def wrong_ids(self, config: PreTrainedConfig, inputs: Tensor) -> tuple[Tensor, str] | None:
        """Where ids in a batch's inputs are out of range, a mask (batch, ...), and what is wrong; None: nowhere."""
        return None

    def processor(self, config: PreTrainedConfig, **settings: Any) -> Any:
        """Make a processor for raw data; `settings`: arguments that the configuration does not know.

        Raises ValueError if only the data can tell which processor fits, as for tokens.
        """
        raise NotImplementedError

    def prepare(self, processor: Any, rows: Any) -> Any:
        """Run a model's processor over a batch of raw inputs: what `forward` takes, by name."""
        return processor(rows, return_tensors="pt")

    def describe(self, config: PreTrainedConfig) -> str:
        """The input in words, for the card."""
        raise NotImplementedError

    def example(self, config: PreTrainedConfig) -> str:
        """A Python expression for a tensor of one example, such as `torch.zeros(1, 3, 8, 8)`."""
        raise NotImplementedError

    def usage(self, config: PreTrainedConfig, loading: Loading) -> str | None:
        """Markdown with code that goes from raw data to answers, with the model's processor; None if none can."""
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
