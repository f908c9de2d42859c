"""The numbers of a model card: counted and measured here, formatted only where the text is made."""

import os
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from sys import float_info
from typing import Any

import numpy as np
from transformers.utils import SAFE_WEIGHTS_NAME

from ..configuration_fpt import FPTConfig
from ..heads.heads import IGNORED_LABEL
from .card_metrics import better_high, is_number, main_metric, metric_name


def confusion_counts(predictions: np.ndarray, labels: np.ndarray, num_labels: int) -> np.ndarray:
    """How often each label (row) was answered by each (column): int64 (num_labels, num_labels).

    `predictions` and `labels` are integers of one shape, any; positions labelled -100 are left out. Raises ValueError
    where the shapes differ, and for numbers outside 0..num_labels-1.
    """
    predictions, labels = np.asarray(predictions), np.asarray(labels)
    if predictions.shape != labels.shape:
        raise ValueError(f"predictions and labels need one shape, got {predictions.shape} and {labels.shape}.")
    labelled = labels != IGNORED_LABEL
    predictions, labels = predictions[labelled], labels[labelled]  # (positions,)
    for name, values in (("predictions", predictions), ("labels", labels)):
        wrong = values[(values < 0) | (values >= num_labels)]
        if wrong.size:
            raise ValueError(f"{name} must lie in 0..{num_labels - 1} (num_labels={num_labels}), got {wrong[0]}.")
    cells = labels.astype(np.int64) * num_labels + predictions.astype(np.int64)
    return np.bincount(cells, minlength=num_labels * num_labels).reshape(num_labels, num_labels)


MOST = float_info.max  # of a number that a card can show


def numbers_of(values: Mapping[str, Any]) -> dict[str, float]:
    """Those of some named values that are one number each; a card has no place for lists, texts and the like."""
    numbers = {name: value.item() if _is_scalar(value) else value for name, value in values.items()}
    return {name: value for name, value in numbers.items() if isinstance(value, Real) and not abs(value) > MOST}


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (np.ndarray, np.generic)) and value.ndim == 0


def confusion_of(predictions: Any, labels: Any, config: FPTConfig) -> np.ndarray | None:
    """Counts (labels, labels) of a classifier's answers, given as class ids or as finite logits; None for all else.

    Both may be lists of batches. Floats are class ids nowhere: they may be probabilities or margins.
    """
    if config.num_labels < 2 or config.problem_type not in (None, "single_label_classification"):
        return None
    if isinstance(predictions, list) and isinstance(labels, list) and len(predictions) == len(labels) > 0:
        parts = [confusion_of(*batch, config) for batch in zip(predictions, labels, strict=True)]
        return None if any(part is None for part in parts) else np.sum(parts, axis=0)
    if not (isinstance(predictions, np.ndarray) and isinstance(labels, np.ndarray)):
        return None
    logits = predictions.ndim == labels.ndim + 1 and predictions.shape[-1] == config.num_labels
    if logits and predictions.dtype.kind == "f" and np.isfinite(predictions).all():
        predictions = predictions.argmax(-1)
    if predictions.shape != labels.shape or predictions.dtype.kind not in "biu" or labels.dtype.kind not in "biu":
        return None
    labelled = labels != IGNORED_LABEL
    ids = predictions[labelled], labels[labelled]
    if not all(((one >= 0) & (one < config.num_labels)).all() for one in ids):
        return None
    return confusion_counts(*ids, config.num_labels)


def majority_floor_of(confusion: np.ndarray) -> float:
    """The best accuracy that one constant answer reaches: the share of the largest row of `confusion`.

    Raises ValueError where nothing was counted.
    """
    by_label = np.asarray(confusion).sum(axis=1)  # (labels,)
    if not by_label.any():
        raise ValueError("A floor needs at least one labelled position, but the confusion matrix counts none.")
    return float(by_label.max() / by_label.sum())


def delta_size(folder: str | os.PathLike) -> int | None:
    """Bytes of the delta that is saved in `folder`; None where there is none."""
    file = Path(folder) / SAFE_WEIGHTS_NAME
    return file.stat().st_size if file.is_file() else None


def best_step(history: Sequence[Mapping[str, float]], metric: str | None = None) -> tuple[int, float] | None:
    """Step and value of the best `metric` (None: the main one) in Trainer's log, at the first of equals.

    None where fewer than two steps were scored, so that there was nothing to choose from, and for a metric of which
    nobody knows whether high or low is better.
    """
    metric = metric or main_metric(history)
    scored = [row for row in history if "step" in row and is_number(row.get(metric))]
    high = better_high(metric_name(metric or ""))
    if high is None or len({row["step"] for row in scored}) < 2:
        return None
    best = (max if high else min)(scored, key=lambda row: row[metric])
    return int(best["step"]), float(best[metric])


def last_loss(history: Sequence[Mapping[str, float]]) -> float | None:
    """The training loss that Trainer logged last; None if it logged none."""
    losses = [float(row["loss"]) for row in history if "loss" in row]
    return losses[-1] if losses else None
