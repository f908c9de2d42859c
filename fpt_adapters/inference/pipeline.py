"""`pipeline`: raw rows -> answers, for every input and head, also those that transformers has no pipeline for."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoProcessor

from .. import modeling_fpt
from ..modeling_fpt import FPTForTimeSeriesPrediction, FPTForTokenClassification
from ..models.frozen_base import FrozenBase
from ..models.pretrained import FPTPreTrainedModel
from .answers import answers_of
from .forecasts import FPTForecastPipeline
from .texts import answers_of_words, encode_texts

BATCH_SIZE = 32
WORD_COLUMNS = ("tokens", "words")
IS_ONE = {"array", "bytes"}  # a dict with one of them is a clip or a picture, and no record


class FPTPipeline:
    """A model and its processor: rows -> answers.

    Rows are a pandas DataFrame, a `datasets.Dataset`, a list of records (dicts), or, where a row is one thing (a
    text, a pair of texts, a list of words, an image, a series, a wave), a list or an array of these. The result is of
    the same kind: a DataFrame with the index of the one that came, else a list of records. A model that labels words
    answers for each of them; a string is cut at its spaces. `input_column`: which column has the text, the image ...,
    or two with a comma between. `folder`: where images and sounds lie whose paths are relative.
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
        for start, part in _parts(rows, batch_size):
            yield self.answer(part, start)

    def inputs(self, rows: Any, batch_size: int = BATCH_SIZE) -> Iterator[dict[str, Tensor]]:
        """What the model takes of `rows`, a batch at a time: tensors by name, padded to the longest of the batch."""
        for start, part in _parts(rows, batch_size):
            yield self._taken(self._encoded(part, start))

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

    def _values(self, rows: Any) -> Sequence[Any]:
        """What each row is: a value of a column of a table or of records, or the row itself; of words, a list."""
        if hasattr(rows, "columns"):
            values = self._cells(list(rows.columns), lambda column: list(rows[column]))
        elif isinstance(rows, Mapping):
            values = self._cells(list(rows), lambda column: list(rows[column]))
        elif isinstance(rows, (list, tuple)) and isinstance(rows[0], Mapping) and not IS_ONE & rows[0].keys():
            values = self._cells(list(rows[0]), lambda column: [row[column] for row in rows])
        else:
            values = list(rows)
        return [row.split() if isinstance(row, str) else row for row in values] if self._of_words else values

    def _cells(self, columns: list[str], read: Callable[[str], list[Any]]) -> list[Any]:
        """The values of the column with the inputs; of several, a tuple of them a row."""
        usual, given = self.model.config.input.columns, self.input_column
        usual = WORD_COLUMNS + usual if self._of_words else usual
        names = [name for name in usual if name in columns] or (columns if len(columns) == 1 else [])
        if given is not None:
            names = [given] if given in columns else [name.strip() for name in given.split(",")]
        if not names or not set(names) <= set(columns):
            raise ValueError(
                f"the rows have the columns {', '.join(columns)}: write which of them holds the inputs with "
                f"input_column (of pairs of texts both, with a comma between), or call it {' or '.join(usual)}."
            )
        return list(zip(*map(read, names), strict=True)) if given is not None and len(names) > 1 else read(names[0])


def _parts(rows: Any, size: int) -> Iterator[tuple[int, Any]]:
    """Some rows at a time, and the number of the first of them."""
    if hasattr(rows, "column_names"):
        rows = rows.with_format(None)
    for start in range(0, len(rows), size):
        yield start, rows.iloc[start : start + size] if hasattr(rows, "iloc") else rows[start : start + size]


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
