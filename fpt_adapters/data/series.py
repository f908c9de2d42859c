"""Series in other files than rows of lists: in long form, a row a step, and the `.ts` files of the UEA archive."""

import re
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas

from .columns import find_column, is_class_label
from .sources import Source

VALUES = "values"  # the column that series are put into


def from_long_form(source: Source, id_column: str, step_column: str | None, constant: tuple[str, ...]) -> Source:
    """Put the rows of each series together, in the order in which they come: "values" (steps, channels) a series.

    Columns in `constant` (label, group) have one value a series and are kept; the numeric others are the channels.
    Raises ValueError, naming the row, for a series whose rows lie apart, whose time goes backwards or stands still,
    or that has two values in a constant column.
    """
    table = source.data.to_pandas()
    known = dict.fromkeys(constant, "group_column") | {step_column: "step_column", id_column: "id_column"}
    for column, flag in known.items():
        if column is not None:
            find_column(source, column, (), is_class_label, flag)
    ids = table[id_column]
    if ids.isna().any():
        raise ValueError(f"each step belongs to a series, but {source.where(int(ids.isna().argmax()))} has no id.")
    starts = np.flatnonzero(np.r_[True, ids.to_numpy()[1:] != ids.to_numpy()[:-1]])
    first = ids.iloc[starts]
    if (again := first.duplicated()).any():
        row = int(starts[again.to_numpy().argmax()])
        raise ValueError(
            f"the rows of a series stand together, but series {_shown(ids, row)} goes on in {source.where(row)}: sort "
            f"the rows by {id_column} (and by their time)."
        )
    inside = np.ones(len(table), dtype=bool)
    inside[starts] = False  # rows that have one of the same series before them
    if step_column:
        order = table[step_column]
        late = (order > order.shift()).to_numpy() | ~inside
        if not late.all():
            row = int((~late).argmax())
            raise ValueError(
                f"time goes forward within a series, but {source.where(row)} has {_shown(order, row)} in column "
                f"{step_column!r} after {_shown(order, row - 1)} (series {_shown(ids, row)}): sort the rows."
            )
    for column in constant:
        same = (table[column] == table[column].shift()).to_numpy() | (table[column].isna().to_numpy()) | ~inside
        if not same.all():
            row = int((~same).argmax())
            raise ValueError(
                f"a series has one value in column {column!r}, but {source.where(row)} has "
                f"{_shown(table[column], row)} after {_shown(table[column], row - 1)} (series {_shown(ids, row)})."
            )
    channels = [name for name in table.columns if name not in known]
    for name in channels:
        if table[name].dtype.kind not in "iufb":
            numbers = pandas.to_numeric(table[name], errors="coerce")
            wrong = int((numbers.isna() & table[name].notna()).to_numpy().argmax())
            raise ValueError(
                f"the channels of a series are numbers, but {source.where(wrong)} has {_shown(table[name], wrong)} in "
                f"column {name!r}: drop the column, or name it as --label_column, --group_column or --step_column."
            )
    if not channels:
        raise ValueError(f"{source.name} has no column of numbers beside {', '.join(sorted(known.keys() - {None}))}.")
    steps = table[channels].to_numpy(dtype=np.float64)
    features = {name: source.data.features[name] for name in (id_column, *constant)}
    features[VALUES] = datasets.List(datasets.List(datasets.Value("float64")))
    kept = {name: source.data.select(starts)[name] for name in (id_column, *constant)}
    series = [part.tolist() for part in np.split(steps, starts[1:])]
    data = datasets.Dataset.from_dict(kept | {VALUES: series}, features=datasets.Features(features))
    return Source(data, f"{source.name}, a row a series")


def _shown(values: pandas.Series, row: int) -> str:
    """A value as a message repeats it."""
    return f"{values.iloc[[row]].tolist()[0]!r:.100}"


def read_ts(path: str, split: str) -> Source:
    """Read a `.ts` file: "values" (steps, channels) and "label" a row. Raises ValueError, naming the line."""
    header: dict[str, list[str]] = {}
    series, labels = [], []
    name = f"the {split} split ({path})"
    for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), 1):
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
        *channels, label = line.split(":")
        if "classlabel" not in header and "targetlabel" not in header:
            raise ValueError(f"each series needs a label, but {name} has neither @classLabel nor @targetLabel.")
        try:
            values = [[_number(text) for text in channel.split(",")] for channel in channels]
        except ValueError as error:
            raise ValueError(f"line {number} of {name} has something that is no number: {error}") from error
        if len({len(channel) for channel in values}) != 1:
            lengths = [len(channel) for channel in values]
            raise ValueError(f"the channels of a series have one length, but line {number} of {name} has {lengths}.")
        series.append(np.array(values).T.tolist())
        labels.append(label.strip())
    if not series:
        raise ValueError(f"{name} has no rows: a split needs at least one.")
    label_type = "float64" if "targetlabel" in header else "string"
    if label_type == "float64":
        labels = [_number(label) for label in labels]
    features: dict[str, Any] = {VALUES: datasets.List(datasets.List(datasets.Value("float64")))}
    features["label"] = datasets.Value(label_type)
    return Source(datasets.Dataset.from_dict({VALUES: series, "label": labels}, datasets.Features(features)), name)


def _number(text: str) -> float:
    text = text.strip()
    if text in ("?", "NaN", "nan", ""):
        return float("nan")
    if not re.fullmatch(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?", text):
        raise ValueError(repr(text[:40]))
    return float(text)
