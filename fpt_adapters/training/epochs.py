"""Data sets that give other examples in each epoch, and are told which one begins."""

from collections.abc import Callable

from torch.utils.data import Dataset, Subset
from transformers import TrainerCallback


def innermost(dataset: Dataset) -> Dataset:
    """The data set under any number of torch's `Subset`."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return dataset


def epoch_setter(dataset: Dataset) -> Callable[[int], None] | None:
    """The method that tells a data set which epoch (from 0) it gives; None for one that is always the same."""
    set_epoch = getattr(innermost(dataset), "set_epoch", None)
    return set_epoch if callable(set_epoch) else None


class SetEpoch(TrainerCallback):
    """Tells a data set with `set_epoch` which epoch begins, however the data loader wraps it."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def on_epoch_begin(self, args, state, control, **kwargs) -> None:
        """Called by the Trainer; after a resume, `state.epoch` has a fraction."""
        self.dataset.set_epoch(int(state.epoch))
