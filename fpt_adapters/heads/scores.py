"""Scores that need no metric from the user: the confusion matrix of a classifier, and floors."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from transformers import PreTrainedConfig

from .problems import IGNORED_LABEL, Classes


def is_number(value: Any) -> bool:
    """Whether a logged value is a finite number."""
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and math.isfinite(value)


def confusion_counts(predictions: np.ndarray, labels: np.ndarray, num_labels: int) -> np.ndarray:
    """The confusion matrix, with a row per true label and a column per answer: int64 (num_labels, num_labels).

    `predictions` and `labels` are integers of the same shape; positions labelled -100 are left out. Raises ValueError
    if the shapes differ, and for numbers outside 0..num_labels-1.
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


def confusion_of(predictions: Any, labels: Any, config: PreTrainedConfig) -> np.ndarray | None:
    """The confusion matrix (labels, labels) of a classifier's class ids or finite logits; None for anything else.

    Both arguments may be lists of batches. Floats are never class ids: they may be probabilities or margins.
    """
    if config.num_labels < 2 or config.problem_type not in (None, Classes.name):
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
    """The best accuracy of a constant answer: the share of the largest row of `confusion` (labels, labels).

    Raises ValueError if it counts nothing.
    """
    by_label = np.asarray(confusion).sum(axis=1)  # (labels,)
    if not by_label.any():
        raise ValueError("A floor needs at least one labelled position, but the confusion matrix counts none.")
    return float(by_label.max() / by_label.sum())


def mean_floors(predictions: Any, labels: Any, metrics: Mapping[str, float]) -> dict[str, float]:
    """The scores of always answering the mean of `labels`, for those of `metrics` that are known here.

    `predictions` and `labels`: floats (examples,) or (examples, numbers) from an evaluation. A metric counts as known
    only if this module computes the same value from them, so that a floor has the same units as its metric.
    Returns {} for anything else.
    """
    if not (_are_numbers(predictions) and _are_numbers(labels)) or predictions.size != labels.size:
        return {}
    if not np.issubdtype(labels.dtype, np.floating):
        return {}
    rows = len(labels)
    predictions, labels = (np.float64(array).reshape(rows, -1) for array in (predictions, labels))  # (rows, numbers)
    mean, floors = np.broadcast_to(labels.mean(axis=0), labels.shape), {}
    with np.errstate(all="ignore"):  # values that are not finite never agree
        for name, value in metrics.items():
            score = REGRESSION_SCORES.get(name)
            if score is not None and is_number(value) and _agree(score(predictions, labels), value):
                floors[name] = score(mean, labels)
    return floors


def _are_numbers(values: Any) -> bool:
    return isinstance(values, np.ndarray) and values.ndim > 0 and values.size > 0 and values.dtype.kind in "biuf"


def _mse(predictions: np.ndarray, labels: np.ndarray) -> float:
    return float(((predictions - labels) ** 2).mean())


def _mae(predictions: np.ndarray, labels: np.ndarray) -> float:
    return float(np.abs(predictions - labels).mean())


def _rmse(predictions: np.ndarray, labels: np.ndarray) -> float:
    return math.sqrt(_mse(predictions, labels))


def _r2(predictions: np.ndarray, labels: np.ndarray) -> float:
    """R2, averaged over the numbers of an example as in scikit-learn; NaN if all labels are the same."""
    spread = ((labels - labels.mean(axis=0)) ** 2).sum(axis=0)  # (numbers,)
    rest = ((predictions - labels) ** 2).sum(axis=0)
    return float((1 - rest / spread).mean()) if spread.all() else math.nan


REGRESSION_SCORES = {
    "mae": _mae,
    "mean_absolute_error": _mae,
    "mean_squared_error": _mse,
    "mse": _mse,
    "r2": _r2,
    "r2_score": _r2,
    "rmse": _rmse,
    "root_mean_squared_error": _rmse,
}


def _agree(computed: float, reported: float) -> bool:
    return math.isclose(computed, reported, rel_tol=1e-3, abs_tol=1e-6)
