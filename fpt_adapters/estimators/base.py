"""What classifier and regressor share: their parameters, and how rows become examples."""

import os
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas
import torch
from sklearn.model_selection import train_test_split
from sklearn.utils.validation import check_is_fitted, validate_data

from ..configuration_fpt import FPTConfig
from ..data.collating import PADDING, collate_padded, without_padding
from ..inference.pipeline import FPTPipeline, pipeline
from ..models.pretrained import FPTPreTrainedModel
from .kinds import NAMES, found_kind, kind_named, take
from .training import BATCH, DEFAULT_BASE, TrainedEstimator


class FPTEstimator(TrainedEstimator):
    """Base of `FPTClassifier` and `FPTRegressor`.

    `base`: a Hub id, a folder, a `FrozenBase`, or a transformers configuration, whose weights are random then.
    `input_type`: "table", "text", "series", "images" or "audio" (None: found from X; two axes are a table), or
    "native": what the base was made for, images or sound too, which its own processor and embeddings read. Training
    takes `max_epochs` at most, and stops where the loss on `validation_fraction` of the rows has not become lower for
    `patience` epochs; the best epoch is kept (None: it goes on to the end, and holds no rows out). `model_kwargs`: for
    `from_backbone`, such as `trainable`, `pooling`, `dtype`. `training_arguments`: transformers' TrainingArguments by
    name, which win. `random_state`: the seed of new weights, batches and held-out rows (None: another each time).

    After `fit`: `model_`, `processor_`, `n_iter_` (epochs).
    """

    def __init__(
        self,
        base: Any = DEFAULT_BASE,
        *,
        input_type: str | None = None,
        max_epochs: int = 100,
        learning_rate: float = 1e-3,
        batch_size: int = 16,
        validation_fraction: float = 0.1,
        patience: int | None = 10,
        model_kwargs: dict[str, Any] | None = None,
        training_arguments: dict[str, Any] | None = None,
        random_state: int | None = None,
    ):
        self.base = base
        self.input_type = input_type
        self.max_epochs = max_epochs
        self.learning_rate = learning_rate
        self.batch_size = batch_size
        self.validation_fraction = validation_fraction
        self.patience = patience
        self.model_kwargs = model_kwargs
        self.training_arguments = training_arguments
        self.random_state = random_state

    def __sklearn_tags__(self):
        tags = super().__sklearn_tags__()
        tags.input_tags.allow_nan = True
        tags.input_tags.string = True
        tags.input_tags.three_d_array = True
        tags.non_deterministic = self.random_state is None
        return tags

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str | os.PathLike, **kwargs: Any):
        """Load what was saved or pushed, ready to predict; `kwargs` as for `fpt_adapters.pipeline`."""
        loaded = pipeline(pretrained_model_name_or_path, **kwargs)
        config = loaded.model.config
        estimator = cls(base=config.base_model, input_type=_kind_of(config))
        estimator.model_, estimator.processor_ = loaded.model, loaded.processor
        estimator.n_iter_ = 0
        estimator._after_loading()
        return estimator

    # What a subclass says

    def _after_loading(self) -> None:
        """Set the fitted attributes that the model's configuration tells."""

    # Fitting

    def _fit(self, X: Any, labels: np.ndarray, fields: dict[str, Any], stratify: np.ndarray | None = None) -> None:
        """Train on rows X that were checked, with labels (rows, ...)."""
        kind = kind_named(self._kind, self.base)
        with self._seeded() as seed:
            parts = [part for part in self._split(len(labels), seed, stratify) if len(part)]
            self.processor_, found = kind.fit(take(X, parts[0]), self.base, lambda row: f"row {parts[0][row]}")
            model = self._build(kind.model_class, found | fields)
            examples = self._examples(model, X, labels)  # of all rows, so that a wrong one is named by its number
            splits = [[examples[row] for row in part] for part in parts]
            self._train(model, splits[0], splits[1] if len(splits) > 1 else None, self._collate, seed)

    def _split(self, count: int, seed: int, stratify: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        rows = np.arange(count)
        held = round(self.validation_fraction * count)
        if self.patience is None or held < 1 or count - held < 2:
            return rows, rows[:0]
        if stratify is not None:
            counts = np.unique(stratify, return_counts=True)[1]
            if counts.min() < 2 or min(held, count - held) < len(counts):
                stratify = None
        train, validation = train_test_split(rows, test_size=held, random_state=seed, stratify=stratify)
        return np.sort(train), np.sort(validation)

    def _examples(self, model: FPTPreTrainedModel, X: Any, labels: np.ndarray) -> list[dict[str, Any]]:
        """The model's inputs for each row, without padding, and its label."""
        batches = FPTPipeline(model, self.processor_).inputs(X, BATCH)
        examples = [example for batch in batches for example in without_padding(batch)]
        return [example | {"labels": torch.as_tensor(label)} for example, label in zip(examples, labels, strict=True)]

    def _collate(self, features: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        pad = getattr(self.processor_, "pad_token_id", None)
        return collate_padded(features, PADDING if pad is None else PADDING | {"input_ids": pad, "token_type_ids": 0})

    # Rows

    def _checked(self, X: Any, reset: bool) -> Any:
        """X as it is used: a table of numbers as an array, its columns those of `fit`. Raises ValueError."""
        if reset:
            self._kind = found_kind(X) if self.input_type is None else self.input_type
            if self._kind not in NAMES:
                raise ValueError(f"input_type is one of {', '.join(NAMES)}; got {self._kind!r}.")
        if self._kind == "table" and isinstance(X, list) and X and isinstance(X[0], Mapping):
            X = pandas.DataFrame(X)
        if hasattr(X, "iloc") and not reset and not hasattr(self, "n_features_in_"):
            return X  # of a model that was loaded: its processor knows the columns by name
        if self._kind != "table":
            if len(X) == 0:
                raise ValueError("X has no rows: give at least one.")
            return X
        least = 2 if reset else 1  # rows
        array = validate_data(  # a frame as objects, because no number is of one kind with a date
            self,
            X.astype(object) if isinstance(X, pandas.DataFrame) else X,
            reset=reset,
            dtype=None,
            ensure_all_finite="allow-nan",
            ensure_min_samples=least,
        )
        if np.iscomplexobj(array):
            raise ValueError("Complex data not supported: a table holds real numbers and text.")
        return X if hasattr(X, "iloc") else array

    def _logits(self, X: Any) -> np.ndarray:
        """Logits (rows, num_labels)."""
        check_is_fitted(self)
        X = self._checked(X, reset=False)
        answering = FPTPipeline(self.model_, self.processor_)
        return np.concatenate([answering.logits(batch).float().numpy() for batch in answering.inputs(X, BATCH)])


def _kind_of(config: FPTConfig) -> str:
    """What X is called that a model of this configuration reads."""
    if config.input_type == "native":
        return "text" if config.input.modality == "text" else "native"
    return "series" if config.input_type == "values" else config.input_type
