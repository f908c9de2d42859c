"""What the metrics of a card are: shares or plain numbers, better high or low, and which one speaks for a run.

A metric is known by the words of its name alone, whoever computed it: `masked_accuracy` and `f1_macro` are shares of
1, and shown as percentages; `mse`, `r2`, `loss` and names that nobody knows are numbers, and shown as they are (0.353
may be anything). Of a name that nobody knows it is also not known whether high or low is better.
"""

import math
import re
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

SHARES = {"acc", "accuracy", "f1", "fbeta", "jaccard", "precision", "recall", "sensitivity", "specificity"}
HIGH = SHARES | {"auc", "auroc", "bleu", "corr", "correlation", "kappa", "matthews", "mcc", "pearson", "pearsonr"}
HIGH |= {"r2", "rouge", "rougel", "spearman", "spearmanr"}
LOW = {"brier", "cer", "error", "loss", "mae", "mape", "mse", "msle", "nll", "perplexity", "ppl", "rmse", "wer"}
NEGATED = "neg"  # scikit-learn's `neg_mean_squared_error`: minus an error
FLOOR = "_floor"  # ends the name under which a metric's floor stands beside it in a model index
FIRST = "accuracy"  # what speaks for a run that has it
EVALUATION = "eval_"  # what Trainer's names of metrics begin with
NO_METRICS = (  # ends of what Trainer reports of an evaluation besides metrics
    "jit_compilation_time",
    "model_preparation_time",
    "num_input_tokens_seen",
    "runtime",
    "samples_per_second",
    "steps_per_second",
)


def is_share(name: str, values: Iterable[float] = ()) -> bool:
    """Whether a metric is a share of 1; one with `values` outside 0..1 (an accuracy of 96.3) is a number."""
    words = _words(name)
    return bool(words & SHARES) and not words & LOW and all(0 <= value <= 1 for value in values)


def better_high(name: str) -> bool | None:
    """Whether a metric's higher values are the better ones; None where nobody knows."""
    words = _words(name)
    low = bool(words & LOW)
    return low == (NEGATED in words) if low or words & HIGH else None


def main_metric(history: Iterable[Mapping[str, Any]]) -> str | None:
    """The metric that speaks for a run, by its name in Trainer's log ("eval_accuracy").

    Accuracy where there is one, else the first that is no loss, else the first; None where nothing was evaluated.
    """
    names = [name for row in history for name, value in row.items() if _is_metric(name) and is_number(value)]
    wanted = [name for name in names if name == EVALUATION + FIRST] or [n for n in names if not n.endswith("loss")]
    return next(iter(wanted or names), None)


def metric_name(logged: str) -> str:
    """eval_accuracy -> accuracy."""
    return logged.removeprefix(EVALUATION)


def is_number(value: Any) -> bool:
    """Whether a value of a log is a finite number."""
    return isinstance(value, (int, float, np.number)) and not isinstance(value, bool) and math.isfinite(value)


def mean_floors(predictions: Any, labels: Any, metrics: Mapping[str, float]) -> dict[str, float]:
    """What always answering the mean of `labels` scores, by the names of those `metrics` that are known here.

    `predictions` and `labels`: floats (examples,) or (examples, numbers), as an evaluation gives them; a metric is
    known where its value is what this module computes of them, so that no floor is in other units than its metric.
    Empty for all else.
    """
    if not (_are_numbers(predictions) and _are_numbers(labels)) or predictions.size != labels.size:
        return {}
    if not np.issubdtype(labels.dtype, np.floating):
        return {}
    rows = len(labels)
    predictions, labels = (np.float64(array).reshape(rows, -1) for array in (predictions, labels))  # (rows, numbers)
    mean, floors = np.broadcast_to(labels.mean(axis=0), labels.shape), {}
    with np.errstate(all="ignore"):  # what is not finite agrees with nothing
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
    """The mean over the numbers of an example, as scikit-learn's; NaN for labels that are all the same."""
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


def _is_metric(name: str) -> bool:
    return name.startswith(EVALUATION) and not name.endswith(NO_METRICS)


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", name.lower()))
