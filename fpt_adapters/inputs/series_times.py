"""Times of time series: read from columns of any kind, and counted in steps of a frequency.

This file imports no other of this library but `table_cells.py`, with which it goes along where
`time_series_processing_fpt.py` is copied to. pandas is imported when it is needed, as in all of this library.
"""

import datetime
import functools
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .table_cells import ISO, ISO_DATE, cells_of, date_formats, dates_of, missing_cells, number_of, unclear_dates

if TYPE_CHECKING:
    import pandas

DAY = 86_400_000_000  # in microseconds
MONTH = 28 * DAY
CALENDAR = ("YS", "YE", "QS", "QE", "MS", "ME")  # of times that are a month or more apart, the coarsest first
FIRST_DATE = "1800-01-01"  # from which months, weeks and the like are counted
WITH_ZONE = re.compile(r".*:\d\d(\.\d+)?\s*(Z|[-+]\d\d:?(\d\d)?)")
WORKDAYS = 11  # so many days without a Saturday or Sunday are days of work
SEEN = 10_000  # times in which a frequency is looked for
EXAMPLES = "such as h, 15min, D, W-SUN or MS, or a number for times that are whole numbers"


def read_times(
    column: "pandas.Series", where: Callable[[int], str], form: str | None = None
) -> tuple[np.ndarray, str | None, str | None]:
    """The times of rows: int64 or, in UTC where they have a zone, datetime64[us]; their zone; how text is written.

    Raises ValueError, naming row and column, for a missing time, for what is none, and for dates that read in two
    ways.
    """
    import pandas

    name = str(column.name)
    if (missing := column.isna().to_numpy()).any():
        raise ValueError(f"each row needs a time, but {where(int(missing.argmax()))} has none in column {name!r}.")
    if isinstance(column.dtype, pandas.DatetimeTZDtype):
        return _microseconds(column.dt.tz_convert("UTC").dt.tz_localize(None), where), str(column.dt.tz), None
    if column.dtype.kind == "M":
        return _microseconds(column, where), None, None
    if column.dtype.kind in "iuf":
        return _whole(column.to_numpy(dtype=np.float64 if column.dtype.kind == "f" else np.int64), name, where)
    cells = cells_of(column.tolist(), name, where)
    if (missing := missing_cells(cells)).any():
        raise ValueError(f"each row needs a time, but {where(int(missing.argmax()))} has none in column {name!r}.")
    numbers = [None if isinstance(cell, bool) else number_of(cell) for cell in cells]
    if None not in numbers:
        return _whole(np.array(numbers), name, where)
    if not all(isinstance(cell, datetime.date) for cell in cells):
        form = form or _form_of(cells, name, where)
        aware = [bool(WITH_ZONE.fullmatch(cell)) for cell in cells]
    else:
        aware = [isinstance(cell, datetime.datetime) and cell.tzinfo is not None for cell in cells]
    if any(aware) and not all(aware):
        row = aware.index(not aware[0])
        raise ValueError(
            f"times have a zone or have none, but {where(row)} has {cells[row]!s:.60} in column {name!r} after "
            f"{cells[0]!s:.60}: write all in one way."
        )
    return dates_of(cells, name, where, form or ISO, unit="us"), "UTC" if aware[0] else None, form


def _microseconds(column: "pandas.Series", where: Callable[[int], str]) -> np.ndarray:
    exact = column.to_numpy()
    times = exact.astype("datetime64[us]")
    if len(wrong := np.flatnonzero(times != exact)):
        raise ValueError(
            f"times are whole microseconds, but {where(int(wrong[0]))} has {exact[wrong[0]]} in column "
            f"{column.name!r}: round them, or write whole numbers of nanoseconds."
        )
    return times


def _whole(numbers: np.ndarray, name: str, where: Callable[[int], str]) -> tuple[np.ndarray, None, None]:
    if len(wrong := np.flatnonzero(numbers != np.floor(numbers))):
        raise ValueError(
            f"times that are numbers are whole, but {where(int(wrong[0]))} has {numbers[wrong[0]]} in column "
            f"{name!r}: count the steps, or write dates."
        )
    return numbers.astype(np.int64), None, None


def _form_of(cells: np.ndarray, name: str, where: Callable[[int], str]) -> str:
    """How texts are written as dates. Raises ValueError for what is no date, and for what reads in two ways."""
    texts = cells.tolist()
    forms = date_formats(texts)
    if len(forms) > 1:
        raise ValueError(unclear_dates(name, where(0), texts[0], forms))
    if not forms:
        right = [isinstance(text, str) and ISO_DATE.fullmatch(text) is not None for text in texts]
        row = right.index(False) if any(right) else 0
        raise ValueError(
            f"times are dates or whole numbers, but {where(row)} has {texts[row]!r:.60} in column {name!r}: write "
            "2024-12-31T09:30:00, or say with date_format how they are written."
        )
    return forms[0]


