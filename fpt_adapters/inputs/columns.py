"""Columns: rows of a table, each column a token."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import PreTrainedConfig

from ..backbones.cpu.dropout import Dropout
from ..rules.ranges import check_within, short
from ..rules.wording import counted
from .encoded import Encoded
from .input_type import InputType, Loading
from .projection import check_length

MAX_COLUMNS = 2**12  # a configuration holds a size for each
MAX_COLUMN_SIZE = 2**8  # bf16, which inputs may be cast to, holds the whole numbers up to 256


class ColumnEmbedding(nn.Module):
    """An id and a factor a column -> factor * the id's vector + the column's bias: (batch, columns, width).

    So a numeric column has one vector, a categorical one a vector for each category, as in FT-Transformer (Gorishniy
    et al., arXiv 2106.11959), whose initialisation this is, and what is missing has one more. A factor of 0 leaves
    the bias: nothing is known.
    """

    def __init__(self, sizes: list[int], width: int):
        super().__init__()
        self.sizes = sizes
        self.weight = nn.Parameter(torch.empty(sum(sizes), width))  # the vectors of a column behind those of the last
        self.bias = nn.Parameter(torch.empty(len(sizes), width))
        for parameter in (self.weight, self.bias):
            nn.init.uniform_(parameter, -(width**-0.5), width**-0.5)

    def forward(self, inputs: Tensor) -> Tensor:
        """(batch, columns, 2) -> (batch, columns, width). Raises IndexError for an id that a column does not have."""
        sizes = torch.tensor(self.sizes, device=inputs.device)  # (columns,)
        ids, factors = inputs[..., 0].round().long(), inputs[..., 1:].to(self.weight.dtype)
        rows = (ids + sizes.cumsum(0) - sizes).masked_fill((ids < 0) | (ids >= sizes), sum(self.sizes))
        return F.embedding(rows, self.weight) * factors + self.bias


class ColumnsEmbedding(nn.Module):
    """`input_values` (batch, columns, 2): of each column an id, in 0..`column_sizes` - 1, and a factor."""

    input_name = "input_values"
    beside: tuple[str, ...] = ()
    embeddings_name = "projection"

    def __init__(self, config: PreTrainedConfig, width: int):
        super().__init__()
        self.config = config
        self.projection = ColumnEmbedding(config.column_sizes, width)
        self.dropout = Dropout(config.input_dropout)

    def forward(self, inputs: Tensor, mask: Tensor | None = None) -> Encoded:
        """Ids and factors -> embeddings (batch, columns, width); `mask` (batch, columns), None: all columns count."""
        columns = self.config.num_tokens
        if inputs.ndim != 3 or tuple(inputs.shape[1:]) != (columns, 2):
            raise ValueError(
                f"input_values has shape (batch, columns, 2) = (batch, {columns}, 2), an id and a factor a column, "
                f"got {tuple(inputs.shape)}: give what the model's FPTTableProcessor returns."
            )
        check_length(inputs.shape[1], self.config)
        return Encoded(self.dropout(self.projection(inputs)), mask)


class ColumnsInput(InputType):
    """Rows of a table: `column_sizes` says how many vectors each column has, 1 for numbers that are never missing."""

    needs = ("column_sizes",)
    module = ColumnsEmbedding
    whole_rows = True
    pooling = "mean"  # the order of columns means nothing

    def check(self, config: PreTrainedConfig) -> None:
        sizes = config.column_sizes
        if not isinstance(sizes, list) or not 0 < len(sizes) <= MAX_COLUMNS:
            raise ValueError(
                f"column_sizes is a list of whole numbers, one for each of at most {MAX_COLUMNS} columns; got "
                f"{short(sizes)}."
            )
        for size in sizes:
            check_within("a number in column_sizes", size, 1, MAX_COLUMN_SIZE)

    def num_tokens(self, config: PreTrainedConfig) -> int:
        return len(config.column_sizes)

    def token_size(self, config: PreTrainedConfig) -> int:
        return sum(config.column_sizes)

    def wrong_ids(self, config: PreTrainedConfig, inputs: Tensor) -> tuple[Tensor, str] | None:
        if tuple(inputs.shape[1:]) != (config.num_tokens, 2):
            return None  # which the model itself refuses
        ids, sizes = inputs[..., 0], torch.tensor(config.column_sizes, device=inputs.device)  # (batch, columns)
        wrong = (ids < 0) | (ids >= sizes) | (ids != ids.round())
        if not wrong.any():
            return None
        column = wrong.nonzero()[0, 1].item()
        rule = f"the id of column {column} is a whole number in 0..{config.column_sizes[column] - 1} (column_sizes)"
        return wrong, f"{rule}, got {ids[wrong][0].item():g}"

    def processor(self, config: PreTrainedConfig, **settings: Any) -> None:
        raise ValueError("Which columns a table has is up to the data: give the model the processor that was fitted.")

    def describe(self, config: PreTrainedConfig) -> str:
        columns, vectors = counted(config.num_tokens, "column"), counted(config.token_size, "vector")
        return f"rows of a table: {columns}, each a token, with {vectors} for numbers, categories and missing values."

    def example(self, config: PreTrainedConfig) -> str:
        return f"torch.zeros(1, {config.num_tokens}, 2)"

    def usage(self, config: PreTrainedConfig, loading: Loading) -> str:
        return f"""\
From rows of a table to answers:

```python
import fpt_adapters
import torch
from transformers import AutoFeatureExtractor, {loading.auto_class}

model = {loading.auto_class}.from_pretrained("{loading.repo_id}"{loading.base_argument})
processor = AutoFeatureExtractor.from_pretrained("{loading.repo_id}")
print(*processor.describe(), sep="\\n")  # its columns
rows = [dict.fromkeys(processor.column_names)]  # yours: a DataFrame, records, or a dict of columns; None is missing
with torch.no_grad():
    print(model(**processor(rows, return_tensors="pt")).{loading.output_name})
```"""
