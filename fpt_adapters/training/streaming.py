"""A Trainer that trains from a stream: sharded by process and worker, and resumed at the right example."""

import os
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset
from transformers import TrainerState
from transformers.trainer import TRAINER_STATE_NAME
from transformers.utils import logging

from ..data.streams import ExampleStream
from .caching import CachingTrainer
from .stream_batches import BatchStream

logger = logging.get_logger(__name__)


def steps_of(checkpoint: Path) -> int:
    """The steps that were trained before a checkpoint."""
    return TrainerState.load_from_json(os.fspath(checkpoint / TRAINER_STATE_NAME)).global_step


class StreamingTrainer(CachingTrainer):
    """Trainer whose `train_dataset` may be a stream: an `ExampleStream`, or a `datasets` or torch IterableDataset.

    Each process reads its share of the stream, with workers that read shares of that, instead of the first process
    reading all of it; see `ExampleStream`. When an epoch of the stream ends, a process goes on with its next one:
    those that had less to read begin it earlier. `max_steps` ends the training; the epoch that Trainer logs is the
    share of them, since it does not know the stream's length.

    A checkpoint also holds a `stream_state_N.json` for each process, N. A resumed run sees the examples that the
    stopped one would have seen, and reads the shard that it had come to up to that place. Where the file is missing,
    Trainer reads everything again up to there. `ignore_data_skip=True` starts the data anew.
    """

    def __init__(self, model=None, args=None, *more, **kwargs):
        super().__init__(model, args, *more, **kwargs)
        self._stream: BatchStream | None = None  # of the training that is under way
        self._resumed_from: str | None = None

    @property
    def streams(self) -> bool:
        """Whether the training data is a stream."""
        return isinstance(self.train_dataset, IterableDataset)

    def train(self, resume_from_checkpoint: str | None = None, *args, **kwargs):
        """As `Trainer.train`; a checkpoint is given by its folder."""
        self._resumed_from = resume_from_checkpoint
        try:
            return super().train(resume_from_checkpoint, *args, **kwargs)
        finally:
            if self._stream is not None:
                self._stream.close()  # Trainer goes on to hold the loader, and so the workers
            self._stream = self._resumed_from = None

    def get_train_dataloader(self) -> DataLoader:
        """As `Trainer.get_train_dataloader`; that of a stream has no end and serves this process alone.

        Where a training that had ended is resumed, it is empty: Trainer would train a step more. Raises ValueError for
        a stream whose features are to be cached, or that stopped after other batches.
        """
        if self.streams and self.cache_features:
            raise ValueError("cache_features=True keeps the features of a whole data set, but a stream is not held.")
        checkpoint = None if self._resumed_from is None else Path(self._resumed_from)
        step = 0 if checkpoint is None else steps_of(checkpoint)
        if 0 < self.args.max_steps <= step:
            return DataLoader([])
        if not self.streams:
            return super().get_train_dataloader()
        self._stream = self._batch_stream()
        if checkpoint is not None and not self.args.ignore_data_skip:
            self._go_on(checkpoint / self._state_name, step)
        return DataLoader(self._stream, batch_size=None)

    def _batch_stream(self) -> BatchStream:
        args, source = self.args, self.train_dataset
        stream = source if isinstance(source, ExampleStream) else ExampleStream(source)
        loader: dict[str, Any] = {"pin_memory": args.dataloader_pin_memory and torch.accelerator.is_available()}
        if args.dataloader_num_workers:
            loader["prefetch_factor"] = args.dataloader_prefetch_factor
        return BatchStream(
            stream,
            self._get_collator_with_removed_columns(self.data_collator, description="training"),
            self._train_batch_size,
            process_index=args.process_index,
            num_processes=args.world_size,
            num_workers=args.dataloader_num_workers,
            drop_last=args.dataloader_drop_last,
            loader=loader,
        )

    def _go_on(self, path: Path, step: int) -> None:
        """Set the stream to where it stood at a checkpoint's `step`, as the file at `path` has it."""
        if not path.is_file():
            logger.warning(f"{path} is not there: the stream is read from its start up to where it had come.")
            return
        self._stream.load(path)
        batches = step * self.args.gradient_accumulation_steps
        if self._stream.state.batches != batches:
            raise ValueError(
                f"{path} stands after {self._stream.state.batches} batches, but {step} steps of "
                f"gradient_accumulation_steps={self.args.gradient_accumulation_steps} are {batches}: set it as it was."
            )

    @property
    def _state_name(self) -> str:
        return f"stream_state_{self.args.process_index}.json"

    def _save_rng_state(self, output_dir: str) -> None:
        """Trainer calls this in every process for each checkpoint (there is no public hook): keep the place too."""
        super()._save_rng_state(output_dir)
        if self._stream is not None:
            self._stream.save(Path(output_dir) / self._state_name)
