"""Data sets whose examples differ from epoch to epoch, and that are told which epoch begins."""

from collections.abc import Callable

from torch.utils.data import Dataset, Subset
from transformers import TrainerCallback


def innermost(dataset: Dataset) -> Dataset:
    """The data set inside any number of torch's `Subset`s."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return dataset


def epoch_setter(dataset: Dataset) -> Callable[[int], None] | None:
    """The data set's method `set_epoch` (from 0); None for a data set that is always the same."""
    set_epoch = getattr(innermost(dataset), "set_epoch", None)
    return set_epoch if callable(set_epoch) else None


class SetEpoch(TrainerCallback):
    """Tells a data set with `set_epoch` which epoch begins, however the data loader wraps it."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        """Set the epoch; the Trainer calls this. After a resume `state.epoch` may be a fraction."""
        self.dataset.set_epoch(int(state.epoch))
