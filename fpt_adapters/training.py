"""`FPTTrainer`: transformers' Trainer with a learning rate per group, guards, and a strict resume.

The stock Trainer trains these models as well: the loss, the freezing and the small checkpoints are the model's.
"""

import os
from collections.abc import Callable, Mapping, Sequence, Sized
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import datasets
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset
from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
    default_data_collator,
)
from transformers.trainer_utils import EvalLoopOutput, IntervalStrategy, get_last_checkpoint

from .cached_features import innermost, random_state_kept
from .configuration_fpt import PARAMETER_GROUPS, FPTConfig
from .delta import refuse_foreign
from .distributing import compiled_in_place
from .guards import WeightGuard, refuse_divergence
from .heads import IGNORED_LABEL
from .plain_names import named_parameters
from .pretrained import FPTPreTrainedModel
from .resuming import check_checkpoint, warn_of_callbacks, warn_of_random_numbers
from .stream_batches import BatchStream
from .streaming import StreamingTrainer


@dataclass
class CheckedCollator:
    """A data collator whose batches are checked before they reach the model: finite inputs, labels in range."""

    collator: Callable[[Sequence[Any]], dict[str, Tensor]]
    config: FPTConfig

    def __call__(self, features: Sequence[Any]) -> dict[str, Tensor]:
        """Collate and check. Raises ValueError, naming the input."""
        batch = self.collator(features)
        check_batch(batch, self.config)
        return batch


def check_batch(batch: dict[str, Tensor], config: FPTConfig) -> None:
    """Raise ValueError for NaN or infinite inputs, ids outside the vocabulary, and labels out of range."""
    for name in ("pixel_values", "input_values"):
        if name in batch and not torch.isfinite(batch[name]).all():
            raise ValueError(f"{name} must be finite, but a batch holds NaN or infinity: clean the data first.")
    if "input_ids" in batch:
        _check_range("input_ids", batch["input_ids"], config.vocab_size, "vocab_size")
    labels = batch.get("labels")
    if labels is not None and not labels.is_floating_point() and config.problem_type != "regression":
        _check_range("labels", labels[labels != IGNORED_LABEL], config.num_labels, "num_labels")


def _check_range(name: str, values: Tensor, size: int, size_name: str) -> None:
    wrong = values[(values < 0) | (values >= size)]
    if wrong.numel():
        raise ValueError(f"{name} must lie in 0..{size - 1} ({size_name}={size}), got {wrong[0].item()}.")


class SetEpoch(TrainerCallback):
    """Tells a data set with `set_epoch` which epoch begins, however the data loader wraps it."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called by the Trainer; after a resume, `state.epoch` has a fraction."""
        self.dataset.set_epoch(int(state.epoch))


