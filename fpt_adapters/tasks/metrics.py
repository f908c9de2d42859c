"""Metrics as `evaluate.Metric` classes, created directly so that no script is looked up on the Hub."""

from typing import Any

import datasets
import evaluate
import numpy as np

from ..heads.problems import IGNORED_LABEL


class Accuracy(evaluate.Metric):
    """The share of labelled positions that are predicted right.

    `compute(predictions=..., references=...)` takes integer arrays of the same shape; positions whose reference is
    -100 are left out. Returns `{"accuracy": float in 0..1}`. Raises ValueError if the shapes differ or no position is
    labelled.
    """

    def _info(self) -> evaluate.MetricInfo:
        return evaluate.MetricInfo(
            description="Share of labelled positions predicted right; the reference -100 is left out.",
            citation="",
            features=datasets.Features(
                {"predictions": datasets.Value("int64"), "references": datasets.Value("int64")}
            ),
        )

    def _compute(self, predictions, references) -> dict[str, float]:
        predictions, references = np.asarray(predictions), np.asarray(references)
        labelled = references != IGNORED_LABEL
        if not labelled.any():
            raise ValueError("accuracy needs at least one labelled position, but every reference is -100.")
        return {"accuracy": float((predictions[labelled] == references[labelled]).mean())}


def joined(values: Any) -> np.ndarray:
    """Join what Trainer passes to a metric: a list of batches if `eval_do_concat_batches=False`, else one array."""
    return np.concatenate(_batches(values))


def accuracy(predictions: np.ndarray | list[np.ndarray], references: np.ndarray | list[np.ndarray]) -> float:
    """Accuracy of `predictions` (integers of any shape) for `references` (the same shape; -100 is left out).

    Both may be lists of batches of any lengths. Raises ValueError if the shapes differ or no position is labelled.
    """
    predictions, references = _batches(predictions), _batches(references)
    shapes = [[batch.shape for batch in batches] for batches in (predictions, references)]
    if shapes[0] != shapes[1]:
        raise ValueError(f"predictions and references need one shape, got {shapes[0]} and {shapes[1]}.")
    flat = [np.concatenate([batch.reshape(-1) for batch in batches]) for batches in (predictions, references)]
    return Accuracy(keep_in_memory=True).compute(predictions=flat[0], references=flat[1])["accuracy"]


def _batches(values: np.ndarray | list[np.ndarray]) -> list[np.ndarray]:
    is_list = isinstance(values, list) and values and all(isinstance(batch, np.ndarray) for batch in values)
    return values if is_list else [np.asarray(values)]


def majority_floor(labels: np.ndarray) -> float:
    """The best accuracy of a constant answer on integer `labels` (examples,): the share of the largest class."""
    labels = np.asarray(labels)
    return float(np.unique(labels, return_counts=True)[1].max() / len(labels))
