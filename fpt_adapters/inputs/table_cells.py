"""Rows of a table in any of the forms in which they come, and what the cells of a column hold.

This file imports no other of this library: it goes along where `table_processing_fpt.py` is copied to.
"""

import datetime
import math
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from decimal import Decimal
from numbers import Number, Real
from typing import Any

import numpy as np
import torch

PARTS = ("year", "month", "day", "weekday", "hour")  # of a date; Monday is 0, half past nine 9.5
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
ISO_DATE = re.compile(r"\d{4}-\d\d-\d\d([T ]\d\d:\d\d.*)?")
ISO = "iso"
DAYS = (
    *("%d/%m/%Y", "%m/%d/%Y", "%Y/%m/%d", "%d.%m.%Y", "%Y.%m.%d", "%d-%m-%Y", "%m-%d-%Y"),
    *("%b %d, %Y", "%B %d, %Y", "%b %d %Y", "%B %d %Y", "%d %b %Y", "%d %B %Y", "%d-%b-%Y"),
)
DATE_FORMATS = tuple(day + time for day in DAYS for time in ("", " %H:%M", " %H:%M:%S"))
MOST = float(np.finfo(np.float32).max)
FEW = 20  # so many texts are categories, however few the rows are
MOSTLY = 0.9  # of the texts of a column are numbers: then the others are mistakes
CODE = re.compile(r"0\d+")  # is no number, though it reads as one
SCALARS = (str, Number, datetime.date, np.datetime64)


def columns_of(rows: Any, where: Callable[[int], str]) -> dict[str, Any]:
    """The columns by name. Raises ValueError for what is no table, or has no rows."""
    table = {}
    if isinstance(rows, torch.Tensor):
        rows = rows.detach().cpu().numpy()
    if isinstance(rows, (list, tuple)) and rows and isinstance(rows[0], (list, tuple, np.ndarray)):
        rows = np.array(rows, dtype=object)
    if isinstance(rows, np.ndarray):
        table = {f"x{number}": values for number, values in enumerate(rows.T)} if rows.ndim == 2 else {}
    elif isinstance(rows, Mapping):
        one = all(value is None or isinstance(value, SCALARS) for value in rows.values())  # record
        table = {name: [value] if one else value for name, value in rows.items()}
    elif isinstance(rows, Iterable):
        listed = list(rows)
        if all(isinstance(record, Mapping) for record in listed):
            table = _of_records(listed, where)
        elif not isinstance(rows, Sequence):
            table = {name: rows[name] for name in listed}  # a DataFrame
    lengths = {len(values) for values in table.values()}
    if len(lengths) != 1 or 0 in lengths:
        raise ValueError(
            "rows are a DataFrame, a dict of columns, records, or an array (rows, columns), with a row at least, and "
            f"columns of one length; got {type(rows).__name__} with columns of {sorted(lengths) or 'no'} rows."
        )
    return {str(name): values for name, values in table.items()}


def _of_records(records: list[Mapping[str, Any]], where: Callable[[int], str]) -> dict[str, list]:
    names = dict.fromkeys(name for record in records for name in record)
    for row, record in enumerate(records):
        if lacking := [name for name in names if name not in record]:
            raise ValueError(f"{where(row)} has no column {lacking[0]!r}: write None for a missing value.")
    return {name: [record[name] for record in records] for name in names}


def cells_of(values: Any, name: str, where: Callable[[int], str]) -> np.ndarray:
    """The cells of a column: numbers, truth values or times, or else objects, with None for what is missing."""
    array = values if isinstance(values, list) else np.asarray(values)
    if isinstance(array, np.ndarray) and array.ndim == 1 and array.dtype.kind in "biufmM":
        return array
    cells = np.empty(len(array), dtype=object)
    for row, value in enumerate(array):
        if isinstance(value, (np.bool_, np.number)):
            value = value.item()
        if isinstance(value, str):
            value = value.strip()
            missing = not value
        elif isinstance(value, SCALARS):
            missing = value != value  # NaN and NaT
        else:
            missing = value is None or str(value) == "<NA>"  # pandas' own
            if not missing:
                raise ValueError(
                    f"a column holds a number, a text, a truth value or a date in each row, but column {name!r} of "
                    f"{where(row)} has {type(value).__name__}: leave the column out."
                )
        cells[row] = None if missing else value
    return cells


