"""`FPTTableProcessor`: rows of a table as they come -> the `input_values` that a model was trained on.

This file and the one that it imports need no other of this library: they can be copied into a Hub repository and
loaded from there.
"""

from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import numpy as np
from transformers import BatchFeature
from transformers.feature_extraction_utils import FeatureExtractionMixin

from .table_cells import (
    DATE_FORMATS,
    ISO,
    MOST,
    PARTS,
    cells_of,
    columns_of,
    dates_of,
    kind_of,
    missing_cells,
    numbers_of,
    parts_of,
    texts_of,
)

# What the base class and transformers add to preprocessor_config.json.
HUB_KEYS = {"auto_map", "feature_extractor_type", "processor_class"}
NO_FIELDS = "preprocessor_config.json of {} holds no fields by name, or is nested too deeply: fetch or save it again."
KEYS = {  # of each column that is a token, by its kind
    "number": {"name", "kind", "mean", "std", "missing"},
    "date": {"name", "kind", "part", "mean", "std", "missing"},
    "category": {"name", "kind", "categories", "other", "missing"},
}
MOST_COLUMNS, MOST_CATEGORIES = 2**12, 254  # with those for other and for missing values: 256, which bf16 counts to
SHOWN = 6  # names in a line
NAME_ROW = "row {}".format


