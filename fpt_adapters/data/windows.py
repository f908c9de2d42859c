"""Windows of time series, drawn lazily from values that lie in memory or, where they are many, in a file."""

import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.data import Dataset

from ..inputs.series_grid import Grid, put, read_numbers, scale_of
from ..inputs.time_series_processing_fpt import FPTTimeSeriesProcessor
from .sources import Source

CHUNK = 2**16  # rows that are read at once
IN_MEMORY = 2**28  # most bytes of values that are held; more lie in a file


class Values:
    """float32 (steps, channels), NaN at first: in memory or, above `most` bytes, in a file that goes with the object.

    A copy in another process reads the same file.
    """

    def __init__(self, steps: int, channels: int, most: int = IN_MEMORY):
        self.shape = (steps, channels)
        self._array = None
        if 4 * steps * channels <= most:
            self._array = np.full(self.shape, np.nan, dtype=np.float32)
            return
        folder = tempfile.mkdtemp(prefix="fpt_series_")
        weakref.finalize(self, _remove, folder, os.getpid())
        self._path = Path(folder) / "values"
        with open(self._path, "wb") as file:
            for start in range(0, steps, CHUNK):
                np.full((min(CHUNK, steps - start), channels), np.nan, dtype=np.float32).tofile(file)

    @property
    def in_file(self) -> bool:
        """Whether they lie in a file."""
        return self._array is None

    @property
    def array(self) -> np.ndarray:
        """The values. Those in a file are mapped anew each time, so that pages that were read may be let go."""
        if self._array is not None:
            return self._array
        return np.memmap(self._path, dtype=np.float32, mode="r+", shape=self.shape)