def kind_of(
    values: np.ndarray, missing: np.ndarray, name: str, where: Callable[[int], str], formats: Sequence[str]
) -> tuple[str, str]:
    """What a column holds, and how its dates are written.

    Raises ValueError for text among numbers, and for dates that read in two ways.
    """
    if values.dtype.kind in "iufm":
        return "number", ISO
    if values.dtype.kind in "bM":
        return "category" if values.dtype.kind == "b" else "date", ISO
    present = values[~missing].tolist()
    types = {type(value) for value in present}
    if all(issubclass(kind, (bool, np.bool_)) for kind in types):
        return "category", ISO
    if all(issubclass(kind, (datetime.date, np.datetime64)) for kind in types):
        return "date", ISO
    texts = [value.strip() if isinstance(value, str) else value for value in present]
    if found := date_formats(texts, formats):
        if len(found) > 1:
            raise ValueError(unclear_dates(name, where(int(np.flatnonzero(~missing)[0])), texts[0], found))
        return "date", found[0]
    numbers = [number_of(text) is not None and not CODE.fullmatch(str(text)) for text in texts]
    if all(numbers):
        return "number", ISO
    if np.mean(numbers) >= MOSTLY or (any(numbers) and types != {str}):
        row = int(np.flatnonzero(~missing)[numbers.index(False)])
        raise ValueError(
            f"column {name!r} holds numbers, but {where(row)} has {values[row]!r:.60}: write a number, nothing where "
            "it is missing, or say that the column is categorical."
        )
    distinct = len(set(map(str, texts)))
    return "category" if distinct <= max(FEW, len(texts) // 2) else "id", ISO


def missing_cells(values: np.ndarray) -> np.ndarray:
    """Which cells hold nothing: bool (rows,)."""
    return np.equal(values, None) if values.dtype.kind == "O" else values != values  # NaN and NaT


def numbers_of(values: np.ndarray, missing: np.ndarray, name: str, where: Callable[[int], str]) -> np.ndarray:
    """The numbers of a column, NaN where missing: float64 (rows,). Raises ValueError for text, and for infinity."""
    if values.dtype.kind == "m":
        values = values / np.timedelta64(1, "s")
    found = values if values.dtype.kind in "biuf" else [math.nan if v is None else number_of(v) for v in values]
    numbers = np.array(found, dtype=np.float64)  # NaN for None too
    if (wrong := (np.isnan(numbers) & ~missing) | (np.abs(numbers) > MOST)).any():
        row = int(wrong.argmax())
        raise ValueError(
            f"column {name!r} holds finite numbers, but {where(row)} has {values.tolist()[row]!r:.60}: write a "
            "number of float32, or nothing where it is missing."
        )
    return numbers


def number_of(value: Any) -> float | None:
    """The number that a cell is, or that its text reads as; None for what is none."""
    if not isinstance(value, (Real, Decimal)) and not (isinstance(value, str) and NUMBER.fullmatch(value)):
        return None
    return float(value)


def texts_of(values: np.ndarray, missing: np.ndarray) -> list[str | None]:
    """The cells of a column as categories: whole numbers are the same whatever their type. None where missing."""
    cells = values.astype(str).tolist() if values.dtype.kind in "mM" else values.tolist()
    cells = [int(cell) if isinstance(cell, float) and cell.is_integer() else cell for cell in cells]
    return [None if gone else str(cell) for cell, gone in zip(cells, missing, strict=True)]


def date_formats(texts: Sequence[Any], formats: Sequence[str] = DATE_FORMATS) -> list[str]:
    """How texts are written as dates: ISO, or else each of these formats, as `strptime` has them, that all texts fit.

    Of formats by which they are the same dates, the first. Several are left where a day could be a month.
    """
    if not texts or not all(isinstance(text, str) for text in texts):
        return []
    if all(ISO_DATE.fullmatch(text) for text in texts):
        return [ISO]
    found: dict[tuple, str] = {}
    for form in formats:
        dates = []
        for text in texts:
            try:
                dates.append(datetime.datetime.strptime(text, form))
            except ValueError:
                break
        else:
            found.setdefault(tuple(dates), form)
    return list(found.values())


def unclear_dates(name: str, row: str, value: str, formats: Sequence[str]) -> str:
    """The message for a column whose dates read in two ways."""
    return (
        f"column {name!r} holds dates that read in two ways ({' and '.join(formats)}: {row} has {value!r:.60}): write "
        "2024-12-31, say which with date_format, or that the column is categorical."
    )


def dates_of(
    values: np.ndarray, name: str, where: Callable[[int], str], form: str = ISO, unit: str = "s"
) -> np.ndarray:
    """The dates of a column, in UTC where they have a time zone: datetime64 of a `unit` (rows,). Raises ValueError."""
    if values.dtype.kind == "M":
        return values.astype(f"datetime64[{unit}]")
    dates = np.full(len(values), "NaT", dtype=f"datetime64[{unit}]")
    for row, value in enumerate(values):
        try:
            read = value
            if isinstance(value, str) and form == ISO:
                read = datetime.datetime.fromisoformat(value.replace("Z", "+00:00"))
            elif isinstance(value, str):
                read = datetime.datetime.strptime(value, form)
            if isinstance(read, datetime.datetime) and read.tzinfo is not None:
                read = read.astimezone(datetime.timezone.utc).replace(tzinfo=None)
            dates[row] = read
        except ValueError as error:
            shown = "2024-12-31 or 2024-12-31T09:30" if form == ISO else f"{datetime.date(2024, 12, 31):{form}}"
            raise ValueError(
                f"column {name!r} holds dates, but {where(row)} has {value!r:.60}: write {shown}, or nothing where it "
                "is missing."
            ) from error
    return dates


def parts_of(dates: np.ndarray) -> dict[str, np.ndarray]:
    """The `PARTS` of dates, NaN where missing: float64 (rows,) each."""
    years, months, days = (dates.astype(f"datetime64[{unit}]") for unit in "YMD")
    numbers = (
        years.astype(int) + 1970,
        months.astype(int) % 12 + 1,
        (days - months).astype(int) + 1,
        (days.astype(int) + 3) % 7,
        (dates - days).astype(int) / 3600,
    )
    return {part: np.where(np.isnat(dates), np.nan, one) for part, one in zip(PARTS, numbers, strict=True)}
