"""`FPTTrainer`: transformers' Trainer with a learning rate per group, guards, and a strict resume.

The stock Trainer trains these models as well: the loss, the freezing and the small checkpoints are the model's.
"""

import contextlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..configuration_fpt import PARAMETER_GROUPS
from ..deltas.disk import refuse_full_disk, room_for, size_of
from ..deltas.writing import refuse_foreign
from ..hub.repository import repository_files
from ..models.pretrained import FPTPreTrainedModel
from ..torch_utils.plain_names import named_parameters
from .cached_features import innermost
from .checking import CheckingTrainer
from .distributing import compiled_in_place
from .guards import WeightGuard, refuse_divergence
from .resuming import check_checkpoint, last_checkpoint, warn_of_callbacks, warn_of_random_numbers


class SetEpoch(TrainerCallback):
    """Tells a data set with `set_epoch` which epoch begins, however the data loader wraps it."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called by the Trainer; after a resume, `state.epoch` has a fraction."""
        self.dataset.set_epoch(int(state.epoch))


class FPTTrainer(CheckingTrainer):
    """Trainer for frozen pretrained transformers.

    Takes what `Trainer` takes, and `group_learning_rates`: a learning rate for each named parameter group (`input`,
    `output`, `norm`, `position` ...; see `PARAMETER_GROUPS`); the others have `args.learning_rate`.

    Before training it refuses: a model that trains nothing, trained weights below fp32, an empty training set, wrong
    labels and inputs (see `CheckingTrainer`), an output folder with another kind of model or without room for the
    delta (NoSpaceError, an OSError), and a checkpoint to resume that is not exactly this model's. After training it
    raises TrainingError if a frozen weight changed or a trained one is not finite, and warns of a trained one that
    stayed as it was. Trained weights that are no longer finite when Trainer logs stop training with TrainingError.

    Where the head alone trains, the backbone runs once over the data; see `CachingTrainer` for `cache_features`. The
    training data may be a stream, which is read and not held; see `StreamingTrainer`.
    Training ends with the delta and a model card in `args.output_dir`; see `PublishingTrainer` for it and for the Hub.
    """

    def __init__(self, model: FPTPreTrainedModel | None = None, args=None, *more, group_learning_rates=None, **kwargs):
        self.group_learning_rates = dict(group_learning_rates or {})
        self._checkpoint: Path | None = None  # that is resumed
        super().__init__(compiled_in_place(model), args, *more, **kwargs)
        if self.group_learning_rates and self.optimizer is not None:
            raise ValueError("group_learning_rates sets up Trainer's optimizer; give that or your own, not both.")
        dataset = innermost(self.train_dataset)
        if callable(getattr(dataset, "set_epoch", None)) and not self.streams:
            self.add_callback(SetEpoch(dataset))

    def check_model(self, model: FPTPreTrainedModel, args) -> None:
        """Raise TypeError for another kind of model, ValueError for one without a group that is to learn."""
        if not isinstance(model, FPTPreTrainedModel):
            raise TypeError(f"FPTTrainer trains an FPT model, got {type(model).__name__}: use transformers' Trainer.")
        trained = {row.group for row in model.count_parameters() if row.trained}
        for group in self.group_learning_rates:
            if group not in trained:
                raise ValueError(
                    f"group_learning_rates has {group!r}; the groups that train here are "
                    f"{', '.join(name for name in PARAMETER_GROUPS if name in trained)}."
                )
        super().check_model(model, args)

    def call_model_init(self, trial=None) -> FPTPreTrainedModel:
        """As `Trainer.call_model_init`; the new model is checked as the class describes."""
        model = super().call_model_init(trial)
        if self.is_in_train:
            self.model = model
            self._begin()
        return model

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """As `Trainer`, with its parameter groups split by FPT group where learning rates differ."""
        created = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if created and self.group_learning_rates:
            names = {id(parameter): name for name, parameter in named_parameters(self.model).items()}
            group_of = self.model.parameter_groups()
            param_groups = list(optimizer.param_groups)
            optimizer.param_groups.clear()
            for param_group in param_groups:
                by_group: dict[str, list] = {}
                for parameter in param_group["params"]:
                    by_group.setdefault(group_of[names[id(parameter)]], []).append(parameter)
                for group, parameters in by_group.items():
                    lr = self.group_learning_rates.get(group, self.args.learning_rate)
                    optimizer.add_param_group({**param_group, "params": parameters, "lr": lr})
        return optimizer

    def train(self, resume_from_checkpoint: str | bool | None = None, trial=None, ignore_keys_for_eval=None):
        """As `Trainer.train`, between the guards that the class describes."""
        self._checkpoint = self._find_checkpoint(resume_from_checkpoint)
        if self.model_init is None:
            self._begin()
        folder = None if self._checkpoint is None else os.fspath(self._checkpoint)
        result = super().train(folder, trial, ignore_keys_for_eval)
        self._guard.check(self.state.global_step, resumed=self._checkpoint is not None)
        if trial is None:
            with self._room():
                self.report_training()
        return result

    def _begin(self) -> None:
        """Check what training needs, and note what the weights are before it."""
        self._check_before_training()
        refuse_foreign(Path(self.args.output_dir))
        if self.args.push_to_hub and Path(self.args.output_dir).is_dir():
            repository_files(self.args.output_dir)  # refuses what could not be pushed
        if self.args.should_save:
            refuse_full_disk(self.args.output_dir, size_of(self.model.delta_tensors().values()))
        self.card.check()
        if self._checkpoint is not None:
            check_checkpoint(self._checkpoint, self.model)
            warn_of_random_numbers(self._checkpoint, self.args.process_index, self.args.world_size)
            if not self.args.restore_callback_states_from_checkpoint:
                warn_of_callbacks(self._checkpoint, self.callback_handler.callbacks)
        self.card.results.clear()
        self._step_of_results.clear()
        self._guard = WeightGuard(self.model, may_round=self.is_deepspeed_enabled)
        self._keep_frozen_home(self._guard.frozen)

    def _save_checkpoint(self, *args, **kwargs) -> None:
        """Trainer writes a checkpoint here (there is no public hook)."""
        with self._room():
            super()._save_checkpoint(*args, **kwargs)

    def _room(self) -> contextlib.AbstractContextManager[None]:
        """Say it where the disk becomes full; what is written has about a checkpoint's size: the delta and moments."""
        parameters = named_parameters(self.model).values()
        moments = [parameter for parameter in parameters if parameter.requires_grad] * 2  # of Adam
        return room_for(self.args.output_dir, size_of([*self.model.delta_tensors().values(), *moments]))

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """As `Trainer.log`; raises TrainingError where the training has diverged."""
        super().log(logs, *args, **kwargs)
        if "loss" in logs and self.is_in_train:
            refuse_divergence(self.model, f"at step {self.state.global_step}")

    def _check_before_training(self) -> None:
        trained = [(n, p) for n, p in named_parameters(self.model).items() if p.requires_grad]
        if not trained:
            remedy = "model.apply_policy() undoes what froze them" if self.model.trained_groups else "name some group"
            raise ValueError(f"Nothing would train: trainable={self.model.config.trainable}, {remedy}.")
        for name, parameter in trained:
            if parameter.dtype != torch.float32:
                raise ValueError(
                    f"Trained weights must be float32, but {name} is {parameter.dtype}: give dtype to from_backbone, "
                    "which casts the frozen weights alone, instead of calling .to(dtype) on the model."
                )
        if self.train_dataset is None:
            raise ValueError("Training needs a train_dataset.")
        if isinstance(self.train_dataset, Mapping):
            splits = ", ".join(map(str, self.train_dataset))
            raise ValueError(f"train_dataset is one data set, got a mapping of {splits}: give the one to train on.")
        if type(self.train_dataset).__name__ == "DataFrame":
            raise ValueError("train_dataset is a DataFrame: give datasets.Dataset.from_pandas(frame) of it.")
        if not self.streams and len(self.train_dataset) == 0:
            raise ValueError("The training set is empty.")
        self.check_data()

    def _find_checkpoint(self, given: str | bool | None) -> Path | None:
        if not given:
            return None
        if given is True:
            return last_checkpoint(Path(self.args.output_dir))
        return Path(given)
