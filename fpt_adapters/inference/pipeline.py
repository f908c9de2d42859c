"""`pipeline`: raw rows -> answers, for every input and head, also those that transformers has no pipeline for."""

import os
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoConfig, AutoProcessor

from .. import modeling_fpt
from ..models.frozen_base import FrozenBase
from ..models.pretrained import FPTPreTrainedModel
from .answers import answers_of

BATCH_SIZE = 32
IS_ONE = {"array", "bytes"}  # a dict with one of them is a clip or a picture, and no record


class FPTPipeline:
    """A model and its processor: rows -> answers.

    Rows are a pandas DataFrame, a `datasets.Dataset`, a list of records (dicts), or, where a row is one thing (a
    text, an image, a series, a wave), a list or an array of these. The result is of the same kind: a DataFrame with
    the index of the one that came, else a list of records. `input_column`: which column has the text, the image ...
    `folder`: where images and sounds lie whose paths are relative.
    """

    folder: str | os.PathLike = "."

    def __init__(self, model: FPTPreTrainedModel, processor: Any, input_column: str | None = None):
        self.model = model.eval()
        self.processor = processor
        self.input_column = input_column

    def __call__(self, rows: Any, batch_size: int = BATCH_SIZE) -> Any:
        """Answer all `rows`. Raises ValueError, naming what is wrong with which, for rows that cannot be read."""
        columns: dict[str, list[Any]] = {}
        for batch in self.batches(rows, batch_size):
            for name, values in batch.items():
                columns.setdefault(name, []).extend(values)
        if hasattr(rows, "iloc"):
            import pandas

            return pandas.DataFrame(columns, index=rows.index)
        return [dict(zip(columns, record, strict=True)) for record in zip(*columns.values(), strict=True)]

    def batches(self, rows: Any, batch_size: int = BATCH_SIZE) -> Iterator[dict[str, list[Any]]]:
        """Answer `rows` a batch at a time: columns of answers, as `answers_of` names them."""
        for inputs in self.inputs(rows, batch_size):
            yield self._answers(inputs)

    def answer(self, rows: Any, first: int = 0) -> dict[str, list[Any]]:
        """Answer one batch of rows: columns of answers. `first`: the number of its first row, for messages."""
        return self._answers(self.prepared(rows, first))

    def inputs(self, rows: Any, batch_size: int = BATCH_SIZE) -> Iterator[dict[str, Tensor]]:
        """What the model takes of `rows`, a batch at a time: tensors by name, padded to the longest of the batch."""
        if hasattr(rows, "column_names"):
            rows = rows.with_format(None)
        for start in range(0, len(rows), batch_size):
            part = rows.iloc[start : start + batch_size] if hasattr(rows, "iloc") else rows[start : start + batch_size]
            yield self.prepared(part, start)

    def prepared(self, rows: Any, first: int = 0) -> dict[str, Tensor]:
        """Run the processor over one batch of rows: what the model takes."""
        kind = self.model.config.input
        if kind.whole_rows:
            inputs = self.processor(rows, return_tensors="pt", where=lambda row: f"row {first + row}")
        else:
            values = self._values(rows)
            if kind.modality in ("image", "audio"):
                values = [os.path.join(self.folder, one) if isinstance(one, str) else one for one in values]
            inputs = kind.prepare(self.processor, values)
        taken = (kind.argument, *kind.module.beside, "attention_mask")
        return {name: tensor for name, tensor in inputs.items() if name in taken}

    @torch.no_grad()
    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Run the model over one batch of inputs: (batch, num_labels), or (batch, tokens, num_labels), on the CPU."""
        inputs = {name: tensor.to(self.model.device) for name, tensor in inputs.items()}
        return self.model(**inputs, return_dict=True).logits.cpu()

    def _answers(self, inputs: Mapping[str, Tensor]) -> dict[str, list[Any]]:
        mask = inputs.get("attention_mask")
        lengths = mask.sum(dim=1) if mask is not None and self.model.config.input.step_is_token else None
        return answers_of(self.logits(inputs), self.model.config, lengths)

    def _values(self, rows: Any) -> Sequence[Any]:
        """The column that a row is, out of a table or records; other rows are taken as they are."""
        if hasattr(rows, "columns"):
            return list(rows[self._column(list(rows.columns))])
        if isinstance(rows, Mapping):
            return list(rows[self._column(list(rows))])
        if isinstance(rows, (list, tuple)) and rows and isinstance(rows[0], Mapping) and not IS_ONE & rows[0].keys():
            column = self._column(list(rows[0]))
            return [row[column] for row in rows]
        return list(rows) if isinstance(rows, np.ndarray) else rows

    def _column(self, columns: list[str]) -> str:
        usual = self.model.config.input.columns
        found = [self.input_column] if self.input_column else [name for name in usual if name in columns]
        found = found or (columns if len(columns) == 1 else [])
        if not found or found[0] not in columns:
            raise ValueError(
                f"the rows have the columns {', '.join(columns)}: write which of them holds the inputs with "
                f"input_column, or call it {' or '.join(usual)}."
            )
        return found[0]


def pipeline(
    model: str | os.PathLike | FPTPreTrainedModel,
    *,
    processor: Any = None,
    base_model_name_or_path: "str | os.PathLike | FrozenBase | None" = None,
    input_column: str | None = None,
    device: str | torch.device | None = None,
    **kwargs: Any,
) -> FPTPipeline:
    """Load a delta and its processor, and answer rows with them: see `FPTPipeline`.

    `model`: a folder, a Hub id, or a model (its `processor` is taken). `kwargs`: as for `from_pretrained`. Raises as
    that does, and ValueError for a model without a head.
    """
    if not isinstance(model, FPTPreTrainedModel):
        hub_kwargs = {
            name: kwargs[name] for name in ("revision", "token", "cache_dir", "local_files_only") if name in kwargs
        }
        config = AutoConfig.from_pretrained(model, **hub_kwargs)
        processor = AutoProcessor.from_pretrained(model, **hub_kwargs) if processor is None else processor
        model_class = getattr(modeling_fpt, (config.architectures or ["FPTModel"])[0])
        model = model_class.from_pretrained(model, base_model_name_or_path=base_model_name_or_path, **kwargs)
    processor = model.processor if processor is None else processor
    if processor is None:
        raise ValueError("this model has no processor of raw rows: give one with processor=...")
    if model.headless:
        raise ValueError("an FPTModel has no head, and so no answers: load a model with one.")
    return FPTPipeline(model if device is None else model.to(device), processor, input_column)
