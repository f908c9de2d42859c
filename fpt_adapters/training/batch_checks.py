"""Batches are checked before they reach the model: their values, and of the first one whether it fits the model."""

import contextlib
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset

from ..configuration_fpt import FPTConfig
from ..models.pretrained import FPTPreTrainedModel
from .label_checks import LabelRule, Wrong, raw_labels

SEQUENCES = ("input_ids", "input_values")  # arguments of which an example has one step after the other
ROW = " This is row "  # what messages name it by
SEARCHED = 60  # seconds that a wrong row is looked for, at most


class BatchError(ValueError):
    """A batch that must not reach the model. Made of its message alone, as workers of a data loader hand it on."""

    @property
    def problem(self) -> str:
        """What is wrong, without the row."""
        return str(self).rpartition(ROW)[0]


@dataclass
class CheckedCollator:
    """A data collator whose batches are checked before they reach the model: inputs, and labels by `rule` (None: not).

    Rows are counted from 0.
    """

    collator: Callable[[Sequence[Any]], dict[str, Tensor]]
    config: FPTConfig
    rule: LabelRule | None

    def __call__(self, features: Sequence[Any]) -> dict[str, Tensor]:
        """Collate and check. Raises BatchError, a ValueError, naming the row."""
        wrong = self._wrong_label(raw_labels(features, self.collator))
        if wrong is None:
            batch = self._collated(features)
            wrong = wrong_input(batch, self.config) or self._wrong_label(batch.get("labels"))
            wrong = wrong or self._wrong_length(batch)
        if wrong is not None:
            raise BatchError(f"{wrong.problem}.{ROW}{wrong.row} of a batch.")
        return batch

    def _collated(self, features: Sequence[Any]) -> dict[str, Tensor]:
        try:
            return self.collator(features)
        except (ValueError, RuntimeError) as error:  # torch's own, which names no row
            lengths = _lengths(features)
            row = next((row for row, length in enumerate(lengths) if length != lengths[0]), None)
            if row is None:
                raise
            raise BatchError(
                f"the sequences of a batch have one length, but one has {lengths[row]} where others have {lengths[0]}:"
                " pad them, with a mask, as FPTFeatureExtractor and DataCollatorWithPadding do, or cut them."
                f"{ROW}{row} of a batch."
            ) from error

    def _wrong_label(self, labels: Sequence[Any] | Tensor | None) -> Wrong | None:
        if self.rule is None or labels is None or all(label is None for label in labels):
            return None
        return self.rule.first_wrong(labels)

    def _wrong_length(self, batch: dict[str, Tensor]) -> Wrong | None:
        name, labels = self.config.input.argument, batch.get("labels")
        if not self.config.input.step_is_token or name not in batch or not isinstance(labels, Tensor):
            return None
        if self.rule is None or not self.rule.per_token:
            return None
        problem = _unlabelled_tokens(labels, batch[name].shape[1])
        return None if problem is None else Wrong(0, problem)


def _unlabelled_tokens(labels: Tensor, tokens: int) -> str | None:
    """What is wrong with the labels (batch, tokens, …) of examples with so many tokens."""
    if labels.shape[1] == tokens:
        return None
    return (
        f"each token has its labels, but an example with {tokens} tokens has {labels.shape[1]} of them: write -100 "
        "where there is none"
    )


def _lengths(features: Sequence[Any]) -> list[int]:
    """The lengths of the inputs of examples; empty where they have none."""
    inputs = [example.get(name) for example in features if isinstance(example, Mapping) for name in SEQUENCES]
    return [len(one) for one in inputs if isinstance(one, (Sequence, np.ndarray, Tensor))]


