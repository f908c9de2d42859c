"""Streams: examples that are read one after another and never all held; divided, shuffled, and resumed exactly.

A source of `datasets` is read shard by shard (a shard is usually a file). Each process and each of its workers reads
a part: see `share_of_shards`. Rows are shuffled in blocks of a fixed size, so that reading can go on after any example
from the place where its block begins. `datasets` itself loses what its shuffle buffer holds
(`IterableDataset.state_dict`), and accelerate lets the first process read everything for all.
"""

import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import datasets
import numpy as np
from packaging.version import Version
from torch.utils.data import IterableDataset, get_worker_info

READ_AT_ONCE = 32  # rows that `datasets` returns together
RESHARDS = Version(datasets.__version__) >= Version("5.0")  # older versions do not divide parquet files
SHARDS, ROWS = 201, 202  # what is shuffled: part of the random key, so that the two draws are unrelated


class Place(NamedTuple):
    """Where an example of a stream comes from: `row` (from 0) of `shard`, in `epoch`."""

    epoch: int
    shard: int
    row: int

    @property
    def number(self) -> int:
        """A number in 0..2**32-1 for (shard, row). Rows of one shard differ; two of different shards may not."""
        return (self.shard * 2654435761 + self.row) % 2**32  # Knuth's multiplicative hash

    def describe(self, source: str) -> str:
        """Name the row in a message."""
        return f"row {self.row} of shard {self.shard} of {source}"


class Cursor(NamedTuple):
    """How far a part of a stream has been read in an epoch.

    `examples`: how many were returned. The shuffle block of the last one begins at `row` of the shard that is number
    `shard` of this part, in the epoch's order.
    """

    examples: int = 0
    shard: int = 0
    row: int = 0


START = Cursor()


@dataclass(frozen=True)
class HeldOut:
    """Rows that a stream leaves out for evaluation: the first `rows` of each of the first `shards`."""

    shards: int = 0
    rows: int = 0

    def first_row(self, shard: int) -> int:
        """The first row of `shard` that is not held out."""
        return self.rows if shard < self.shards else 0


NOTHING = HeldOut()


