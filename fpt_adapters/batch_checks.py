"""Batches are checked before they reach the model: their values, and of the first one whether it fits the model."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .configuration_fpt import FPTConfig
from .heads import IGNORED_LABEL
from .pretrained import FPTPreTrainedModel


@dataclass
class CheckedCollator:
    """A data collator whose batches are checked before they reach the model: finite inputs, labels in range."""

    collator: Callable[[Sequence[Any]], dict[str, Tensor]]
    config: FPTConfig

    def __call__(self, features: Sequence[Any]) -> dict[str, Tensor]:
        """Collate and check. Raises ValueError, naming the input."""
        batch = self.collator(features)
        check_batch(batch, self.config)
        return batch


def check_batch(batch: dict[str, Tensor], config: FPTConfig) -> None:
    """Raise ValueError for NaN or infinite inputs, ids outside the vocabulary, and labels out of range."""
    for name in ("pixel_values", "input_values"):
        if name in batch and not torch.isfinite(batch[name]).all():
            raise ValueError(f"{name} must be finite, but a batch holds NaN or infinity: clean the data first.")
    if "input_ids" in batch:
        _check_range("input_ids", batch["input_ids"], config.vocab_size, "vocab_size")
    labels = batch.get("labels")
    if labels is not None and not labels.is_floating_point() and config.problem_type != "regression":
        _check_range("labels", labels[labels != IGNORED_LABEL], config.num_labels, "num_labels")


def _check_range(name: str, values: Tensor, size: int, size_name: str) -> None:
    wrong = values[(values < 0) | (values >= size)]
    if wrong.numel():
        raise ValueError(f"{name} must lie in 0..{size - 1} ({size_name}={size}), got {wrong[0].item()}.")


@torch.no_grad()
def check_first_batch(model: FPTPreTrainedModel, batch: dict[str, Tensor]) -> None:
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
    projection(batch[projection.input_name].to(device), None if mask is None else mask.to(device))
    projection.train(model.training)
