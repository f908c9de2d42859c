"""Checking a Trainer's data sets before training, naming the row that is wrong.

Labels are checked if a data set has them at hand (see `check_labels_at_hand`), and the first batch of each data set.
If the user's own loss reads the labels, one that the model's loss would refuse only gives a warning.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence

import datasets
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset
from transformers import Trainer, default_data_collator
from transformers.trainer_utils import IntervalStrategy

from ..heads.problems import problem_type_of
from .batch_checks import CheckedCollator, check_first_batch, is_held, naming_the_row
from .cached_features import CachedFeatures, check_features
from .label_checks import LabelRule, check_labels_at_hand
from .random_state import random_state_kept


def check_collated(trainer: Trainer) -> None:
    """Wrap the Trainer's present collator so that its batches are checked; the user may have set another one."""
    collator = trainer.data_collator
    if isinstance(collator, CheckedCollator):
        collator = collator.collator
    trainer.data_collator = CheckedCollator(collator, trainer.model.config, trainer.label_rule)


def check_data(trainer: Trainer) -> None:
    """Check the labels of all data sets and their first batches. Raises ValueError for what is wrong."""
    check_collated(trainer)
    if not trainer.model.headless:
        rule, own_loss = LabelRule.of(trainer.model), trainer.label_rule is None
        for called, dataset in _data_sets(trainer).items():
            collator = trainer.data_collator.collator
            collator = default_data_collator if isinstance(dataset, CachedFeatures) else collator
            check_labels_at_hand(called, dataset, rule, collator, own_loss)
    for called, dataset in _data_sets(trainer).items():
        training = dataset is trainer.train_dataset
        if isinstance(dataset, CachedFeatures):
            check_features(trainer.model)
            if training and trainer.label_rule is not None:
                _note_problem_type(trainer, dataset.labels[:1])
        elif training and isinstance(dataset, IterableDataset):  # checked when its loader is made
            continue
        elif training or trainer.args.eval_strategy != IntervalStrategy.NO:
            batch = first_batch(trainer, loader_of_rows(trainer, dataset, [0]), called)
            if training:
                check_training_batch(trainer, batch, functools.partial(_columns_of, dataset))


def _data_sets(trainer: Trainer) -> dict[str, Dataset]:
    """The data sets by their names in messages."""
    found = {"the training set": trainer.train_dataset}
    if isinstance(trainer.eval_dataset, dict):
        found |= {f"the evaluation set {name!r}": dataset for name, dataset in trainer.eval_dataset.items()}
    elif trainer.eval_dataset is not None:
        found["the evaluation set"] = trainer.eval_dataset
    return found


def loader_of_rows(trainer: Trainer, dataset: Dataset, rows: Sequence[int] | None = None) -> DataLoader | None:
    """Trainer's loader of some rows, or of all (None); returns None for a data set without rows at hand."""
    if not is_held(dataset):
        return None
    rows = range(len(dataset)) if rows is None else rows
    part = dataset.select(rows) if isinstance(dataset, datasets.Dataset) else Subset(dataset, rows)
    return trainer.get_test_dataloader(part)


def first_batch(trainer: Trainer, loader: DataLoader | None, called: str) -> dict[str, Tensor]:
    """The first example of one of Trainer's loaders, collated; {} if the data set has none at hand."""
    if not is_held(getattr(loader, "dataset", None)):
        return {}
    try:
        with random_state_kept(trainer.args.device), naming_the_row(called, lambda: loader):
            return loader.collate_fn([loader.dataset[0]])
    except KeyError as error:
        if not trainer.args.remove_unused_columns:
            raise
        raise ValueError(
            f"What makes the model's inputs asks for {error}, which the examples do not have: Trainer removes all "
            "that the model's forward does not take. Write TrainingArguments(remove_unused_columns=False)."
        ) from error


def check_training_batch(
    trainer: Trainer, batch: dict[str, Tensor], columns: Callable[[], Iterable[str]] | None = None
) -> None:
    """Check a training batch, and write the problem type of its labels into the config, for card and pipelines."""
    check_first_batch(trainer.model, batch, trainer.label_rule, columns)
    if trainer.label_rule is not None:
        _note_problem_type(trainer, batch["labels"])


def _note_problem_type(trainer: Trainer, labels: Tensor) -> None:
    config = trainer.model.config
    if problem_type_of(config.problem_type, config.num_labels, labels) == "multi_label_classification":
        config.problem_type = "multi_label_classification"
        trainer.data_collator.rule = trainer.label_rule


def _columns_of(dataset: Dataset) -> Iterable[str]:
    """The names of the fields of an example; if it has no names, the name of its type."""
    example = dataset[0]
    return example if isinstance(example, Mapping) else [type(example).__name__]