def wrong_input(batch: dict[str, Tensor], config: FPTConfig) -> Wrong | None:
    """The first sequence without a real step, with NaN or infinity, or with ids out of range.

    What lies under the mask matters to no model, but for ids, which are looked up all the same.
    """
    mask = batch.get("attention_mask")
    if "input_ids" in batch:
        ids = batch["input_ids"]
        count = config.input.num_ids(config)
        if (wrong := (ids < 0) | (ids >= count)).any():
            rule = f"0..{count - 1} (vocab_size={count})"
            return Wrong(_first_row(wrong), f"input_ids must lie in {rule}, got {ids[wrong][0].item()}")
        if mask is None and config.pad_token_id is not None:
            mask = ids != config.pad_token_id
    if mask is not None and (empty := ~mask.flatten(1).any(dim=1)).any():
        return Wrong(_first_row(empty), "a sequence needs at least one real step, but one has none: drop it")
    for name in ("pixel_values", "input_values", "input_features"):
        if not isinstance(batch.get(name), Tensor) or _is_finite(batch[name]):  # the model says what it takes
            continue
        wrong = ~torch.isfinite(batch[name])
        if name == "input_values" and mask is not None:
            wrong &= (mask != 0).reshape(*mask.shape, *[1] * (wrong.ndim - mask.ndim))
        if wrong.any():
            place = wrong.nonzero()[0, 1:].tolist()
            return Wrong(_first_row(wrong), f"{name} must be finite, but one is NaN or infinity, at {place}: clean it")
    return None


def _is_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite: such a one makes the sum so, which is far quicker than to look at each."""
    return bool(torch.isfinite(values.sum()) or torch.isfinite(values).all())


def _first_row(wrong: Tensor) -> int:
    return int(wrong.nonzero()[0, 0])


@torch.no_grad()
def check_first_batch(
    model: FPTPreTrainedModel,
    batch: dict[str, Tensor],
    rule: LabelRule | None,
    columns: Callable[[], Iterable[str]] | None = None,
) -> None:
    """Raise ValueError for a batch to train on that lacks what the model reads, or its labels, or has other shapes.

    `rule`: of the labels (None: an own loss reads what it likes). `columns`: gives those of the data, for a message
    (None: the batch's).
    """

    def has() -> str:
        return ", ".join(sorted(batch if columns is None else columns()))

    projection = model.fpt_model.input_projection
    if projection.input_name not in batch:
        raise ValueError(
            f"The model takes {projection.input_name}, but the data has {has()}: rename the "
            "column, and set remove_unused_columns=False if a transform makes it."
        )
    if rule is not None and "labels" not in batch:
        raise ValueError(f"The data needs labels to learn from, but has only {has()}: call one of them labels.")
    device = next(model.parameters()).device
    mask = batch.get("attention_mask")
    projection.eval()  # so that its dropout draws nothing
    encoded = projection(batch[projection.input_name].to(device), None if mask is None else mask.to(device))
    projection.train(model.training)
    tokens = encoded.states.shape[1]
    if rule is not None and rule.per_token and (problem := _unlabelled_tokens(batch["labels"], tokens)):
        raise ValueError(f"{problem.capitalize()}.")


# Rows of data sets


def is_held(dataset: object) -> bool:
    """Whether a data set has examples that can be looked at without reading on."""
    return isinstance(dataset, Sized) and not isinstance(dataset, IterableDataset) and len(dataset) > 0


@contextlib.contextmanager
def naming_the_row(called: str, loader_of: Callable[[], DataLoader | None]) -> Iterator[None]:
    """Name the row that makes a batch wrong, where it is found again by `loader_of()`, of the data set `called`."""
    try:
        yield
    except BatchError as error:
        loader = loader_of()
        found = _find_wrong(loader) if is_held(getattr(loader, "dataset", None)) else None
        if found is None:
            raise ValueError(str(error)) from error  # which is not looked for again, in another data set
        row, problem = found
        raise ValueError(f"{problem}{ROW}{row} of {called}.") from error


def _find_wrong(loader: DataLoader) -> tuple[int, str] | None:
    """The first row of a loader's data set that makes a wrong batch, and what is wrong; None where none was found."""
    start = time.monotonic()
    for row in range(len(loader.dataset)):
        try:
            loader.collate_fn([loader.dataset[row]])
        except BatchError as error:
            return row, error.problem
        if time.monotonic() - start > SEARCHED:
            return None
    return None