@dataclass(frozen=True)
class Clock:
    """The steps of time of a table: `frequency` is an offset alias of pandas, or a whole number; `zone`: of the times.

    Times have ordinals, of which two steps are `step` apart. Hours and less are counted in UTC, so that no hour is
    lost or doubled when clocks change; days and more on the local calendar. Raises ValueError for no frequency.
    """

    frequency: str | int
    zone: str | None = None

    def __post_init__(self) -> None:
        try:
            right = type(self.frequency) in (int, str) and self.step > 0
        except ValueError:
            right = False
        if not right:
            raise ValueError(f"frequency is one of pandas' {EXAMPLES}; got {self.frequency!r:.60}.")

    @functools.cached_property
    def counts(self) -> str:
        """What ordinals are: "numbers", microseconds in "utc" or on "local" clocks, or places in "dates"."""
        from pandas import offsets

        if isinstance(self.frequency, int):
            return "numbers"
        if isinstance(self._offset, offsets.Day):
            return "local"
        return "utc" if isinstance(self._offset, offsets.Tick) else "dates"

    @functools.cached_property
    def step(self) -> int:
        """What lies between the ordinals of two steps."""
        if self.counts == "numbers":
            return self.frequency
        if self.counts == "utc":
            return 0 if self._offset.nanos % 1000 else self._offset.nanos // 1000
        return self._offset.n * (DAY if self.counts == "local" else 1)

    @functools.cached_property
    def _offset(self) -> "pandas.DateOffset":
        from pandas.tseries.frequencies import to_offset

        return to_offset(self.frequency)

    @property
    def _alias(self) -> str:
        return self.frequency.lstrip("0123456789")

    def ordinals(self, times: np.ndarray, name: str | None = None, where: Callable[[int], str] = str) -> np.ndarray:
        """int64 (rows,), of times as `read_times` returns them from column `name`.

        Raises ValueError for dates with a whole number as frequency, or the reverse, and, naming the row, for a date
        that is none of this frequency.
        """
        if (times.dtype.kind == "M") == (self.counts == "numbers"):
            found = "dates" if times.dtype.kind == "M" else "whole numbers"
            raise ValueError(
                f"column {name!r} holds {found}, but the frequency is {self.frequency!r}: it is one {EXAMPLES}."
            )
        if self.counts in ("local", "dates"):
            times = _local(times, self.zone)
        if self.counts != "dates":
            return times.astype(np.int64)
        dates = _dates(self._alias, int(times.max().astype("datetime64[Y]").astype(int)) + 1971)
        places = np.searchsorted(dates, times).clip(max=len(dates) - 1)
        if (off := dates[places] != times).any():
            row = int(off.argmax())
            raise ValueError(off_the_grid("the series", self.frequency, where(row), times[row], name))
        return places

    def times(self, ordinals: np.ndarray) -> Any:
        """The times of ordinals: whole numbers, or a DatetimeIndex in the zone of the table."""
        import pandas

        if self.counts == "numbers":
            return ordinals
        if self.counts == "dates":
            dates = pandas.date_range(FIRST_DATE, periods=ordinals.max() + 1, freq=self._alias)
            index = pandas.DatetimeIndex(dates.as_unit("us").to_numpy()[ordinals])
        else:
            index = pandas.DatetimeIndex(ordinals.astype("datetime64[us]"))
        if self.zone is None:
            return index
        if self.counts == "utc":
            return index.tz_localize("UTC").tz_convert(self.zone)
        return index.tz_localize(self.zone, ambiguous=np.ones(len(index), dtype=bool), nonexistent="shift_forward")

    def shown(self, ordinal: int) -> str:
        """A time as messages write it."""
        return str(self.times(np.array([ordinal]))[0])


def off_the_grid(series: str, frequency: str | int, row: str, time: Any, name: str | None) -> str:
    """The message for a time that is no whole number of steps after the first one."""
    return (
        f"the times of {series} are {frequency!r} apart, but {row} has {time} in column {name!r}: mend it, resample "
        f"the series, or write another frequency, {EXAMPLES}."
    )


@functools.lru_cache(maxsize=8)
def _dates(alias: str, year: int) -> np.ndarray:
    import pandas

    return pandas.date_range(FIRST_DATE, f"{year}-12-31", freq=alias).as_unit("us").to_numpy()


def _local(times: np.ndarray, zone: str | None) -> np.ndarray:
    """Times in UTC as clocks of the zone show them."""
    import pandas

    if zone is None:
        return times
    return pandas.DatetimeIndex(times).tz_localize("UTC").tz_convert(zone).tz_localize(None).to_numpy()


def find_frequency(times: np.ndarray, codes: np.ndarray, zone: str | None) -> str | int:
    """The time between most rows, which are of the series `codes`. Raises ValueError where none has two times."""
    import pandas
    from pandas.tseries.frequencies import to_offset

    of_most = np.unique(times[codes == np.bincount(codes).argmax()])[:SEEN]
    if len(of_most) < 2:
        raise ValueError(
            f"a frequency is the time between two steps, but no series has two: write frequency, {EXAMPLES}."
        )
    gaps, counts = np.unique(np.diff(of_most), return_counts=True)
    if times.dtype.kind != "M":
        return int(gaps[counts.argmax()])
    usual = int(gaps[counts.argmax()].astype(np.int64))
    if usual < DAY:
        return to_offset(pandas.Timedelta(usual, unit="us")).freqstr
    local = _local(of_most, zone)
    if usual >= MONTH:
        for alias in CALENDAR:
            if np.isin(local, _dates(alias, int(local[-1].astype("datetime64[Y]").astype(int)) + 1971)).all():
                return alias
    weekdays = local.astype("datetime64[D]").astype(int) % 7  # Thursday is 0
    if usual == DAY and len(local) >= WORKDAYS and not np.isin(weekdays, (2, 3)).any():
        return "B"
    return "D" if usual == DAY else f"{round(usual / DAY)}D"