class FPTTrainer(StreamingTrainer):
    """Trainer for frozen pretrained transformers.

    Takes what `Trainer` takes, and `group_learning_rates`: a learning rate for each named parameter group (`input`,
    `output`, `norm`, `position` ...; see `PARAMETER_GROUPS`); the others have `args.learning_rate`.

    Before training it refuses: a model that trains nothing, trained weights below fp32, an empty training set, a
    first batch with wrong inputs, an output folder with another kind of model, and a checkpoint to resume that is not
    exactly this model's. After training it raises TrainingError if a frozen weight changed or a trained one is not
    finite, and warns of a trained one that stayed as it was. Trained weights that are no longer finite when Trainer
    logs stop training with TrainingError.

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
        self.data_collator = CheckedCollator(self.data_collator or default_data_collator, self.model.config)

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

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """As `Trainer.compute_loss`; where nothing is labelled, it is 0 with label smoothing, too."""
        if torch.is_tensor(num_items_in_batch):
            num_items_in_batch = num_items_in_batch.clamp(min=1)
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def get_train_dataloader(self) -> DataLoader:
        """As `Trainer.get_train_dataloader`. Raises ValueError for a stream whose first batch has wrong inputs."""
        loader = super().get_train_dataloader()
        if self.streams and isinstance(loader.dataset, BatchStream):
            self._check_inputs(loader.dataset.peek())  # which stays the first batch
        return loader

    def train(self, resume_from_checkpoint: str | bool | None = None, trial=None, ignore_keys_for_eval=None):
        """As `Trainer.train`, between the guards that the class describes."""
        self._checkpoint = self._find_checkpoint(resume_from_checkpoint)
        if self.model_init is None:
            self._begin()
        folder = None if self._checkpoint is None else os.fspath(self._checkpoint)
        result = super().train(folder, trial, ignore_keys_for_eval)
        self._guard.check(self.state.global_step, resumed=self._checkpoint is not None)
        if trial is None:
            self.report_training()
        return result

    def _begin(self) -> None:
        """Check what training needs, and note what the weights are before it."""
        self._check_before_training()
        refuse_foreign(Path(self.args.output_dir))
        self.card.check()
        if self._checkpoint is not None:
            check_checkpoint(self._checkpoint, self.model)
            warn_of_random_numbers(self._checkpoint, self.args.process_index, self.args.world_size)
            if not self.args.restore_callback_states_from_checkpoint:
                warn_of_callbacks(self._checkpoint, self.callback_handler.callbacks)
        self.data_collator.config = self.model.config
        self.card.results.clear()
        self._step_of_results.clear()
        self._guard = WeightGuard(self.model, may_round=self.is_deepspeed_enabled)
        self._keep_frozen_home(self._guard.frozen)

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
        if not self.streams:  # the first batch of a stream is looked at where its loader is made
            if len(self.train_dataset) == 0:
                raise ValueError("The training set is empty.")
            self._check_inputs(self._first_batch_of(self.train_dataset), self.train_dataset[0])
            sets = self.eval_dataset.values() if isinstance(self.eval_dataset, dict) else [self.eval_dataset]
            for dataset in sets if self.args.eval_strategy != IntervalStrategy.NO else []:
                self._first_batch_of(dataset)

    def evaluation_loop(self, dataloader: DataLoader, *args, **kwargs) -> EvalLoopOutput:
        """As `Trainer.evaluation_loop`. Raises ValueError for examples that lack what makes the model's inputs."""
        if not self.is_in_train:  # before it, that was seen to
            self._first_batch(dataloader)
        return super().evaluation_loop(dataloader, *args, **kwargs)

    def _first_batch_of(self, dataset: Dataset | None) -> dict[str, Tensor]:
        if not _is_held(dataset):
            return {}
        one = dataset.select([0]) if isinstance(dataset, datasets.Dataset) else Subset(dataset, [0])
        return self._first_batch(self.get_test_dataloader(one))

    def _first_batch(self, loader: DataLoader) -> dict[str, Tensor]:
        """The first example as a loader of Trainer's serves it, collated; {} where none is held."""
        if not _is_held(getattr(loader, "dataset", None)):
            return {}
        try:
            with random_state_kept(self.args.device):
                return loader.collate_fn([loader.dataset[0]])
        except KeyError as error:
            if not self.args.remove_unused_columns:
                raise
            raise ValueError(
                f"What makes the model's inputs asks for {error}, which the examples do not have: Trainer removes all "
                "that the model's forward does not take. Write TrainingArguments(remove_unused_columns=False)."
            ) from error

    @torch.no_grad()
    def _check_inputs(self, batch: dict[str, Tensor], example: Any = None) -> None:
        projection = self.model.fpt_model.input_projection
        columns = ", ".join(sorted(example if isinstance(example, Mapping) else batch))
        if projection.input_name not in batch:
            raise ValueError(
                f"The model takes {projection.input_name}, but the data has {columns}: rename the "
                "column, and set remove_unused_columns=False if a transform makes it."
            )
        if "labels" not in batch:
            raise ValueError(f"The data needs labels to learn from, but has only {columns}.")
        device = next(projection.parameters()).device
        mask = batch.get("attention_mask")
        projection.eval()  # so that its dropout draws nothing
        projection(batch[projection.input_name].to(device), None if mask is None else mask.to(device))
        projection.train(self.model.training)

    def _find_checkpoint(self, given: str | bool | None) -> Path | None:
        if not given:
            return None
        if given is True:
            folder = self.args.output_dir
            given = get_last_checkpoint(folder) if os.path.isdir(folder) else None
            if given is None:
                raise ValueError(f"No checkpoint to resume from in {folder!r}.")
        return Path(given)


def _is_held(dataset: Any) -> bool:
    """Whether a data set has a first example that can be looked at without reading on."""
    return isinstance(dataset, Sized) and not isinstance(dataset, IterableDataset) and len(dataset) > 0
