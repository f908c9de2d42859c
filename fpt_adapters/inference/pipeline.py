"""`pipeline`: raw rows -> answers, for every input and head, also those that transformers has no pipeline for."""

import copy
import os
from collections.abc import Iterator, Mapping, Sequence
from numbers import Number
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image
from torch import Tensor
from transformers import AutoConfig, AutoProcessor

from .. import modeling_fpt
from ..data.opening import open_rows
from ..modeling_fpt import FPTForTimeSeriesPrediction, FPTForTokenClassification
from ..models.frozen_base import FrozenBase
from ..models.pretrained import FPTPreTrainedModel
from .answers import answers_of
from .columns import input_columns
from .forecasts import FPTForecastPipeline
from .texts import answers_of_words, encode_texts

BATCH_SIZE = 32
ONE = (str, bytes, os.PathLike, Mapping, Image.Image)  # of what is one row by itself
IS_ONE = {"array", "bytes"}  # a dict with one of them is a clip or a picture, and no record


class FPTPipeline:
    """A model and its processor: rows -> answers.

    Rows are a pandas DataFrame, a `datasets.Dataset` (also a stream), a list of records (dicts), or, where a row is
    one thing (a text, a pair of texts, a list of words, an image, a series, a wave), a list or an array of these. The
    result is of the same kind: a DataFrame with the index of the one that came, else a list of records.

    One row by itself has one answer, a record: a string (a text; the path of an image or a sound), an open image,
    bytes, or a dict (a record, or a clip or image with "array", "bytes" or "path"). Of models of tables and series a
    string is the path of a file of rows. An array or a list is several rows: write [array] for one.

    A model that labels words answers for each of them; a string is cut at its spaces. `input_column`: which column has
    the text, the image ..., or two with a comma between (None: found by its name, or as the only one that fits).
    `folder`: where images and sounds lie whose paths are relative.
    """

    folder: str | os.PathLike = "."

    def __init__(self, model: FPTPreTrainedModel, processor: Any, input_column: str | None = None):
        self.model = model.eval()
        self.processor = processor
        self.input_column = input_column

    def __call__(self, rows: Any, batch_size: int = BATCH_SIZE) -> Any:
        """Answer all `rows`, or one. Raises ValueError, naming what is wrong with which, for wrong ones."""
        if isinstance(rows, (str, os.PathLike)) and self.model.config.input.modality is None:
            rows, *_ = open_rows(os.fspath(rows))
        elif isinstance(rows, ONE):
            return self([_one(rows)], batch_size)[0]
        elif self.model.config.input.whole_rows and hasattr(rows, "iloc") and rows.ndim == 1:  # a row of a DataFrame
            return self([rows.to_dict()], batch_size)[0]
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
        for answering, part, start in self._parts(rows, batch_size):
            yield answering.answer(part, start)

    def inputs(self, rows: Any, batch_size: int = BATCH_SIZE) -> Iterator[dict[str, Tensor]]:
        """What the model takes of `rows`, a batch at a time: tensors by name, padded to the longest of the batch."""
        for answering, part, start in self._parts(rows, batch_size):
            yield answering._taken(answering._encoded(part, start))

    def answer(self, rows: Any, first: int = 0) -> dict[str, list[Any]]:
        """Answer one batch of rows: columns of answers. `first`: the number of its first row, for messages."""
        config = self.model.config
        encoded = self._encoded(rows, first)
        inputs = self._taken(encoded)
        logits = self.logits(inputs)
        if self._of_words:
            return answers_of_words(logits, encoded, self._values(rows), config)
        mask = inputs.get("attention_mask")
        return answers_of(logits, config, mask.sum(dim=1) if mask is not None and config.input.step_is_token else None)

    @torch.no_grad()
    def logits(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Run the model over one batch of inputs: (batch, num_labels), or (batch, tokens, num_labels), on the CPU."""
        inputs = {name: tensor.to(self.model.device) for name, tensor in inputs.items()}
        return self.model(**inputs, return_dict=True).logits.cpu()

    def _encoded(self, rows: Any, first: int) -> Mapping[str, Any]:
        """Run the processor over one batch of rows."""
        kind = self.model.config.input
        if kind.whole_rows:
            return self.processor(rows, return_tensors="pt", where=lambda row: f"row {first + row}")
        values = self._values(rows)
        if (number := next((row for row, value in enumerate(values) if isinstance(value, Number)), None)) is not None:
            raise ValueError(
                f"a row is a text, an image, a sound or a series, but row {first + number} is {values[number]!r:.40}: "
                "write [row] for one row, and drop those without."
            )
        if kind.modality == "text":
            return encode_texts(self.processor, values, first)
        if kind.modality in ("image", "audio"):
            values = [os.path.join(self.folder, one) if isinstance(one, str) else one for one in values]
        try:
            return kind.prepare(self.processor, values)
        except ValueError as error:  # which counts from the first of the batch
            raise ValueError(f"{f'rows from {first} on: ' if first else ''}{error}") from error

    def _taken(self, encoded: Mapping[str, Any]) -> dict[str, Tensor]:
        """What the model takes of what its processor gave."""
        taken = self.model.config.input.argument_names
        return {name: tensor for name, tensor in encoded.items() if name in taken}

    @property
    def _of_words(self) -> bool:
        """Whether each word of a text has an answer."""
        kind = self.model.config.input
        return kind.native and kind.modality == "text" and isinstance(self.model, FPTForTokenClassification)

    def knowing_column(self, rows: Any) -> "FPTPipeline":
        """Find the `input_column` of rows; returns a pipeline with it. Raises ValueError where none can be told."""
        if self.model.config.input.whole_rows or (columns := _columns(rows)) is None:
            return self
        names = input_columns(list(columns), columns.get, self.model.config.input, self._of_words, self.input_column)
        knowing = copy.copy(self)
        knowing.input_column = self.input_column or names[0]
        return knowing

    def _parts(self, rows: Any, size: int) -> Iterator[tuple["FPTPipeline", Any, int]]:
        """Some rows at a time, the number of the first of them, and what answers them."""
        self._check(rows)
        answering, start = self, 0
        for part in _cut(rows, size):
            answering = answering if start else self.knowing_column(part)
            yield answering, part, start
            start += _count(part)

    def _check(self, rows: Any) -> None:
        """Raise ValueError for an array that is one row, and for what is none."""
        kind, shape = self.model.config.input, np.shape(rows) if hasattr(rows, "__array__") else None
        if kind.modality == "image" and shape is not None and not hasattr(rows, "iloc"):
            colour = (self.model.config.num_channels or 3) == 3 and shape[0] == 3
            if len(shape) == 2 or (len(shape) == 3 and (shape[-1] in (1, 3) or colour)):
                raise ValueError(
                    f"an array of images has an axis of images first, and this one of {shape} looks like one image: "
                    "write [array], or list(array) for several grey ones."
                )
        if not hasattr(rows, "__len__") and not isinstance(rows, datasets.IterableDataset):
            raise ValueError(
                f"rows are a DataFrame, a datasets.Dataset, a list or an array, got {type(rows).__name__}: write "
                "list(rows), or [row] for one."
            )

    def _values(self, rows: Any) -> Sequence[Any]:
        """What each row is: a value of a column of a table or of records, or the row itself; of words, a list."""
        columns = _columns(rows)
        if columns is None:
            values = list(rows)
        else:
            kind = self.model.config.input
            names = input_columns(list(columns), columns.get, kind, self._of_words, self.input_column)
            values = columns[names[0]] if len(names) == 1 else list(zip(*map(columns.get, names), strict=True))
        values = [row.tolist() if isinstance(row, np.ndarray) and row.dtype.kind in "OUST" else row for row in values]
        return [row.split() if isinstance(row, str) else row for row in values] if self._of_words else values


def _one(row: Any) -> Any:
    """One row. Raises ValueError for a dict of lists, which may be several."""
    if isinstance(row, Mapping) and not IS_ONE & row.keys():
        if row and all(isinstance(value, (list, tuple, np.ndarray)) for value in row.values()):
            raise ValueError(
                "a dict is one row, but each value of this one is a list: write [record] if it is one, and "
                "datasets.Dataset.from_dict(columns) for several rows."
            )
    return row


def _columns(rows: Any) -> dict[str, Sequence[Any]] | None:
    """The columns of a part of a table or of records; None where a row is one thing."""
    if hasattr(rows, "columns"):
        return {column: list(rows[column]) for column in rows.columns}
    if isinstance(rows, Mapping):
        return {column: list(values) for column, values in rows.items()}
    if isinstance(rows, (list, tuple)) and isinstance(rows[0], Mapping) and not IS_ONE & rows[0].keys():
        return {column: [row.get(column) for row in rows] for column in rows[0]}
    return None


def _cut(rows: Any, size: int) -> Iterator[Any]:
    """Some rows at a time."""
    if isinstance(rows, datasets.IterableDataset):
        yield from rows.with_format(None).batch(size)
        return
    if hasattr(rows, "column_names"):
        rows = rows.with_format(None)
    for start in range(0, len(rows), size):
        yield rows.iloc[start : start + size] if hasattr(rows, "iloc") else rows[start : start + size]


def _count(part: Any) -> int:
    return len(next(iter(part.values()))) if isinstance(part, Mapping) else len(part)


def pipeline(
    model: str | os.PathLike | FPTPreTrainedModel,
    *,
    processor: Any = None,
    base_model_name_or_path: "str | os.PathLike | FrozenBase | None" = None,
    input_column: str | None = None,
    device: str | torch.device | None = None,
    **kwargs: Any,
) -> FPTPipeline | FPTForecastPipeline:
    """Load a delta and its processor, and answer rows with them: see `FPTPipeline` and `FPTForecastPipeline`.

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
    model = model if device is None else model.to(device)
    if isinstance(model, FPTForTimeSeriesPrediction):
        if input_column is not None:
            raise ValueError("the processor of forecasts knows its columns: leave input_column out.")
        return FPTForecastPipeline(model, processor)
    return FPTPipeline(model, processor, input_column)
