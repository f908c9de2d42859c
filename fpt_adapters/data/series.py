"""Series in other files than rows of lists: in long form, a row a step, and the `.ts` files of the UEA archive."""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas

from ..inputs.table_cells import number_of
from .columns import find_column, is_class_label
from .sources import Source
from .times import times_of

VALUES = "values"  # the column that series are put into


def from_long_form(source: Source, id_column: str, step_column: str | None, constant: tuple[str, ...]) -> Source:
    """Put the rows of each series together, in the order in which they come: "values" (steps, channels) a series.

    Columns in `constant` (label, group, time) have one value a series, in one of its rows at least, and are kept; the
    numeric others are the channels. Rows of a series may lie apart where `step_column` tells their order. Raises
    ValueError, naming the row, for those that lie apart without it, whose time goes backwards or stands still, or that
    have two values in a constant column.
    """
    table = source.data.to_pandas()
    known = dict.fromkeys(constant, "group_column") | {step_column: "step_column", id_column: "id_column"}
    for column, flag in known.items():
        if column is not None:
            find_column(source, column, (), is_class_label, flag)
    ids = table[id_column]
    if ids.isna().any():
        raise ValueError(
            f"each step belongs to a series, but {source.where(int(ids.isna().argmax()))} has no id in column "
            f"{id_column!r}: fill it in or drop the row."
        )
    number = pandas.factorize(ids)[0]  # of each row's series, (rows,)
    back = np.flatnonzero(np.diff(number, prepend=0) < 0)
    if len(back) and step_column is None:
        raise ValueError(
            f"the rows of a series stand together, but series {_shown(ids, back[0])} goes on in "
            f"{source.where(int(back[0]))}: sort the rows by {id_column}, or write --step_column."
        )
    rows = np.argsort(number, kind="stable")  # those of each series together
    starts = np.flatnonzero(np.diff(number[rows], prepend=-1))
    if step_column:
        _check_order(source, table[step_column], ids, rows, number[rows])
    kept = {id_column: source.data.select(rows[starts])[id_column]}
    for column in constant:
        kept[column] = source.data.select(_rows_of_values(source, table[column], ids, number))[column]
    steps = _channels(source, table.drop(columns=[name for name in known if name is not None]), known)
    features = {name: source.data.features[name] for name in kept}
    features[VALUES] = datasets.List(datasets.List(datasets.Value("float64")))
    series = [part.tolist() for part in np.split(steps[rows], starts[1:])]
    data = datasets.Dataset.from_dict(kept | {VALUES: series}, features=datasets.Features(features))
    names = [f"series {name!r} (row {row} and on)" for name, row in zip(kept[id_column], rows[starts], strict=True)]
    return Source(data, source.name, source.folder, names)


def _check_order(
    source: Source, values: pandas.Series, ids: pandas.Series, rows: np.ndarray, number: np.ndarray
) -> None:
    """Raise ValueError for a time that is not after the one before it. `rows`: in order of `number`, their series."""
    times = times_of(values.to_numpy(), values.name, source.where)[rows]
    late = np.flatnonzero((number[1:] == number[:-1]) & (times[1:] <= times[:-1]))
    if len(late):
        before, row = rows[late[0]], rows[late[0] + 1]
        advice = "drop one of the two" if times[late[0]] == times[late[0] + 1] else "sort the rows"
        raise ValueError(
            f"time goes forward within a series, but {source.where(row)} has {_shown(values, row)} in column "
            f"{values.name!r} after {_shown(values, before)} in row {before} (series {_shown(ids, row)}): {advice}."
        )


def _rows_of_values(source: Source, values: pandas.Series, ids: pandas.Series, number: np.ndarray) -> np.ndarray:
    """The first row of each series that has a value, or else its first one. Raises ValueError for two values."""
    given = values.notna().to_numpy()
    order = np.lexsort((~given, number))  # by series, those with a value first, in the order of the file
    first = order[np.flatnonzero(np.diff(number[order], prepend=-1))]
    texts = values.map(str).to_numpy()
    other = np.flatnonzero(given & (texts != texts[first[number]]))
    if len(other):
        row, before = other[0], first[number[other[0]]]
        raise ValueError(
            f"a series has one value in column {values.name!r}, but {source.where(row)} has {_shown(values, row)} "
            f"after {_shown(values, before)} in row {before} (series {_shown(ids, row)}): give all its rows the same."
        )
    return first


def _channels(source: Source, table: pandas.DataFrame, known: dict[str | None, str]) -> np.ndarray:
    """The numbers of each step: float64 (all steps, channels). Raises ValueError for text, and for infinity."""
    if not len(table.columns):
        raise ValueError(f"{source.name} has no column of numbers beside {', '.join(sorted(known.keys() - {None}))}.")
    for name in table.columns:
        if table[name].dtype.kind not in "iufb":
            numbers = pandas.to_numeric(table[name], errors="coerce")
            wrong = int((numbers.isna() & table[name].notna()).to_numpy().argmax())
            raise ValueError(
                f"the channels of a series are numbers, but {source.where(wrong)} has {_shown(table[name], wrong)} in "
                f"column {name!r}: drop the column, or name it as --label_column, --group_column or --step_column."
            )
    steps = table.to_numpy(dtype=np.float64)
    if len(wrong := np.argwhere(np.isinf(steps))):
        row, channel = wrong[0].tolist()
        raise ValueError(
            f"the channels of a series are finite, but {source.where(row)} has {steps[row, channel]} in column "
            f"{table.columns[channel]!r}: write a number, or nothing where it is missing."
        )
    return steps


