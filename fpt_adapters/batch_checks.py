"""Batches are checked before they reach the model: their values, and of the first one whether it fits the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .configuration_fpt import FPTConfig
from .label_checks import LabelRule, raw_labels
from .pretrained import FPTPreTrainedModel


@dataclass
class CheckedCollator:
    """A data collator whose batches are checked before they reach the model: inputs, and labels by `rule` (None: not).

    Rows are counted from 0.
    """

    collator: Callable[[Sequence[Any]], dict[str, Tensor]]
    config: FPTConfig
    rule: LabelRule | None

    def __call__(self, features: Sequence[Any]) -> dict[str, Tensor]:
        """Collate and check. Raises ValueError, naming the input and the row."""
        self._check_labels(raw_labels(features, self.collator))
        batch = self.collator(features)
        check_inputs(batch, self.config)
        self._check_labels(batch.get("labels"))
        return batch

    def _check_labels(self, labels: Sequence[Any] | Tensor | None) -> None:
        if self.rule is None or labels is None or all(label is None for label in labels):
            return
        wrong = self.rule.first_wrong(labels)
        if wrong is not None:
            raise ValueError(f"{wrong.problem}. This is row {wrong.row} of a batch.")


def check_inputs(batch: dict[str, Tensor], config: FPTConfig) -> None:
    """Raise ValueError, naming the row, for a sequence without a real step, NaN or infinity, and ids out of range.

    What lies under the mask matters to no model, but for ids, which are looked up all the same.
    """
    mask = batch.get("attention_mask")
    if "input_ids" in batch:
        ids = batch["input_ids"]
        wrong = (ids < 0) | (ids >= config.vocab_size)
        if wrong.any():
            raise ValueError(
                f"input_ids must lie in 0..{config.vocab_size - 1} (vocab_size={config.vocab_size}), got "
                f"{ids[wrong][0].item()} in {_first_row(wrong)}."
            )
        if mask is None and config.pad_token_id is not None:
            mask = ids != config.pad_token_id
    if mask is not None and not (real := mask.flatten(1).any(dim=1)).all():
        raise ValueError(f"A sequence needs at least one real step, but {_first_row(~real)} has none: drop it.")
    for name in ("pixel_values", "input_values"):
        if name not in batch or torch.isfinite(batch[name]).all():
            continue
        wrong = ~torch.isfinite(batch[name])
        if name == "input_values" and mask is not None:
            wrong = wrong.flatten(2).any(dim=2) & (mask != 0) if wrong.ndim > 2 else wrong & (mask != 0)
        if wrong.any():
            raise ValueError(
                f"{name} must be finite, but {_first_row(wrong)} holds NaN or infinity: clean the data first."
            )


def _first_row(wrong: Tensor) -> str:
    """Where the first True of (batch, ...) lies."""
    row, *rest = wrong.nonzero()[0].tolist()
    return f"row {row} of a batch" + (f" (at step {rest[0]})" if len(rest) == 1 else "")


@torch.no_grad()
def check_first_batch(model: FPTPreTrainedModel, batch: dict[str, Tensor], rule: LabelRule | None) -> None:
    """Raise ValueError for a batch to train on that lacks what the model reads, or its labels, or has other shapes."""
    projection = model.fpt_model.input_projection
    if projection.input_name not in batch:
        raise ValueError(
            f"The model takes {projection.input_name}, but the data has {', '.join(sorted(batch))}: rename the "
            "column, and set remove_unused_columns=False if a transform makes it."
        )
    if "labels" not in batch:
        raise ValueError(f"The data needs labels to learn from, but has only {', '.join(sorted(batch))}.")
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
