"""`FPTClassifier`: one class a row, or several labels at once."""

from typing import Any

import numpy as np
import pandas
from scipy.special import expit, softmax
from sklearn.base import ClassifierMixin
from sklearn.utils import assert_all_finite
from sklearn.utils.multiclass import check_classification_targets, type_of_target
from sklearn.utils.validation import check_consistent_length, column_or_1d

from ..data.labels import label_fields
from ..heads.problems import Classes, SeveralLabels
from .base import FPTEstimator


class FPTClassifier(ClassifierMixin, FPTEstimator):
    """A frozen pretrained transformer as a classifier, in scikit-learn's manner.

    y: one class a row (rows,), or several labels, 0 or 1 for each (rows, labels). The parameters are `FPTEstimator`'s.
    After `fit` there is `classes_`, too.
    """

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.classifier_tags.multi_label = True
        return tags

    def fit(self, X: Any, y: Any) -> "FPTClassifier":
        """Train on rows X and their classes y. Raises ValueError for rows and classes that cannot be learned from."""
        X = self._checked(X, reset=True)
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None: a classifier learns classes.")
        if np.asarray(y).dtype.kind == "f":
            assert_all_finite(y, input_name="y")
        elif (missing := pandas.isna(np.asarray(y, dtype=object)).ravel()).any():
            raise ValueError(
                f"Input y contains NaN: each row needs a class, but y has none in row {missing.argmax()}."
            )
        check_classification_targets(y)
        check_consistent_length(X, y)
        self._several = type_of_target(y) == "multilabel-indicator"
        if self._several:
            labels = np.asarray(y, dtype=np.float32)  # (rows, labels)
            self.classes_ = np.arange(labels.shape[1])
            fields = {"num_labels": labels.shape[1], "problem_type": SeveralLabels.name}
            self._fit(X, labels, fields)
            return self
        self.classes_, labels = np.unique(column_or_1d(y, warn=True), return_inverse=True)
        if len(self.classes_) < 2:
            raise ValueError(
                f"a classifier learns two classes or more, but y has 1 class, {self.classes_.tolist()[0]!r}."
            )
        fields = label_fields([str(name) for name in self.classes_.tolist()]) | {"problem_type": Classes.name}
        self._fit(X, labels.astype(np.int64), fields, labels)
        return self

    def decision_function(self, X: Any) -> np.ndarray:
        """Logits (rows, classes); for two classes, how much the second's lies above the first's (rows,)."""
        logits = self._logits(X)
        return logits[:, 1] - logits[:, 0] if len(self.classes_) == 2 and not self._several else logits

    def predict_proba(self, X: Any) -> np.ndarray:
        """Probabilities (rows, classes); of several labels, each by itself."""
        logits = self._logits(X).astype(np.float64)
        return expit(logits) if self._several else softmax(logits, axis=1)

    def predict(self, X: Any) -> np.ndarray:
        """The most probable class (rows,), or which labels (rows, labels)."""
        logits = self._logits(X)
        return (logits > 0).astype(int) if self._several else self.classes_[logits.argmax(axis=1)]

    def _after_loading(self) -> None:
        config = self.model_.config
        self._kind = self.input_type
        self._several = config.problem_type == SeveralLabels.name
        names = [config.id2label[number] for number in range(config.num_labels)]
        self.classes_ = np.arange(len(names)) if self._several else np.array(names)
