"""Batches are checked before they reach the model: their values, and of the first one whether it fits the model."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .configuration_fpt import FPTConfig
from .label_checks import LabelRule, Wrong, raw_labels
from .pretrained import FPTPreTrainedModel

ROW = " This is row "  # what messages name it by


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
            batch = self.collator(features)
            wrong = wrong_input(batch, self.config) or self._wrong_label(batch.get("labels"))
        if wrong is not None:
            raise BatchError(f"{wrong.problem}.{ROW}{wrong.row} of a batch.")
        return batch

    def _wrong_label(self, labels: Sequence[Any] | Tensor | None) -> Wrong | None:
        if self.rule is None or labels is None or all(label is None for label in labels):
            return None
        return self.rule.first_wrong(labels)


def wrong_input(batch: dict[str, Tensor], config: FPTConfig) -> Wrong | None:
    """The first sequence without a real step, with NaN or infinity, or with ids out of range.

    What lies under the mask matters to no model, but for ids, which are looked up all the same.
    """
    mask = batch.get("attention_mask")
    if "input_ids" in batch:
        ids = batch["input_ids"]
        if (wrong := (ids < 0) | (ids >= config.vocab_size)).any():
            rule = f"0..{config.vocab_size - 1} (vocab_size={config.vocab_size})"
            return Wrong(_first_row(wrong), f"input_ids must lie in {rule}, got {ids[wrong][0].item()}")
        if mask is None and config.pad_token_id is not None:
            mask = ids != config.pad_token_id
    if mask is not None and (empty := ~mask.flatten(1).any(dim=1)).any():
        return Wrong(_first_row(empty), "a sequence needs at least one real step, but one has none: drop it")
    for name in ("pixel_values", "input_values"):
        if name not in batch or _is_finite(batch[name]):
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
    model: FPTPreTrainedModel, batch: dict[str, Tensor], rule: LabelRule | None, example: Any = None
) -> None:
    """Raise ValueError for a batch to train on that lacks what the model reads, or its labels, or has other shapes.

    `example`: what the batch was made of, whose columns are named.
    """
    columns = ", ".join(sorted(example if isinstance(example, Mapping) else batch))
    projection = model.fpt_model.input_projection
    if projection.input_name not in batch:
        raise ValueError(
            f"The model takes {projection.input_name}, but the data has {columns}: rename the "
            "column, and set remove_unused_columns=False if a transform makes it."
        )
    if "labels" not in batch:
        raise ValueError(f"The data needs labels to learn from, but has only {columns}.")
    device = next(projection.parameters()).device
    mask = batch.get("attention_mask")
    projection.eval()  # so that its dropout draws nothing
    embeds, _ = projection(batch[projection.input_name].to(device), None if mask is None else mask.to(device))
    projection.train(model.training)
    if rule is not None and rule.each and batch["labels"].shape[1] != embeds.shape[1]:
        raise ValueError(
            f"Each token has its labels, but an example with {embeds.shape[1]} tokens has {batch['labels'].shape[1]} "
            "of them: write -100 where there is none."
        )
