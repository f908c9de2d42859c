"""Times: of the steps of a series, and of rows that are held out by it; numbers or dates, which have an order."""

import datetime
from collections.abc import Callable
from typing import Any

import numpy as np

from ..inputs.table_cells import (
    ISO_DATE,
    cells_of,
    date_formats,
    dates_of,
    missing_cells,
    number_of,
    unclear_dates,
)


def times_of(values: Any, column: str, where: Callable[[int], str]) -> np.ndarray:
    """The times in a column, sortable: numbers as they are, dates and texts of dates as datetime64 (rows,).

    Raises ValueError, naming the row, for a time that is missing, for text that is no date, and for dates that read in
    two ways.
    """
    cells = cells_of(values, column, where)
    if (missing := missing_cells(cells)).any():
        raise ValueError(f"each row needs a time, but {where(int(missing.argmax()))} has none in column {column!r}.")
    if cells.dtype.kind != "O":
        return cells
    times = cells.tolist()
    numbers = [number_of(time) for time in times]
    if None not in numbers:
        return np.array(numbers, dtype=np.float64)
    if all(isinstance(time, datetime.date) for time in times):
        return dates_of(cells, column, where, unit="us")
    formats = date_formats(times)
    if len(formats) > 1:
        raise ValueError(unclear_dates(column, where(0), times[0], formats))
    if not formats:
        right = [
            number is not None or (isinstance(time, str) and ISO_DATE.fullmatch(time) is not None)
            for time, number in zip(times, numbers, strict=True)
        ]
        row = right.index(False) if any(right) and not all(right) else 0
        raise ValueError(
            f"times are numbers or dates, but {where(row)} has {times[row]!r:.60} in column {column!r}: write "
            "numbers, or 2024-12-31T09:30:00."
        )
    return dates_of(cells, column, where, formats[0], unit="us")