class ExampleStream(IterableDataset):
    """The examples of a source that is streamed, not held. Any part of an epoch can be read, from any example on.

    `source` is an `IterableDataset` of `datasets` or torch. Pass the whole of it: it is divided here among processes
    (by FPTTrainer) and workers, so that together they see every row once per epoch. torch's cannot be divided without
    reading it: each process then reads all of it, in at most one worker, and keeps its share.

    `transform(row, place)` makes an example of a row (a dictionary) and its `Place`. Random numbers in it should
    depend only on the place, so that they are the same after a resume. Without it, rows are the examples.

    `buffer_size` rows are held and returned in random order, and the order of shards is random; both follow `seed` and
    the epoch. None keeps the source's order. Rows of different shards mix only where a buffer covers both, so do not
    sort files by class. A source with its own shuffle works too, but `datasets` then divides it badly. Besides the
    buffer, one row group of a parquet file is held, or up to a whole file if `datasets` is older than 5.

    Raises ValueError for a `buffer_size` below 1 and a `seed` outside 0..2**64-1.
    """

    def __init__(
        self,
        source: IterableDataset,
        transform: Callable[[dict[str, Any], Place], Any] | None = None,
        *,
        buffer_size: int | None = None,
        seed: int = 0,
        held_out: HeldOut = NOTHING,
    ):
        if buffer_size is not None and buffer_size < 1:
            raise ValueError(
                f"buffer_size is a number of rows, at least 1, or None for no shuffling; got {buffer_size}."
            )
        if not 0 <= seed < 2**64:
            raise ValueError(f"seed is a whole number in 0..2**64-1, got {seed}.")
        self.source = source
        self.transform = transform
        self.buffer_size = buffer_size
        self.seed = seed
        self.held_out = held_out
        self.epoch = 0

    @property
    def divisible(self) -> bool:
        """Whether several workers can divide the source among them."""
        return isinstance(self.source, datasets.IterableDataset)

    @property
    def num_shards(self) -> int:
        """How many shards the source has."""
        return self.source.num_shards if self.divisible else 1

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch (from 0) that `iter` reads."""
        self.epoch = epoch

    def __iter__(self) -> Iterator[Any]:
        """Read an epoch; in a DataLoader's worker, its part. Raises ValueError if the source cannot be divided so."""
        worker = get_worker_info()
        part, num_parts = (0, 1) if worker is None else (worker.id, worker.num_workers)
        if num_parts > 1 and not self.divisible:
            raise ValueError(f"a torch IterableDataset is read by one worker, not {num_parts}: write num_workers=1.")
        for example, _ in self.read(part, num_parts, self.epoch):
            yield example

    def read(self, part: int, num_parts: int, epoch: int, cursor: Cursor = START) -> Iterator[tuple[Any, Cursor]]:
        """Read a part of an epoch (0 <= `part` < `num_parts`) from `cursor` on: each example with its cursor."""
        size = self.buffer_size or 1
        number = max(cursor.examples - 1, 0) // size  # number of the cursor's block
        examples = number * size
        rows = self._rows(part, num_parts, epoch, cursor)
        while block := list(itertools.islice(rows, size)):
            first_shard, first = block[0][:2]
            for index in self._order(ROWS, len(block), epoch, part, number):
                examples += 1
                (_, place, row), block[index] = block[index], None  # frees the row before the next block is read
                if examples > cursor.examples:
                    example = row if self.transform is None else self.transform(row, place)
                    yield example, Cursor(examples, first_shard, first.row)
            number += 1

    def _rows(self, part: int, num_parts: int, epoch: int, cursor: Cursor) -> Iterator[tuple[int, Place, Any]]:
        """Read a part's rows from the cursor's row on: (number of the shard in the part, place, row)."""
        order = self._order(SHARDS, self.num_shards, epoch)
        shares = share_of_shards(self.num_shards, part, num_parts)
        for number, (position, classes) in enumerate(shares[cursor.shard :], cursor.shard):
            shard = order[position]
            start = max(self.held_out.first_row(shard), cursor.row if number == cursor.shard else 0)
            for index, row in itertools.islice(enumerate(shard_rows(self.source, shard, epoch)), start, None):
                if index % num_parts in classes:
                    yield number, Place(epoch, shard, index), row

    def _order(self, what: int, count: int, epoch: int, part: int = 0, number: int = 0) -> list[int]:
        """Shuffle 0..count-1 in an order that depends only on the seed and the arguments (`draws.random_stream`)."""
        if self.buffer_size is None or count == 1:
            return list(range(count))
        key = np.array([self.seed, what], dtype=np.uint64)
        generator = np.random.Philox(key=key, counter=np.array([0, number, part, epoch], dtype=np.uint64))
        return np.argsort(generator.random_raw(count), kind="stable").tolist()


def share_of_shards(num_shards: int, part: int, num_parts: int) -> list[tuple[int, range]]:
    """Choose what a part reads: positions of shards, and for each the classes (row % num_parts) of its rows.

    The num_shards x num_parts classes stand in a line, shard after shard, and each part takes the next num_shards of
    them. So a part has whole shards, except perhaps its first and last, or some classes of one shard if there are
    fewer shards than parts. Each row belongs to one part, and parts are as even as the shards are.
    """
    first, last = part * num_shards, (part + 1) * num_shards
    positions = range(first // num_parts, -(-last // num_parts))
    starts = [position * num_parts for position in positions]
    classes = [range(max(first - start, 0), min(last - start, num_parts)) for start in starts]
    return list(zip(positions, classes, strict=True))


def shard_rows(source: IterableDataset, shard: int, epoch: int) -> Iterator[Any]:
    """Read the rows of a shard; a torch source is one shard. Raises ValueError for a source formatted as tables."""
    if not isinstance(source, datasets.IterableDataset):
        if callable(getattr(source, "set_epoch", None)):
            source.set_epoch(epoch)
        yield from source
        return
    source = source.shard(source.num_shards, shard)
    if RESHARDS:  # by row groups: the reader of a whole parquet file would run ahead up to the file's end
        source = source.reshard()
    source.set_epoch(epoch)
    for batch in source.iter(READ_AT_ONCE):  # `iter(source)` would be divided once more in a worker
        if not isinstance(batch, dict):
            raise ValueError(f"rows of a stream are dictionaries, got a {type(batch).__name__}: drop its with_format.")
        for values in zip(*batch.values(), strict=True):
            yield dict(zip(batch, values, strict=True))
