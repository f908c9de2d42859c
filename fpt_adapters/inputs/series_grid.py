"""Time series in a table: its rows, in any order and with gaps, take their places on a regular grid of times.

This file imports no other of this library but those that it imports, with which it goes along where
`time_series_processing_fpt.py` is copied to. pandas is imported when it is needed, as in all of this library.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from .series_times import EXAMPLES, Clock, off_the_grid
from .table_cells import cells_of, missing_cells, numbers_of

if TYPE_CHECKING:
    import pandas

SAME = 1e-6  # the deviation of a channel, beside its mean, from which on it varies, in float32
MOST_EMPTY = 20  # steps of a series for each of its rows: with more, the frequency is hardly the right one


def frame_of(rows: Any) -> "pandas.DataFrame":
    """A table as a DataFrame: a Dataset, a dict of columns and records become one. Raises ValueError."""
    import pandas

    if not isinstance(rows, pandas.DataFrame):
        try:
            rows = rows.to_pandas() if hasattr(rows, "to_pandas") else pandas.DataFrame(rows)
        except (TypeError, ValueError) as error:
            raise ValueError(
                "time series come as a DataFrame, a Dataset, a dict of columns of one length, or records; got "
                f"{type(rows).__name__} ({error})."
            ) from error
    if not len(rows):
        raise ValueError("a table of time series needs at least one row, got none.")
    return rows.set_axis([str(name) for name in rows.columns], axis=1)


def column_of(frame: "pandas.DataFrame", name: str, where: Callable[[int], str]) -> "pandas.Series":
    """A column. Raises ValueError, with those that are there, for one that is not."""
    if name not in frame.columns:
        columns = ", ".join(map(str, frame.columns))
        raise ValueError(f"rows have the columns of the training rows, but {where(0)} has no {name!r}: {columns}.")
    return frame[name]


@dataclass
class Grid:
    """The series of a table and their places on the grid of a `clock`: rows are first seen, then put in place.

    `ids` (series,), as they come; `first` and `last`: the ordinals of each series, int64 (series,).
    """

    clock: Clock
    name: str | None = None  # of the column of times, for messages
    ids: list[Any] = field(default_factory=list)
    first: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    last: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))
    rows: np.ndarray = field(default_factory=lambda: np.empty(0, dtype=np.int64))  # of each series

    def codes(self, ids: Sequence[Any] | None, count: int) -> np.ndarray:
        """The number of each row's series, int64 (rows,), in the order in which they come; None: there is one."""
        import pandas

        if ids is None:
            ids = np.zeros(count, dtype=np.int64)
        numbers, new = pandas.factorize(np.asarray(ids))
        known = {key: number for number, key in enumerate(self.ids)}
        self.ids += [key for key in new.tolist() if key not in known]
        known = {key: number for number, key in enumerate(self.ids)}
        return np.array([known[key] for key in new.tolist()], dtype=np.int64)[numbers]

    def counted(self, codes: np.ndarray) -> np.ndarray:
        """Ordinals of rows without times: their number within their series."""
        import pandas

        before = np.zeros(len(self.ids), dtype=np.int64)
        before[: len(self.rows)] = self.rows
        return before[codes] + pandas.Series(codes).groupby(codes).cumcount().to_numpy()

    def see(self, codes: np.ndarray, ordinals: np.ndarray) -> None:
        """Take note of rows."""
        new = len(self.ids) - len(self.rows)
        limits = np.iinfo(np.int64)
        self.first = np.append(self.first, np.full(new, limits.max))
        self.last = np.append(self.last, np.full(new, limits.min))
        np.minimum.at(self.first, codes, ordinals)
        np.maximum.at(self.last, codes, ordinals)
        self.rows = np.append(self.rows, np.zeros(new, dtype=np.int64)) + np.bincount(codes, minlength=len(self.ids))

    @property
    def lengths(self) -> np.ndarray:
        """The steps of each series: int64 (series,)."""
        return (self.last - self.first) // self.clock.step + 1

    def check_lengths(self) -> None:
        """Raise ValueError for a series of far more steps than rows."""
        lengths = self.lengths
        if (sparse := lengths > MOST_EMPTY * self.rows + 1000).any():
            number = int(sparse.argmax())
            raise ValueError(
                f"series have steps of {self.clock.frequency!r}, but {self.shown(number)} has {self.rows[number]:,} "
                f"rows over {lengths[number]:,} of them, {self.clock.shown(self.first[number])} to "
                f"{self.clock.shown(self.last[number])}: write another frequency, {EXAMPLES}, or mend the times."
            )

    def steps(self, codes: np.ndarray, ordinals: np.ndarray, where: Callable[[int], str]) -> np.ndarray:
        """The step of each row within its series: int64 (rows,). Raises ValueError for a time off the grid."""
        steps, rest = np.divmod(ordinals - self.first[codes], self.clock.step)
        if len(off := np.flatnonzero(rest != 0)):
            row = int(off[0])
            raise ValueError(
                off_the_grid(
                    *(
                        self.shown(codes[row]),
                        self.clock.frequency,
                        where(row),
                        self.clock.shown(ordinals[row]),
                        self.name,
                    )
                )
            )
        return steps

    def shown(self, number: int) -> str:
        """What messages call a series."""
        return "the series" if len(self.ids) == 1 and self.ids[0] == 0 else f"series {self.ids[number]!r}"


