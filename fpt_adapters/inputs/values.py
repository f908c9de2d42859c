"""Values: sequences of numbers; each step is a token. For example bits."""

from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import PreTrainedConfig

from ..rules.wording import counted
from .encoded import Encoded
from .input_type import InputType, Loading
from .projection import Projection, check_sequences, without_padding

if TYPE_CHECKING:
    from .feature_extraction_fpt import FPTFeatureExtractor


class ValuesProjection(Projection):
    """Projects `input_values` (batch, tokens, input_size)."""

    def to_tokens(self, inputs: Tensor, mask: Tensor | None) -> Encoded:
        check_sequences(inputs, "tokens", "input_size", self.config.input_size)
        return Encoded(without_padding(inputs, mask), mask)


class ValuesInput(InputType):
    """Sequences with `input_size` numbers per step."""

    needs = ("sequence_length", "input_size")
    module = ValuesProjection
    columns = ("values", "series")
    step_is_token = True

    def num_tokens(self, config: PreTrainedConfig) -> int:
        return config.sequence_length

    def token_size(self, config: PreTrainedConfig) -> int:
        return config.input_size

    def processor(self, config: PreTrainedConfig, **settings: Any) -> "FPTFeatureExtractor":
        from .feature_extraction_fpt import FPTFeatureExtractor  # a loaded model does not need it

        return FPTFeatureExtractor(config.input_size, config.sequence_length, **settings)

    def describe(self, config: PreTrainedConfig) -> str:
        return f"up to {counted(config.num_tokens, 'token')} of {counted(config.input_size, 'number')} each."

    def example(self, config: PreTrainedConfig) -> str:
        return f"torch.zeros(1, {config.sequence_length}, {config.input_size})"

    def usage(self, config: PreTrainedConfig, loading: Loading) -> str:
        return numbers_usage(loading, f"({config.sequence_length}, {config.input_size})", "(tokens, numbers)")


def numbers_usage(loading: Loading, shape: str, axes: str) -> str:
    """The card's usage code for inputs of an `FPTFeatureExtractor`: an array of `shape`, whose axes are `axes`."""
    return f"""\
From numbers as they come to answers:

```python
import fpt_adapters
import numpy as np
import torch
from transformers import AutoFeatureExtractor, {loading.auto_class}

model = {loading.auto_class}.from_pretrained("{loading.repo_id}"{loading.base_argument})
extractor = AutoFeatureExtractor.from_pretrained("{loading.repo_id}")
values = np.zeros({shape})  # yours: {axes}
with torch.no_grad():
    print(model(**extractor(values, return_tensors="pt")).{loading.output_name})
```"""