def series_of(
    rows: Iterable[Mapping[str, Any]],
    file: str,
    id_column: str,
    step_column: str | None,
    channels: Sequence[str] | None,
) -> Iterator[tuple[Any, list[list[float | None]]]]:
    """The id and the steps of each series of a file in long form, one after another, of which no other is held.

    `channels`: the columns of the numbers (None: all others). Raises ValueError, naming the row, as `from_long_form`,
    and for rows of a series that lie apart.
    """
    ended: set[Any] = set()
    now, steps, times, start = None, [], [], 0
    for number, row in enumerate(rows):
        if number == 0:
            channels = channels or [name for name in row if name not in (id_column, step_column)]
            for name in (id_column, *filter(None, [step_column]), *channels):
                if name not in row:
                    raise ValueError(f"{file} has no column {name!r} but {', '.join(row)}: name one of these.")
        key = row[id_column]
        if key is None or key in ended:
            what = "has no id" if key is None else f"is of series {key!r} again, which has ended"
            raise ValueError(
                f"rows of a series stand together, but row {number} of {file} {what}: sort by {id_column}."
            )
        if steps and key != now:
            yield now, _in_order(steps, times, start, file, step_column)
            ended.add(now)
            steps, times, start = [], [], number
        now = key
        step = [number_of(row[name]) for name in channels]
        if wrong := next(
            (name for name, one in zip(channels, step, strict=True) if one is None and row[name] is not None), None
        ):
            raise ValueError(
                f"the channels of a series are numbers, but row {number} of {file} has {row[wrong]!r:.60} in column "
                f"{wrong!r}: mend it, or name the channels with --input_column."
            )
        steps.append(step)
        times.append(row.get(step_column))
    if steps:
        yield now, _in_order(steps, times, start, file, step_column)


def _in_order(steps: list[Any], times: list[Any], start: int, file: str, step_column: str | None) -> list[Any]:
    """The steps. Raises ValueError for a time that is not after the one before it; `start`: the row of the first."""
    if step_column:
        order = times_of(times, step_column, lambda row: f"row {start + row} of {file}")
        if len(late := np.flatnonzero(order[1:] <= order[:-1])):
            row = int(late[0]) + 1
            raise ValueError(
                f"time goes forward within a series, but row {start + row} of {file} has {times[row]!r:.60} in column "
                f"{step_column!r} after {times[row - 1]!r:.60}: sort the rows."
            )
    return steps


def _shown(values: pandas.Series, row: int) -> str:
    """A value as a message repeats it."""
    return f"{values.iloc[[int(row)]].tolist()[0]!r:.100}"


def read_ts(path: str, name: str, needs_label: bool = True) -> Source:
    """Read a `.ts` file, called `name` in messages: "values" (steps, channels) a row, and "label" where it has labels.

    Raises ValueError, naming the line.
    """
    header: dict[str, list[str]] = {}
    series, labels, lines = [], [], []
    for number, line in enumerate(Path(path).read_text(encoding="utf-8-sig").splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        if line.startswith("@"):
            key, *words = line[1:].split()
            header[key.lower()] = words
            continue
        if "data" not in header:
            raise ValueError(f"a .ts file has its series behind a line @data, but line {number} of {name} has one.")
        if header.get("timestamps", ["false"])[0].lower() == "true":
            raise ValueError(f"{name} has a time at each step, which is not read: write the values only.")
        labelled = "targetlabel" in header or (header.get("classlabel") or ["false"])[0].lower() == "true"
        if needs_label and not labelled:
            raise ValueError(f"each series needs a label, but {name} has neither @classLabel true nor @targetLabel.")
        *channels, label = line.split(":") if labelled else (*line.split(":"), None)
        try:
            values = [[_number(text) for text in channel.split(",")] for channel in channels]
        except ValueError as error:
            raise ValueError(f"line {number} of {name} has {error}, which is no number: write ? for a gap.") from error
        if len({len(channel) for channel in values}) != 1:
            lengths = [len(channel) for channel in values]
            raise ValueError(f"the channels of a series have one length, but line {number} of {name} has {lengths}.")
        series.append(np.array(values).T.tolist())
        lines.append(f"line {number}")
        if not labelled:
            continue
        label, (_, *classes) = label.strip(), header.get("classlabel") or ["true"]
        if label in ("", "?") or (classes and label not in classes):
            rule = f"the label of a series is one of {', '.join(classes)}" if classes else "each series needs a label"
            raise ValueError(f"{rule}, but line {number} of {name} has {label!r}: mend it, or drop the line.")
        labels.append(label)
    if not series:
        raise ValueError(f"{name} has no rows: a split needs at least one.")
    label_type = "float64" if "targetlabel" in header else "string"
    if label_type == "float64":
        try:
            labels = [float(label) for label in labels]
        except ValueError as error:
            raise ValueError(f"labels are numbers, as @targetLabel says, but {name} has another: {error}.") from error
    features: dict[str, Any] = {VALUES: datasets.List(datasets.List(datasets.Value("float64")))}
    columns: dict[str, list[Any]] = {VALUES: series}
    if labels:
        columns["label"], features["label"] = labels, datasets.Value(label_type)
    data = datasets.Dataset.from_dict(columns, datasets.Features(features))
    return Source(data, name, str(Path(path).parent), lines)


def _number(text: str) -> float:
    text = text.strip()
    if text in ("?", "NaN", "nan", ""):
        return float("nan")
    if not re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text):
        raise ValueError(repr(text[:40]))
    return float(text)
