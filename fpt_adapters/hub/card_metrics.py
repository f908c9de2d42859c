"""The metrics of a card: whether each is a share or a plain number, whether high is better, and which is the main one.

A metric is judged only by the words in its name: `masked_accuracy` and `f1_macro` are shares of 1 and shown as
percentages; `mse`, `r2`, `loss` and unknown names are numbers and shown as they are (0.353 may be anything). For an
unknown name it is also unknown whether high or low is better.
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
FLOOR = "_floor"  # suffix of the name under which a model index has a metric's floor
FIRST = "accuracy"  # the main metric of a run that has it
EVALUATION = "eval_"  # prefix of Trainer's metric names
NO_METRICS = (  # suffixes of what Trainer reports from an evaluation besides metrics
    "jit_compilation_time",
    "model_preparation_time",
    "num_input_tokens_seen",
    "runtime",
    "samples_per_second",
    "steps_per_second",
)


def is_share(name: str, values: Iterable[float] = ()) -> bool:
    """Whether a metric is a share of 1; with any of `values` outside 0..1 (an accuracy of 96.3) it is a number."""
    words = _words(name)
    return bool(words & SHARES) and not words & LOW and all(0 <= value <= 1 for value in values)


def better_high(name: str) -> bool | None:
    """Whether higher values of a metric are better; None if its name does not tell."""
    words = _words(name)
    low = bool(words & LOW)
    return low == (NEGATED in words) if low or words & HIGH else None


def main_metric(history: Iterable[Mapping[str, Any]]) -> str | None:
    """The main metric of a run, by its name in Trainer's log ("eval_accuracy").

    Accuracy if there is one, else the first that is no loss, else the first; None if nothing was evaluated.
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
