"""Checks before a training: FPTTrainer refuses models, data, folders and checkpoints with which it would go wrong."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from accelerate.utils import is_compiled_module
from torch import nn
from torch.utils.data import Dataset, IterableDataset
from transformers import Trainer, TrainingArguments

from ..deltas.disk import refuse_full_disk, size_of
from ..deltas.writing import refuse_foreign
from ..hub.repository import repository_files
from ..hub.sharing import check_shareable
from ..models.pretrained import FPTPreTrainedModel
from ..rules.policy_rules import PARAMETER_GROUPS
from ..torch_utils.plain_names import named_parameters, plain_module
from .data_checks import check_data
from .resuming import check_checkpoint, warn_of_callbacks, warn_of_random_numbers


def checked_model(model: nn.Module, args: TrainingArguments | None, rates: Iterable[str]) -> FPTPreTrainedModel:
    """Check the model to train, and return it without torch.compile's wrapper.

    `rates`: the groups with their own learning rate. Raises TypeError for another kind of model, ValueError if one of
    these groups does not train, or if the model could not be pushed as `args` ask, before a repo is made.
    """
    model = _compiled_in_place(model)
    if not isinstance(model, FPTPreTrainedModel):
        raise TypeError(f"FPTTrainer trains an FPT model, got {type(model).__name__}: use transformers' Trainer.")
    trained = {row.group for row in model.count_parameters() if row.trained}
    for group in rates:
        if group not in trained:
            raise ValueError(
                f"group_learning_rates has {group!r}; the groups that train here are "
                f"{', '.join(name for name in PARAMETER_GROUPS if name in trained)}."
            )
    if args is not None and args.push_to_hub:
        check_shareable(model.config)
    return model


def _compiled_in_place(model: nn.Module) -> nn.Module:
    """Take a model out of torch.compile's wrapper, and compile it in place the same way, as `model.compile()` does.

    Trainer reads a model's `forward` and class, which the wrapper hides.
    """
    if not is_compiled_module(model):
        return model
    inner = plain_module(model)
    inner._compiled_call_impl = model.dynamo_ctx(inner._call_impl)
    return inner


def check_training(trainer: Trainer, checkpoint: Path | None) -> None:
    """Check weights, data, output folder, card, and the `checkpoint` to resume, if any. Raises ValueError."""
    args, folder = trainer.args, Path(trainer.args.output_dir)
    _check_weights(trainer.model)
    _check_training_set(trainer.train_dataset)
    check_data(trainer)
    refuse_foreign(folder)
    if args.push_to_hub and folder.is_dir():
        repository_files(folder)  # raises for what could not be pushed
    if args.should_save:
        refuse_full_disk(folder, size_of(trainer.model.delta_tensors().values()))
    trainer.card.check()
    if checkpoint is not None:
        check_checkpoint(checkpoint, trainer.model)
        warn_of_random_numbers(checkpoint, args.process_index, args.world_size)
        if not args.restore_callback_states_from_checkpoint:
            warn_of_callbacks(checkpoint, trainer.callback_handler.callbacks)


def _check_weights(model: FPTPreTrainedModel) -> None:
    trained = {name: p for name, p in named_parameters(model).items() if p.requires_grad}
    if not trained:
        remedy = "model.apply_policy() undoes what froze them" if model.trained_groups else "name some group"
        raise ValueError(f"Nothing would train: trainable={model.config.trainable}, {remedy}.")
    for name, parameter in trained.items():
        if parameter.dtype != torch.float32:
            raise ValueError(
                f"Trained weights must be float32, but {name} is {parameter.dtype}: give dtype to from_backbone, "
                "which casts only the frozen weights, instead of calling .to(dtype) on the model."
            )


def _check_training_set(dataset: Dataset | None) -> None:
    if dataset is None:
        raise ValueError("Training needs a train_dataset.")
    if isinstance(dataset, Mapping):
        splits = ", ".join(map(str, dataset))
        raise ValueError(f"train_dataset is one data set, got a mapping of {splits}: give the one to train on.")
    if type(dataset).__name__ == "DataFrame":
        raise ValueError("train_dataset is a DataFrame: give datasets.Dataset.from_pandas(frame) of it.")
    if not isinstance(dataset, IterableDataset) and len(dataset) == 0:
        raise ValueError("The training set is empty.")