class FPTTableProcessor(FeatureExtractionMixin):
    """Rows of a table -> `input_values` (batch, columns, 2): of each column an id and a factor, both float32.

    For a model's `input_type="table"`; `fit` makes it from training rows. A column of numbers has id 0 and, as its
    factor, the number, standardised; a category has its own id and the factor 1; what is missing has the last id of
    its column. A category that the training rows lack has the id of the rare ones, and a factor of 0 where there is
    none, as has a missing value where none was missing in training: nothing is known.

    `columns`: each a dict of "name", "kind" and "missing" (whether values were missing); a "number" and the "part" of
    a "date" have "mean" and "std", a "category" has "categories" and "other" (whether rare ones share an id).
    `dropped`: columns that were left out, and why. Raises ValueError for other columns, TypeError for a name that is
    no field.
    """

    model_input_names = ["input_values"]

    def __init__(self, columns: Sequence[Mapping[str, Any]], dropped: Mapping[str, str] | None = None, **kwargs):
        for name in kwargs:
            if name not in HUB_KEYS and not (name.startswith("_") and not name.startswith("__")):
                raise TypeError(f"FPTTableProcessor has no field {name!r:.200}; its fields are columns, dropped.")
        kwargs.pop("feature_extractor_type", None)
        super().__init__(**kwargs)
        if not isinstance(columns, (list, tuple)) or not 0 < len(columns) <= MOST_COLUMNS:
            raise ValueError(f"columns is a list of 1 to {MOST_COLUMNS} columns, got {columns!r:.200}.")
        self.columns = [_checked(column) for column in columns]
        if not isinstance(dropped or {}, Mapping) or not all(
            isinstance(text, str) for text in (dropped or {}).values()
        ):
            raise ValueError(f"dropped is a dict of columns and why each was left out, got {dropped!r:.200}.")
        self.dropped = dict(dropped or {})

    @classmethod
    def fit(
        cls,
        rows: Any,
        categorical: Collection[str] = (),
        numeric: Collection[str] = (),
        where: Callable[[int], str] = NAME_ROW,
        date_format: str | None = None,
    ) -> "FPTTableProcessor":
        """Make the processor of these rows: find each column's kind, its categories, and the scale of its numbers.

        `rows`: a DataFrame, a dict of columns, records, or an array (rows, columns), whose columns are called x0, x1.
        Numbers are numbers; text with few values, and truth values, are categories; dates give the parts of them that
        vary. What is the same in every row is dropped, and so are ids: text that is another one in most rows.
        `categorical`, `numeric`: names of columns that are to be so. `where` names a row in messages. `date_format`:
        how texts are written as dates, as `strptime` has it (None: ISO, or the one of `DATE_FORMATS` that all fit).

        Raises ValueError, naming row and column, for text among numbers, for infinity, for dates that read in two
        ways, and for what is none of these.
        """
        table = {name: cells_of(values, name, where) for name, values in columns_of(rows, where).items()}
        for names in (categorical, numeric):
            if unknown := set(names) - set(table):
                raise ValueError(
                    f"the table has no column {min(unknown)!r} but {_few(list(table))}: name one of these."
                )
        if both := set(categorical) & set(numeric):
            raise ValueError(f"a column is either categorical or numeric; {min(both)!r} is said to be both.")
        formats = DATE_FORMATS if date_format is None else (date_format,)
        columns, dropped = [], {}
        for name, values in table.items():
            said = "category" if name in categorical else "number" if name in numeric else None
            found, reason = _fitted(values, name, said, where, formats)
            columns += found
            if not found:
                dropped[name] = reason
        if not columns:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in list(dropped.items())[:SHOWN])
            raise ValueError(f"no column is left to learn from ({reasons}): name some as categorical or numeric.")
        return cls(columns, dropped)

    @classmethod
    def get_feature_extractor_dict(cls, pretrained_model_name_or_path: Any, **kwargs) -> tuple[dict, dict]:
        """As for every extractor. Raises ValueError for a file that holds no fields by name, or too deep ones."""
        try:
            fields, unused = super().get_feature_extractor_dict(pretrained_model_name_or_path, **kwargs)
        except (AttributeError, RecursionError, TypeError) as error:  # transformers' own, of what it read
            raise ValueError(NO_FIELDS.format(pretrained_model_name_or_path)) from error
        if not isinstance(fields, dict):
            raise ValueError(NO_FIELDS.format(pretrained_model_name_or_path))
        return fields, unused

    @property
    def column_names(self) -> list[str]:
        """The columns that rows must have."""
        return list(dict.fromkeys(column["name"] for column in self.columns))

    @property
    def config_fields(self) -> dict[str, Any]:
        """The fields of `FPTConfig` for a model of these inputs."""
        return {"input_type": "table", "column_sizes": [_size(column) for column in self.columns]}

    def describe(self) -> list[str]:
        """What the columns are, in lines."""
        lines = [f"{len(self.columns)} tokens of {len(self.column_names)} columns"]
        by_kind = {kind: [column for column in self.columns if column["kind"] == kind] for kind in KEYS}
        if by_kind["number"]:
            lines.append(f"numbers: {_few([column['name'] for column in by_kind['number']])}")
        if by_kind["category"]:
            words = [f"{c['name']} ({len(c['categories'])}{' and others' * c['other']})" for c in by_kind["category"]]
            lines.append(f"categories: {_few(words)}")
        if by_kind["date"]:
            lines.append(f"dates: {_few([column['name'] + ' ' + column['part'] for column in by_kind['date']])}")
        if missing := [column["name"] for column in self.columns if column["missing"]]:
            lines.append(f"with missing values: {_few(list(dict.fromkeys(missing)))}")
        lines += [f"dropped: {name} ({reason})" for name, reason in self.dropped.items()]
        return lines

    def __call__(
        self, rows: Any, return_tensors: str | None = None, where: Callable[[int], str] = NAME_ROW
    ) -> BatchFeature:
        """Rows, as `fit` takes them, or one record -> `input_values`, float32 (rows, columns, 2).

        None, NaN and empty text are missing. Columns that the training rows did not have are not read.
        `return_tensors`: "pt" or "np" (also None: numpy). `where` names a row in messages. Raises ValueError, naming
        row and column, for a column that is not there, for text among numbers, and for infinity.
        """
        table, names = columns_of(rows, where), self.column_names
        if lacking := [name for name in names if name not in table]:
            raise ValueError(
                f"rows need the columns of the training rows, but {where(0)} has no {_few(lacking)}: it has "
                f"{_few(list(table))}. Add the column, with None where a value is missing."
            )
        arrays = {name: cells_of(table[name], name, where) for name in names}
        values = np.zeros((len(next(iter(arrays.values()))), len(self.columns), 2), dtype=np.float32)
        dated = {column["name"]: column.get("format", ISO) for column in self.columns if column["kind"] == "date"}
        parts = {name: parts_of(dates_of(arrays[name], name, where, form)) for name, form in dated.items()}
        for number, column in enumerate(self.columns):
            values[:, number] = _encoded(column, arrays[column["name"]], parts.get(column["name"]), where)
        return BatchFeature({"input_values": values}, tensor_type=return_tensors)


# One column


