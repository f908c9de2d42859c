"""What the metrics of a card are: shares or plain numbers, better high or low, and which one speaks for a run.

A metric is known by the words of its name alone, whoever computed it: `masked_accuracy` and `f1_macro` are shares of
1, and shown as percentages; `mse`, `r2`, `loss` and names that nobody knows are numbers, and shown as they are (0.353
may be anything). Of a name that nobody knows it is also not known whether high or low is better.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from ..heads.scores import is_number

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


def _is_metric(name: str) -> bool:
    return name.startswith(EVALUATION) and not name.endswith(NO_METRICS)


def _words(name: str) -> set[str]:
    return set(re.findall(r"[a-z0-9]+", name.lower()))