def put(
    values: np.ndarray,
    filled: np.ndarray,
    places: np.ndarray,
    rows: np.ndarray,
    of: Callable[[int], str],
) -> int:
    """Write `rows` (rows, channels) into `values` (steps, channels) at `places`; `filled` (steps,): which have some.

    Returns how many rows came again, all the same. Raises ValueError, with `of(row)`, for one that comes again
    otherwise.
    """
    unique, at = np.unique(places, return_index=True)
    new = ~filled[unique]
    values[unique[new]] = rows[at[new]]
    filled[unique[new]] = True
    again = np.ones(len(places), dtype=bool)
    again[at[new]] = False
    again = np.flatnonzero(again)
    there, came = values[places[again]], rows[again]
    if (other := ~((there == came) | (np.isnan(there) & np.isnan(came))).all(axis=1)).any():
        raise ValueError(of(int(again[other.argmax()])))
    return len(again)


def read_numbers(frame: "pandas.DataFrame", names: Sequence[str], where: Callable[[int], str]) -> np.ndarray:
    """The numbers of columns, NaN where missing: float32 (rows, columns). Raises ValueError, naming row and column."""
    numbers = np.empty((len(frame), len(names)), dtype=np.float32)
    for place, name in enumerate(names):
        column = column_of(frame, name, where)
        cells = cells_of(column.to_numpy() if column.dtype.kind in "biuf" else column.tolist(), name, where)
        exact = numbers_of(cells, missing_cells(cells), name, where)
        with np.errstate(over="ignore"):
            numbers[:, place] = exact
        if (wrong := np.isinf(numbers[:, place])).any():
            row = int(wrong.argmax())
            raise ValueError(f"numbers fit into float32, but {where(row)} has {exact[row]} in column {name!r}.")
    return numbers


def find_targets(
    frame: "pandas.DataFrame",
    time: str | None,
    id_column: str | None,
    targets: Sequence[str] | None,
    where: Callable[[int], str],
) -> list[str]:
    """The channels. Raises ValueError for none, and for a column that is no channel."""
    for name in (*filter(None, [time, id_column]), *(targets or ())):
        column_of(frame, name, where)
    if time is None and frame.index.dtype.kind == "M":
        raise ValueError("time is a column, but this table has its times in the index: write table.reset_index().")
    if targets is not None:
        return list(targets)
    found = [str(name) for name in frame.columns if name not in (time, id_column)]
    for name in found:
        if frame[name].dtype.kind not in "iufb":
            raise ValueError(
                f"the columns beside time and id are numbers, but {name!r} of {where(0)} has "
                f"{frame[name].tolist()[0]!r:.60}: name time, id and target, or leave the column out."
            )
    if not found:
        raise ValueError(
            f"a table of series has a column of numbers, but this has {', '.join(map(str, frame.columns))}."
        )
    return found


def scale_of(chunks: Callable[[], Iterable[np.ndarray]], names: Sequence[str]) -> tuple[list[float], list[float]]:
    """Mean and deviation of each channel over `chunks()` (rows, channels), which are trained on; constant ones: 1.

    Raises ValueError, with the channel's name, for one without any value.
    """
    counts, sums, squares = (np.zeros(len(names)) for _ in range(3))
    for values in chunks():
        counts += (~np.isnan(values)).sum(axis=0)
        sums += np.nansum(values, axis=0, dtype=np.float64)
    if not counts.all():
        raise ValueError(f"channel {names[int(counts.argmin())]!r} is missing in every training row: leave it out.")
    mean = sums / counts
    for values in chunks():
        squares += np.nansum((values - mean) ** 2, axis=0)
    std = np.sqrt(squares / counts)
    return mean.tolist(), np.where(std > SAME * np.abs(mean), std, 1.0).tolist()
