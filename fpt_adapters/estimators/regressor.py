"""`FPTRegressor`: a number a row, or several."""

from typing import Any

import numpy as np
from sklearn.base import RegressorMixin
from sklearn.utils.validation import check_array, check_consistent_length

from ..heads.problems import Numbers
from .base import FPTEstimator


class FPTRegressor(RegressorMixin, FPTEstimator):
    """A frozen pretrained transformer as a regressor, in scikit-learn's manner.

    y: a number a row (rows,), or several (rows, numbers); they are standardised by the rows of `fit`, and answers come
    back in their units. The parameters are `FPTEstimator`'s.
    """

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.target_tags.multi_output = True
        return tags

    def fit(self, X: Any, y: Any) -> "FPTRegressor":
        """Train on rows X and their numbers y. Raises ValueError for what cannot be learned from."""
        X = self._checked(X, reset=True)
        if y is None:
            raise ValueError("requires y to be passed, but the target y is None: a regressor learns numbers.")
        labels = check_array(y, ensure_2d=False, dtype=np.float64)
        check_consistent_length(X, labels)
        self._several = labels.ndim == 2
        labels = labels.reshape(len(labels), -1)  # (rows, numbers)
        std = labels.std(axis=0)
        scale = {"label_mean": labels.mean(axis=0).tolist(), "label_scale": np.where(std > 0, std, 1.0).tolist()}
        self._fit(X, labels.astype(np.float32), scale | {"num_labels": labels.shape[1], "problem_type": Numbers.name})
        return self

    def predict(self, X: Any) -> np.ndarray:
        """The numbers, (rows,) or (rows, numbers) as y was."""
        numbers = self._logits(X).astype(np.float64)
        return numbers if self._several else numbers[:, 0]

    def _after_loading(self) -> None:
        self._kind = self.input_type
        self._several = self.model_.config.num_labels > 1
