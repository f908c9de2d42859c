"""Scores of classes, of several labels and of numbers, as `evaluate.Metric` classes that are built directly."""

import datasets
import evaluate
import numpy as np
import sklearn.metrics

from ..heads.problems import IGNORED_LABEL


class ClassScores(evaluate.Metric):
    """Accuracy and macro-F1, and for two classes the area under the ROC curve where both occur.

    `compute(predictions=..., references=...)` takes logits (examples, classes) and classes (examples,); examples whose
    reference is -100 are left out. Macro-F1 is the mean over the classes that occur in either.
    """

    def _info(self) -> evaluate.MetricInfo:
        features = {"predictions": datasets.Sequence(datasets.Value("float64")), "references": datasets.Value("int64")}
        return evaluate.MetricInfo(
            description="Accuracy, macro-F1, ROC AUC.", citation="", features=datasets.Features(features)
        )

    def _compute(self, predictions, references) -> dict[str, float]:
        logits, labels = np.asarray(predictions), np.asarray(references)
        logits, labels = logits[labels != IGNORED_LABEL], labels[labels != IGNORED_LABEL]
        answers = logits.argmax(axis=-1)
        scores = {
            "accuracy": sklearn.metrics.accuracy_score(labels, answers),
            "macro_f1": sklearn.metrics.f1_score(labels, answers, average="macro", zero_division=0),
        }
        if logits.shape[-1] == 2 and len(np.unique(labels)) == 2:
            scores["roc_auc"] = sklearn.metrics.roc_auc_score(labels, logits[:, 1] - logits[:, 0])
        return {name: float(score) for name, score in scores.items()}


class LabelScores(evaluate.Metric):
    """Exact match (the whole set is right), micro- and macro-F1 of several labels at once.

    `compute(predictions=..., references=...)` takes logits and labels in 0..1, both (examples, labels): a label is
    answered where its logit lies above 0.
    """

    def _info(self) -> evaluate.MetricInfo:
        features = dict.fromkeys(("predictions", "references"), datasets.Sequence(datasets.Value("float64")))
        return evaluate.MetricInfo(
            description="Exact match, micro-F1, macro-F1.", citation="", features=datasets.Features(features)
        )

    def _compute(self, predictions, references) -> dict[str, float]:
        answers, labels = np.asarray(predictions) > 0, np.asarray(references) > 0.5
        scores = {"exact_match": (answers == labels).all(axis=1).mean()}
        for average in ("micro", "macro"):
            scores[f"{average}_f1"] = sklearn.metrics.f1_score(labels, answers, average=average, zero_division=0)
        return {name: float(score) for name, score in scores.items()}


class NumberScores(evaluate.Metric):
    """Mean squared and mean absolute error, and R2 (the mean over the numbers where there are several).

    `compute(predictions=..., references=...)` takes numbers (examples, numbers). R2 needs two examples.
    """

    def _info(self) -> evaluate.MetricInfo:
        features = dict.fromkeys(("predictions", "references"), datasets.Sequence(datasets.Value("float64")))
        return evaluate.MetricInfo(description="MSE, MAE, R2.", citation="", features=datasets.Features(features))

    def _compute(self, predictions, references) -> dict[str, float]:
        numbers, labels = np.asarray(predictions), np.asarray(references)
        scores = {
            "mse": sklearn.metrics.mean_squared_error(labels, numbers),
            "mae": sklearn.metrics.mean_absolute_error(labels, numbers),
        }
        if len(labels) > 1:
            scores["r2"] = sklearn.metrics.r2_score(labels, numbers)
        return {name: float(score) for name, score in scores.items()}