def _fitted(
    values: np.ndarray, name: str, said: str | None, where: Callable[[int], str], formats: Sequence[str]
) -> tuple[list[dict[str, Any]], str]:
    """The tokens of a column, and why it has none. Raises ValueError."""
    missing = missing_cells(values)
    if missing.all():
        return [], "every value is missing"
    kind, form = (said, None) if said else kind_of(values, missing, name, where, formats)
    shared = {"name": name, "kind": kind, "missing": bool(missing.any())}
    if kind == "category":
        counts = Counter(text for text in texts_of(values, missing) if text is not None)
        if len(counts) == 1 and not missing.any():
            return [], f"always {next(iter(counts)):.40}"
        categories = sorted(text for text, _ in counts.most_common(MOST_CATEGORIES))
        return [shared | {"categories": categories, "other": len(counts) > len(categories)}], ""
    if kind == "id":
        return [], "another text in most rows: an id, or free text"
    if kind == "number":
        parts = {None: numbers_of(values, missing, name, where)}
    else:
        parts = parts_of(dates_of(values, name, where, form))
        shared |= {} if form == ISO else {"format": form}
    tokens = []
    for part, numbers in parts.items():
        mean, std = float(np.nanmean(numbers)), float(np.nanstd(numbers))
        scale = {"mean": mean, "std": std if std > abs(mean) * 1e-12 else 1.0}
        tokens.append((std == scale["std"], shared | scale | ({} if part is None else {"part": part})))
    varying = [token for varies, token in tokens if varies]
    if missing.any() and not varying:  # what is there, or not, tells something too
        varying = [tokens[0][1]]
    return varying, f"always {texts_of(values, missing)[0]!s:.40}"


def _encoded(
    column: Mapping[str, Any], values: np.ndarray, parts: dict[str, np.ndarray] | None, where: Callable[[int], str]
) -> np.ndarray:
    """Ids and factors of a column, which has `parts` where it has dates: float64 (rows, 2). Raises ValueError."""
    name, missing = column["name"], missing_cells(values)
    encoded = np.zeros((len(values), 2))
    if column["kind"] == "category":
        ids = {text: number for number, text in enumerate(column["categories"])}
        rest = len(ids) if column["other"] else -1
        found = [ids.get(text, rest) for text in texts_of(values, missing)]
        encoded[:, 0], encoded[:, 1] = np.maximum(found, 0), np.greater_equal(found, 0)
    else:
        numbers = numbers_of(values, missing, name, where) if parts is None else parts[column["part"]]
        with np.errstate(over="ignore"):
            encoded[:, 1] = (numbers - column["mean"]) / column["std"]
        if (far := np.abs(encoded[:, 1]) > MOST).any():
            row = int(far.argmax())
            raise ValueError(
                f"a number fits into float32 once it is standardised, but {where(row)} has {values[row]} in column "
                f"{name!r}, beside a mean of {column['mean']:.4g} and a deviation of {column['std']:.4g}: mend it."
            )
    encoded[missing] = (_size(column) - 1, 1) if column["missing"] else (0, 0)
    return encoded


def _size(column: Mapping[str, Any]) -> int:
    """How many ids a column has."""
    own = len(column["categories"]) + column["other"] if column["kind"] == "category" else 1
    return own + column["missing"]


def _checked(column: Any) -> dict[str, Any]:
    """A column as it was saved. Raises ValueError for what `fit` never makes."""
    if isinstance(column, Mapping) and set(column) - {"format"} == KEYS.get(str(column.get("kind"))):
        texts, scale = column.get("categories", [""]), (column.get("mean", 0.0), column.get("std", 1.0))
        if (
            isinstance(texts, list)
            and all(isinstance(text, str) for text in [column["name"], column.get("format", ISO), *texts])
            and 0 < len(set(texts)) == len(texts) <= MOST_CATEGORIES
            and all(type(number) in (int, float) and abs(number) < MOST for number in scale)
            and scale[1] > 0
            and column.get("part", "year") in PARTS
            and all(type(column.get(flag, True)) is bool for flag in ("missing", "other"))
        ):
            return dict(column)
    raise ValueError(
        "a column has a name, kind and missing, with mean and std above 0 (and the part of a date), or with other and "
        f"at most {MOST_CATEGORIES} categories, as fit makes it; got {column!r:.200}."
    )


def _few(names: Sequence[str]) -> str:
    return ", ".join(names[:SHOWN]) + (f" and {len(names) - SHOWN} more" if len(names) > SHOWN else "")
