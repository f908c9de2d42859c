"""The source of a training's batches: a data set, a stream, or cached features."""

import contextlib
import copy
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset
from transformers import Trainer, TrainerState, TrainingArguments
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import logging

from ..data.shuffling import LazyShuffle
from ..data.streams import ExampleStream
from ..data.windows import Windows
from .cached_features import CachedFeatures, check_features
from .data_checks import check_training_batch
from .feature_store import FeatureStore
from .resumable_batches import BatchStream

logger = logging.get_logger(__name__)

IN_THIS_PROCESS = {  # indexing a tensor takes less time than talking to a worker
    "dataloader_num_workers": 0,
    "dataloader_persistent_workers": False,
    "dataloader_prefetch_factor": None,
}


@dataclass
class BatchSource:
    """The source of training batches: `loader` returns them; `stream`, if there is one, knows how far it was read."""

    loader: DataLoader | None = None  # None outside of a training
    stream: BatchStream | None = None

    def save(self, folder: Path, process_index: int) -> None:
        """Save in a checkpoint how far this process has read a stream, which Trainer does not."""
        if self.stream is not None:
            self.stream.save(folder / _state_name(process_index))

    def close(self) -> None:
        """Stop the workers of a stream, because Trainer keeps the loader."""
        if self.stream is not None:
            self.stream.close()


def choose_source(
    trainer: Trainer, make_loader: Callable[[], DataLoader], checkpoint: Path | None, store: FeatureStore | None
) -> BatchSource:
    """Choose the source of batches; `make_loader`: Trainer's own method, which makes a loader for `train_dataset`.

    `checkpoint`: the one that is resumed. `store`: the features of this training. If the resumed training had already
    ended, there are no batches, because Trainer would train one more step. Raises ValueError for a stream whose
    features should be cached, that stopped after another number of batches, or whose first batch has wrong inputs, and
    if features cannot be cached though `cache_features=True`.
    """
    step = 0 if checkpoint is None else _steps_of(checkpoint)
    if 0 < trainer.args.max_steps <= step:
        return BatchSource(DataLoader([]))
    if isinstance(trainer.train_dataset, IterableDataset):
        if trainer.cache_features:
            raise ValueError("cache_features=True keeps the features of a whole data set, but a stream is not held.")
        stream = _batch_stream(trainer)
        if checkpoint is not None and not trainer.args.ignore_data_skip:
            _go_on(stream, checkpoint / _state_name(trainer.args.process_index), step, trainer.args)
        try:
            check_training_batch(trainer, stream.peek())  # it stays the first batch
        except ValueError:
            stream.close()
            raise
        return BatchSource(DataLoader(stream, batch_size=None), stream)  # endless, and only this process's batches
    features = _features(trainer, trainer.train_dataset, store, for_training=True)
    if features is None:
        return BatchSource(make_loader())
    with _serving_whole_batches(trainer, train_dataset=WholeBatches(features)):
        return BatchSource(make_loader())


def own_sampler(trainer: Trainer) -> LazyShuffle | None:
    """The order of windows of series, of which there may be too many to hold their numbers; None: Trainer's own."""
    windows, args = trainer.train_dataset, trainer.args
    if not isinstance(windows, Windows) or args.train_sampling_strategy != "random":
        return None
    return LazyShuffle(len(windows), args.seed if args.data_seed is None else args.data_seed)


# Streams


def _state_name(process_index: int) -> str:
    return f"stream_state_{process_index}.json"


def _steps_of(checkpoint: Path) -> int:
    """The number of steps that were trained before a checkpoint."""
    return TrainerState.load_from_json(os.fspath(checkpoint / TRAINER_STATE_NAME)).global_step


def _batch_stream(trainer: Trainer) -> BatchStream:
    args, source = trainer.args, trainer.train_dataset
    loader: dict[str, Any] = {"pin_memory": args.dataloader_pin_memory and torch.accelerator.is_available()}
    if args.dataloader_num_workers:
        loader["prefetch_factor"] = args.dataloader_prefetch_factor
    return BatchStream(
        source if isinstance(source, ExampleStream) else ExampleStream(source),
        trainer._get_collator_with_removed_columns(trainer.data_collator, description="training"),
        trainer._train_batch_size,
        process_index=args.process_index,
        num_processes=args.world_size,
        num_workers=args.dataloader_num_workers,
        drop_last=args.dataloader_drop_last,
        loader=loader,
    )


def _go_on(stream: BatchStream, path: Path, step: int, args: TrainingArguments) -> None:
    """Set a stream to its state at a checkpoint's `step`, which the file at `path` has."""
    if not path.is_file():
        logger.warning(f"{path} is not there: the stream is read from its start up to where it stopped.")
        return
    stream.load(path)
    batches = step * args.gradient_accumulation_steps
    if stream.state.batches != batches:
        raise ValueError(
            f"{path} stands after {stream.state.batches} batches, but {step} steps of "
            f"gradient_accumulation_steps={args.gradient_accumulation_steps} are {batches}: set it as it was."
        )


# Cached features


class WholeBatches(Dataset):
    """Cached features that give a data loader a whole collated batch at once."""

    def __init__(self, features: CachedFeatures):
        self.features = features

    def __len__(self) -> int:
        return len(self.features)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.features.batch([index])

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The collated batch of the examples `indices`."""
        return self.features.batch(indices)


def evaluation_loader(
    trainer: Trainer,
    make_loader: Callable[[Any], DataLoader],
    given: str | Dataset | None,
    store: FeatureStore | None,
) -> DataLoader:
    """A loader for the evaluation of `given`, or of its cached features, made by Trainer's method `make_loader`."""
    dataset = trainer.eval_dataset if given is None else given
    dataset = trainer.eval_dataset[dataset] if isinstance(dataset, str) else dataset
    features = _features(trainer, dataset, store, for_training=False)
    if features is None:
        return make_loader(given)
    with _serving_whole_batches(trainer):
        return make_loader(WholeBatches(features))


def _features(
    trainer: Trainer, dataset: Dataset, store: FeatureStore | None, for_training: bool
) -> CachedFeatures | None:
    """The cached features for a data set: the data set itself if it is such, else those that `store` computes."""
    if isinstance(dataset, CachedFeatures):
        check_features(trainer.model)
        return dataset
    return None if store is None else store.get(dataset, for_training)


@contextlib.contextmanager
def _serving_whole_batches(trainer: Trainer, **attributes: Any) -> Iterator[None]:
    """Context manager: Trainer makes loaders of collated batches in this process, and has other `attributes`."""
    args = copy.copy(trainer.args)
    vars(args).update(remove_unused_columns=False, **IN_THIS_PROCESS)
    attributes |= {"data_collator": _as_it_is, "args": args}
    before = {name: getattr(trainer, name) for name in attributes}
    vars(trainer).update(attributes)
    try:
        yield
    finally:
        vars(trainer).update(before)


def _as_it_is(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The collator for batches that are collated already."""
    return batch
