"""Checking batches before they reach the model: their values, and whether the first one fits the model."""

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

SEQUENCES = ("input_ids", "input_values")  # arguments that are sequences of steps
ROW = " This is row "  # begins the part of a message that names the row
SEARCHED = 60  # the most seconds spent looking for a wrong row


class BatchError(ValueError):
    """A batch that must not reach the model. Its only argument is the message, as data loader workers require."""

    @property
    def problem(self) -> str:
        """The message without the part that names the row."""
        return str(self).rpartition(ROW)[0]


@dataclass
class CheckedCollator:
    """A data collator that checks its batches: inputs, and labels by `rule` (None: labels are not checked).

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
        except (ValueError, RuntimeError) as error:  # raised by torch, without the row
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
    """What is wrong with labels (batch, tokens, ...) for examples of `tokens` tokens; None if nothing is."""
    if labels.shape[1] == tokens:
        return None
    return (
        f"each token has its labels, but an example with {tokens} tokens has {labels.shape[1]} of them: write -100 "
        "where there is none"
    )


def _lengths(features: Sequence[Any]) -> list[int]:
    """The lengths of the inputs of examples; empty if inputs have no length."""
    inputs = [example.get(name) for example in features if isinstance(example, Mapping) for name in SEQUENCES]
    return [len(one) for one in inputs if isinstance(one, (Sequence, np.ndarray, Tensor))]


def wrong_input(batch: dict[str, Tensor], config: FPTConfig) -> Wrong | None:
    """Find the first sequence without a real step, with NaN or infinity, or with ids out of range; None: all right.

    Values under the mask do not matter, except ids, which are looked up all the same.
    """
    mask = batch.get("attention_mask")
    if "input_ids" in batch and mask is None and config.pad_token_id is not None:
        mask = batch["input_ids"] != config.pad_token_id
    if mask is not None and (empty := ~mask.flatten(1).any(dim=1)).any():
        return Wrong(_first_row(empty), "a sequence needs at least one real step, but one has none: drop it")
    for name in ("pixel_values", "input_values", "input_features"):
        if not isinstance(batch.get(name), Tensor) or _is_finite(batch[name]):  # the model refuses other types
            continue
        wrong = ~torch.isfinite(batch[name])
        if name == "input_values" and mask is not None:
            wrong &= (mask != 0).reshape(*mask.shape, *[1] * (wrong.ndim - mask.ndim))
        if wrong.any():
            place = wrong.nonzero()[0, 1:].tolist()
            return Wrong(_first_row(wrong), f"{name} must be finite, but one is NaN or infinity, at {place}: clean it")
    inputs = batch.get(config.input.argument)
    found = config.input.wrong_ids(config, inputs) if isinstance(inputs, Tensor) else None
    return None if found is None else Wrong(_first_row(found[0]), found[1])


def _is_finite(values: Tensor) -> bool:
    """Whether no value is NaN or infinite. The sum tells in most cases, far faster than looking at each value."""
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
    """Raise ValueError for a training batch without the model's input or labels, or with other shapes.

    `rule`: for the labels (None: the user's own loss reads them). `columns`: returns the data's columns for a message
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
    projection.eval()  # so that its dropout draws no random numbers
    encoded = projection(batch[projection.input_name].to(device), None if mask is None else mask.to(device))
    projection.train(model.training)
    tokens = encoded.states.shape[1]
    if rule is not None and rule.per_token and (problem := _unlabelled_tokens(batch["labels"], tokens)):
        raise ValueError(f"{problem.capitalize()}.")


# Rows of data sets


def is_held(dataset: object) -> bool:
    """Whether a data set has examples at hand, unlike a stream or an empty one."""
    return isinstance(dataset, Sized) and not isinstance(dataset, IterableDataset) and len(dataset) > 0


@contextlib.contextmanager
def naming_the_row(called: str, loader_of: Callable[[], DataLoader | None]) -> Iterator[None]:
    """Context manager: name the row in a BatchError, found again by `loader_of()`, in the data set `called`."""
    try:
        yield
    except BatchError as error:
        loader = loader_of()
        found = _find_wrong(loader) if is_held(getattr(loader, "dataset", None)) else None
        if found is None:
            raise ValueError(str(error)) from error  # no BatchError, so that no outer block searches another data set
        row, problem = found
        raise ValueError(f"{problem}{ROW}{row} of {called}.") from error


def _find_wrong(loader: DataLoader) -> tuple[int, str] | None:
    """The first row of a loader's data set that makes a wrong batch, and what is wrong; None if none was found."""
    start = time.monotonic()
    for row in range(len(loader.dataset)):
        try:
            loader.collate_fn([loader.dataset[row]])
        except BatchError as error:
            return row, error.problem
        if time.monotonic() - start > SEARCHED:
            return None
    return None