def _remove(folder: str, process: int) -> None:
    if os.getpid() == process:  # a worker of a data loader is a copy of its process
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(frozen=True)
class SeriesTable:
    """The series of a table on their grid, one after another in `values`; `starts` and `lengths`, int64 (series,)."""

    values: Values
    grid: Grid
    starts: np.ndarray
    lengths: np.ndarray
    repeated: int  # rows that came again, all the same
    missing: int  # steps without a row

    def whole(self) -> np.ndarray:
        """The spans of all series: int64 (series, 2)."""
        return np.stack([self.starts, self.starts + self.lengths], axis=1)

    def parted(self, sizes: list[int]) -> list[np.ndarray]:
        """The spans of each series in parts of `sizes` steps from the first time of all on: (series, 2) each.

        A part is the same time for all series, so that none is trained on what is later than another's test.
        """
        step, first = self.grid.clock.step, self.grid.first.min()
        before = (self.grid.first - first) // step  # steps from the first time of all to that of each series
        ends = [np.clip(border - before, 0, self.lengths) + self.starts for border in [0, *np.cumsum(sizes)]]
        return [np.stack(pair, axis=1) for pair in pairwise(ends)]

    @property
    def steps(self) -> int:
        """The steps from the first time of all series to the last one."""
        return int((self.grid.last.max() - self.grid.first.min()) // self.grid.clock.step) + 1

    def scale(self, spans: np.ndarray, names: list[str]) -> tuple[list[float], list[float]]:
        """Mean and deviation of each channel within spans. Raises ValueError for a channel that has no value there."""

        def chunks() -> Iterator[np.ndarray]:
            for begin, end in spans[spans[:, 0] < spans[:, 1]].tolist():
                for start in range(begin, end, CHUNK):
                    yield self.values.array[start : min(start + CHUNK, end)]

        return scale_of(chunks, names)


def read_series(source: Source, processor: FPTTimeSeriesProcessor, most: int = IN_MEMORY) -> SeriesTable:
    """Put the rows of a table on the processor's grid, some at a time, so that not all of them are ever held.

    Raises ValueError, naming row and column, for what cannot be read, for two rows of one time that differ, and for
    far more steps than rows.
    """
    columns = [*filter(None, [processor.time_column, processor.id_column]), *processor.target_columns]
    keys, grid = columns[: len(columns) - len(processor.target_columns)], processor.grid()
    for start, frame in _frames(source, keys or columns[:1]):
        grid.see(*processor.read(frame, grid, _naming(source, start)))
    grid.check_lengths()
    lengths = grid.lengths
    starts = np.cumsum(lengths) - lengths
    values = Values(int(lengths.sum()), len(processor.target_columns), most)
    filled, repeated, again = np.zeros(values.shape[0], dtype=bool), 0, processor.grid()
    for start, frame in _frames(source, columns):
        where = _naming(source, start)
        codes, ordinals = processor.read(frame, again, where)
        if processor.time_column is None:
            again.see(codes, ordinals)  # which counts the rows
        steps = grid.steps(codes, ordinals, where)
        numbers = read_numbers(frame, processor.target_columns, where)
        repeated += put(
            values.array, filled, starts[codes] + steps, numbers, _twice(processor, grid, codes, steps, where)
        )
    return SeriesTable(values, grid, starts, lengths, repeated, int(len(filled) - filled.sum()))


def first_rows(source: Source) -> Any:
    """The rows in which columns and frequency are looked for, as a DataFrame."""
    return source.data.with_format("pandas")[:CHUNK]


def _twice(
    processor: FPTTimeSeriesProcessor, grid: Grid, codes: np.ndarray, steps: np.ndarray, where: Callable[[int], str]
) -> Callable[[int], str]:
    return lambda row: processor.twice(grid, int(codes[row]), int(steps[row]), where(row))


def _frames(source: Source, columns: list[str]) -> Iterator[tuple[int, Any]]:
    """Some rows at a time, as DataFrames of these columns, and the number of the first of them."""
    rows = source.data.select_columns(columns).with_format("pandas")
    for start in range(0, len(rows), CHUNK):
        yield start, rows[start : start + CHUNK]


def _naming(source: Source, start: int) -> Callable[[int], str]:
    return lambda row: source.where(start + row)


class Windows(Dataset):
    """Windows of series: {"past_values" (context_length, channels), "labels" (prediction_length, channels)}, float32.

    `spans` (series, 2): where the labels lie; what comes before them may lie before the span. Each window counts, in
    steps of `stride`. Where a span begins with its series, windows begin with a whole context; a series that is too
    short for that has one window, with NaN before its first step. `chosen`: the numbers of the windows that are kept
    (None: all).
    """

    def __init__(
        self,
        table: SeriesTable,
        spans: np.ndarray,
        context_length: int,
        prediction_length: int,
        stride: int = 1,
        chosen: np.ndarray | None = None,
    ):
        self.table, self.spans, self.chosen = table, spans, chosen
        self.context_length, self.prediction_length, self.stride = context_length, prediction_length, stride
        begins, last = table.starts, spans[:, 1] - prediction_length  # the last step at which labels may begin
        first = np.where(spans[:, 0] > begins, spans[:, 0], np.minimum(begins + context_length, last))
        counts = np.maximum((last - first) // stride + 1, 0) * (first > begins)
        self._first, self._counts, self._ends = first, counts, np.cumsum(counts)

    def __len__(self) -> int:
        return int(self._ends[-1]) if self.chosen is None else len(self.chosen)

    @property
    def left_out(self) -> int:
        """How many series have steps in the span, and too few for a window."""
        return int(((self._counts == 0) & (self.spans[:, 1] > self.spans[:, 0])).sum())

    def __getitem__(self, index: int) -> dict[str, np.ndarray]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"there are {len(self)} windows, got {index}")
        past, labels = self.batch(np.array([index % len(self)]))
        return {"past_values": past[0], "labels": labels[0]}

    def batch(self, indices: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Windows by number: (batch, context_length, channels) and (batch, prediction_length, channels)."""
        indices = indices if self.chosen is None else self.chosen[indices]
        series = np.searchsorted(self._ends, indices, side="right")
        nth = indices - (self._ends - self._counts)[series]
        begin, origin = self.table.starts[series], self._first[series] + nth * self.stride
        steps = origin[:, None] + np.arange(-self.context_length, self.prediction_length)  # (batch, steps)
        values = self.table.values.array[np.maximum(steps, begin[:, None])]
        values[steps < begin[:, None]] = np.nan
        return values[:, : self.context_length], values[:, self.context_length :]

    def batches(self, size: int = 256, most: int | None = None) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """All windows, `size` at a time; of more than `most`, so many, evenly spread."""
        count = len(self)
        indices = (
            np.arange(count) if most is None or count <= most else np.linspace(0, count - 1, most).astype(np.int64)
        )
        for start in range(0, len(indices), size):
            yield self.batch(indices[start : start + size])
