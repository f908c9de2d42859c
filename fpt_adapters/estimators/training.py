"""What all estimators share: parameters of training, the training itself, saving and pushing."""

import os
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import numpy as np
import torch
from sklearn.base import BaseEstimator
from sklearn.utils import check_random_state
from sklearn.utils.validation import check_is_fitted
from torch.utils.data import Dataset
from transformers import EarlyStoppingCallback, PreTrainedConfig, PrinterCallback, TrainingArguments, set_seed

from ..models.pretrained import FPTPreTrainedModel
from ..training.random_state import random_state_kept
from ..training.trainer import FPTTrainer

DEFAULT_BASE = "sentence-transformers/all-MiniLM-L6-v2"
QUIET = {"report_to": "none", "disable_tqdm": True, "logging_strategy": "no", "remove_unused_columns": False}
BATCH = 64  # rows that are answered at once
ONE_AT_A_TIME = threading.RLock()  # of fits, whose seeds are those of the process


class TrainedEstimator(BaseEstimator):
    """Base of the estimators, whose constructors set `base`, `model_kwargs`, `random_state` and the like.

    After `fit`: `model_`, `processor_`, `n_iter_` (epochs).
    """

    def save_pretrained(self, save_directory: str | os.PathLike) -> None:
        """Save delta and processor, which Auto classes, `fpt_adapters.pipeline` and `from_pretrained` load."""
        check_is_fitted(self)
        self.model_.save_pretrained(save_directory)
        self.processor_.save_pretrained(save_directory)

    def push_to_hub(self, repo_id: str, **kwargs: Any) -> Any:
        """Push delta, processor and card: `FPTPreTrainedModel.push_to_hub`."""
        check_is_fitted(self)
        return self.model_.push_to_hub(repo_id, **kwargs)

    @contextmanager
    def _seeded(self) -> Iterator[int]:
        """The seed of a fit, set for the block; the process's own random state is kept. Raises ValueError."""
        if self.max_epochs < 1 or not 0 <= self.validation_fraction < 1:
            raise ValueError(
                f"max_epochs is at least 1, and validation_fraction lies in 0..1, below 1; got {self.max_epochs} and "
                f"{self.validation_fraction}."
            )
        seed = self.random_state
        seed = int(np.random.default_rng().integers(2**31)) if seed is None else seed
        seed = int(seed if isinstance(seed, Integral) else check_random_state(seed).randint(2**31 - 1))
        with ONE_AT_A_TIME, random_state_kept(torch.device("cpu")):
            set_seed(seed)
            yield seed

    def _build(self, model_class: type[FPTPreTrainedModel], fields: dict[str, Any]) -> FPTPreTrainedModel:
        """A new model on `base`, with `processor_`; `model_kwargs` win."""
        random = {"backbone_init": "random"} if isinstance(self.base, PreTrainedConfig) else {}
        model = model_class.from_backbone(self.base, **(random | fields | (self.model_kwargs or {})))
        model.processor = self.processor_
        return model

    def _train(
        self, model: FPTPreTrainedModel, train: Dataset | Sequence, held: Any, collate: Callable, seed: int
    ) -> None:
        """Train a model; the loss on what is `held` out tells when to stop (None: it goes on to the end)."""
        with tempfile.TemporaryDirectory() as folder:
            trainer = FPTTrainer(
                model,
                self._arguments(folder, seed, held is not None),
                train_dataset=train,
                eval_dataset=held,
                data_collator=collate,
                processing_class=self.processor_,
                callbacks=[] if held is None else [EarlyStoppingCallback(self.patience)],
            )
            trainer.remove_callback(PrinterCallback)
            trainer.train()
            self.n_iter_ = round(trainer.state.epoch or 0)
            self.model_ = model.eval()
            trainer.end()

    def _arguments(self, folder: str, seed: int, stops: bool) -> TrainingArguments:
        when = "epoch" if stops else "no"
        settings = QUIET | {
            "per_device_train_batch_size": self.batch_size,
            "per_device_eval_batch_size": BATCH,
            "num_train_epochs": self.max_epochs,
            "learning_rate": self.learning_rate,
            "lr_scheduler_type": "constant",
            "save_strategy": when,
            "eval_strategy": when,
            "load_best_model_at_end": stops,
            "save_total_limit": 1,
            "seed": seed,
            "use_cpu": not torch.accelerator.is_available(),
        }
        return TrainingArguments(folder, **(settings | (self.training_arguments or {})))
