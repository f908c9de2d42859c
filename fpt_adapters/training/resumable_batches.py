"""The batches of a stream in one process, epoch after epoch, which can be resumed exactly where they stopped."""

import itertools
import json
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..data.streams import START, Cursor, ExampleStream

SKIPPED = None  # stands for an example that was read before the stop


@dataclass(frozen=True)
class StreamState:
    """How far one process has read: `batches` in all, `batches_in_epoch`, and a cursor for each worker by its id."""

    epoch: int = 0
    batches: int = 0
    batches_in_epoch: int = 0
    cursors: tuple[Cursor, ...] = ()

    def after(self, worker: int, cursor: Cursor) -> "StreamState":
        """The state after the next batch, if `worker` made it and is then at `cursor`."""
        cursors = tuple(cursor if number == worker else old for number, old in enumerate(self.cursors))
        return replace(self, batches=self.batches + 1, batches_in_epoch=self.batches_in_epoch + 1, cursors=cursors)

    def next_epoch(self) -> "StreamState":
        """The state at the start of the next epoch."""
        return StreamState(self.epoch + 1, self.batches, 0, tuple(START for _ in self.cursors))


class BatchStream(IterableDataset):
    """The batches of a stream for one process, epoch after epoch without end.

    Each worker collates batches from its own part. They have `batch_size` examples, except a worker's last one in an
    epoch, which `drop_last` leaves out. `collate`: the data collator; `num_workers` and `loader` (other arguments):
    for torch's DataLoader.

    `state` counts the batches that were returned, not those that workers have prefetched. `settings` must be the same
    when a state is loaded.

    After `load`, an iteration begins with an empty batch for each one that was read before: Trainer skips as many when
    it resumes, and nothing is read for them.
    """

    def __init__(
        self,
        stream: ExampleStream,
        collate: Callable[[Sequence[Any]], dict[str, Tensor]],
        batch_size: int,
        *,
        process_index: int = 0,
        num_processes: int = 1,
        num_workers: int = 0,
        drop_last: bool = False,
        loader: dict[str, Any] | None = None,
    ):
        self.stream = stream
        self.collate = collate
        self.batch_size = batch_size
        self.process_index = process_index
        self.num_processes = num_processes
        self.num_workers = num_workers if stream.divisible else min(num_workers, 1)
        self.drop_last = drop_last
        self.loader = loader or {}
        self.state = StreamState(cursors=(START,) * max(self.num_workers, 1))
        self._empty = 0  # how many empty batches the next iteration begins with
        self._batches: Iterator[tuple[dict[str, Tensor], StreamState]] = iter(())
        self._first: tuple[dict[str, Tensor], StreamState] | None = None

    @property
    def settings(self) -> dict[str, Any]:
        """The settings that decide the order of examples."""
        stream = self.stream
        return {
            "num_processes": self.num_processes,
            "num_workers": max(self.num_workers, 1),  # none reads like one
            "batch_size": self.batch_size,
            "drop_last": self.drop_last,
            "num_shards": stream.num_shards,
            "buffer_size": stream.buffer_size,
            "seed": stream.seed,
            "held_out": [stream.held_out.shards, stream.held_out.rows],
        }

    def peek(self) -> dict[str, Tensor]:
        """Return the next batch without taking it out. Raises ValueError if this process's part has none."""
        if self._first is None:
            self._batches = self._read(self.state)
            self._first = next(self._batches)
        return self._first[0]

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Yield batches without end; every iteration continues where the last one stopped."""
        empty, self._empty = self._empty, 0
        yield from itertools.repeat({}, empty)
        self.peek()
        first, self._first = self._first, None
        for batch, state in itertools.chain([first], self._batches):
            self.state = state
            yield batch

    def close(self) -> None:
        """Stop the workers."""
        self._batches, self._first = iter(()), None

    def save(self, path: Path) -> None:
        """Write the state and the settings as JSON."""
        path.write_text(json.dumps({"settings": self.settings, "state": asdict(self.state)}), encoding="utf-8")

    def load(self, path: Path) -> None:
        """Continue from a state that `save` wrote. Raises ValueError if it was saved with other settings."""
        saved = json.loads(path.read_text(encoding="utf-8"))
        for name, value in self.settings.items():
            if saved["settings"][name] != value:
                raise ValueError(
                    f"A stream goes on only as it began, but {path} was written with {name}={saved['settings'][name]} "
                    f"and now it is {value}: set it as it was, or start the data anew with ignore_data_skip=True."
                )
        cursors = tuple(Cursor(*cursor) for cursor in saved["state"].pop("cursors"))
        self.state = StreamState(**saved["state"], cursors=cursors)
        self._empty = self.state.batches

    def _read(self, state: StreamState) -> Iterator[tuple[dict[str, Tensor], StreamState]]:
        """Read the batches that follow `state`, each with the state after it."""
        while True:
            for batch, worker, cursor in self._read_epoch(state):
                state = state.after(worker, cursor)
                yield batch, state
            if state.batches_in_epoch == 0:
                raise ValueError(
                    f"The training stream has no batch of {self.batch_size} for process {self.process_index} of "
                    f"{self.num_processes}: it is empty, or too short for so many processes."
                )
            state = state.next_epoch()

    def _read_epoch(self, state: StreamState) -> Iterator[tuple[dict[str, Tensor], int, Cursor]]:
        loader = DataLoader(
            _ProcessShare(self.stream, self.process_index, self.num_processes, state),
            batch_size=self.batch_size,
            collate_fn=_CollateShare(self.collate),
            num_workers=self.num_workers,
            drop_last=self.drop_last,
            generator=self._generator(state.epoch),
            **self.loader,
        )
        return itertools.islice(loader, state.batches_in_epoch, None)

    def _generator(self, epoch: int) -> torch.Generator:
        """A generator that seeds the workers, so that they do not draw from the global one, which dropout uses."""
        return torch.Generator().manual_seed(
            (self.stream.seed + epoch * self.num_processes + self.process_index) % 2**63
        )


@dataclass
class _ProcessShare(IterableDataset):
    """A process's share of an epoch. Examples before `state` are `SKIPPED`, so that batches are cut as before."""

    stream: ExampleStream
    process_index: int
    num_processes: int
    state: StreamState

    def __iter__(self) -> Iterator[tuple[Any, int, Cursor] | None]:
        info = get_worker_info()
        worker, num_workers = (0, 1) if info is None else (info.id, info.num_workers)
        part, num_parts = self.process_index * num_workers + worker, self.num_processes * num_workers
        before = self.state.cursors[worker]
        yield from itertools.repeat(SKIPPED, before.examples)
        for example, cursor in self.stream.read(part, num_parts, self.state.epoch, before):
            yield example, worker, cursor


@dataclass
class _CollateShare:
    """Collates a batch, and returns it with its worker and that worker's cursor; None for a skipped batch."""

    collate: Callable[[Sequence[Any]], dict[str, Tensor]]

    def __call__(self, items: Sequence[Any]) -> tuple[dict[str, Tensor], int, Cursor] | None:
        if items[0] is SKIPPED:
            return None
        examples, workers, cursors = zip(*items, strict=True)
        return self.collate(list(examples)), workers[-1], cursors[-1]
