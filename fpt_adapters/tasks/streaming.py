"""Labelled rows whose training split is streamed, never held: from a file, a pattern of files, or the Hub.

Validation and test are held as always. A missing part is taken from the first rows of the training stream, which then
begins after them: drawing rows from a stream at random would mean reading all of it.
"""

import glob
import itertools
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import datasets
import numpy as np
from datasets.exceptions import DatasetsError

from ..data.columns import find_column, is_class_label
from ..data.labels import LabelNames
from ..data.sources import READERS, Source, first_line, read_file
from ..data.splits import Part, keep_some, split_sizes
from ..data.streams import NOTHING, HeldOut, shard_rows
from .files import LABEL_COLUMNS, SPLIT_NAMES, FileArguments

logger = logging.getLogger(__name__)

EVALUATED = ("validation", "test")
HELD_OUT_EXAMPLES = 1000  # for each missing part, unless validation_examples is set
HELD_OUT_SHARDS = 10  # the most shards that they are taken from
LOOKED_AT = 100  # rows read to find the columns of files without a schema


@dataclass(frozen=True)
class StreamedParts:
    """The training stream and the parts that are held; like the result of `FileArguments.read_parts`, for a stream."""

    train: Source
    held_out: HeldOut
    parts: dict[str, Part]  # validation and test
    label_column: str
    names: LabelNames


def open_stream(
    files: FileArguments,
    seed: int,
    max_samples: dict[str, int] | None,
    num_labels: int | None,
    label_names: Sequence[str] | None,
) -> StreamedParts:
    """Open the training rows of `files` as a stream, and read validation and test.

    For the arguments see `FileArguments.read_parts` and `LabelNames.of_stream`. Raises ValueError for files, columns
    and labels that do not fit, and for what would need all rows: `min_label_examples` and `max_samples["train"]`.
    """
    _refuse_counts(files, max_samples)
    train, evaluated = _open_hub(files, max_samples) if files.train_file is None else _open_files(files)
    held_out = NOTHING
    if missing := [split for split in reversed(EVALUATED) if split not in evaluated]:
        count = files.validation_examples or HELD_OUT_EXAMPLES
        held, held_out = _hold_out(train, missing, count)
        evaluated |= held
    column = find_column(train, files.label_column, LABEL_COLUMNS, is_class_label, "label_column")
    names = LabelNames.of_stream(train.data.features[column], column, train.name, num_labels, label_names)
    sizes = split_sizes({split: len(source.data) for split, source in evaluated.items()}, max_samples)
    parts = {}
    for split, source in evaluated.items():
        find_column(source, column, (), is_class_label, "label_column")
        labels = names.read(source, column)
        rows = keep_some(np.arange(len(labels)), sizes[split], seed, split)
        parts[split] = Part(source, rows, labels[rows])
    return StreamedParts(train, held_out, parts, column, names)


def _refuse_counts(files: FileArguments, max_samples: dict[str, int] | None) -> None:
    if "train" in (max_samples or {}):
        raise ValueError(
            "a stream is not cut to a number of examples: write --max_steps instead of --max_train_samples."
        )
    if files.min_label_examples > 1:
        raise ValueError("a stream's classes cannot be counted before it is read: leave --min_label_examples out.")
    if files.train_file is None and (files.validation_file or files.test_file):
        raise ValueError("write --train_file too, with the rows to train on: the other files came without it.")


def _open_files(files: FileArguments) -> tuple[Source, dict[str, Source]]:
    paths = {"validation": files.validation_file, "test": files.test_file}
    train = _prepared(_open_pattern(files.train_file))
    return train, {split: read_file(path, split) for split, path in paths.items() if path is not None}


def _open_pattern(pattern: str) -> Source:
    """Open one file, or all files that match a pattern such as `rows-*.parquet`, sorted by name."""
    paths = [pattern] if Path(pattern).is_file() else sorted(glob.glob(pattern, recursive=True))
    if not paths:
        raise ValueError(f"train_file is a file or a pattern of files, but {pattern!r} is not there.")
    endings = {Path(path).suffix.lower() for path in paths}
    if len(endings) > 1 or not endings <= READERS.keys():
        raise ValueError(
            f"train_file ends in one of {', '.join(READERS)}, the same for all; got {', '.join(endings)}."
        )
    if empty := [path for path in paths if Path(path).stat().st_size == 0]:
        raise ValueError(f"train_file {empty[0]!r} is an empty file: a stream needs some rows.")
    reader = READERS[endings.pop()]
    try:
        data = datasets.load_dataset(reader, data_files={"rows": paths}, split="rows", streaming=True)
    except (OSError, ValueError, DatasetsError) as error:
        raise ValueError(f"train_file {pattern!r} cannot be read as {reader}: {first_line(error)}") from error
    return Source(data, f"the train split ({pattern})")


def _open_hub(files: FileArguments, max_samples: dict[str, int] | None) -> tuple[Source, dict[str, Source]]:
    """Open the training split on the Hub as a stream, and read the wanted rows of the others."""
    name = files.dataset_name
    if name is None:
        raise ValueError("no data was named: write --train_file (parquet, csv, json) or --dataset_name (Hub id).")
    try:
        found = datasets.load_dataset(name, files.dataset_config_name, revision=files.dataset_revision, streaming=True)
    except (OSError, ValueError, RuntimeError, DatasetsError) as error:
        place = "the folder" if files.hub_dataset is None else "the Hub"
        raise ValueError(
            f"data set {name!r} could not be opened from {place} ({first_line(error)}): "
            "write --train_file and --test_file to read files of this machine."
        ) from error
    if "train" not in found:
        raise ValueError(f"a split called train is needed, but {name!r} has {', '.join(found)}: read files instead.")
    evaluated = {}
    for split in EVALUATED:
        for alias in [alias for alias in SPLIT_NAMES[split] if alias in found][:1]:
            source = _prepared(Source(found[alias], f"the {alias} split ({name})"))
            evaluated[split] = _held(source, itertools.islice(source.data, (max_samples or {}).get(split)))
    return _prepared(Source(found["train"], f"the train split ({name})")), evaluated


def _prepared(source: Source) -> Source:
    """Find the columns of files without a schema from their first rows, and leave images encoded."""
    data = source.data
    if data.features is None:
        first = list(data.take(LOOKED_AT))
        if not first:
            raise ValueError(f"{source.name} has no rows: a stream needs some.")
        data = data.cast(datasets.Dataset.from_list(first).features)
    for column in [name for name, feature in data.features.items() if isinstance(feature, datasets.Image)]:
        data = data.cast_column(column, datasets.Image(decode=False))
    return Source(data, source.name)


def _hold_out(train: Source, missing: Sequence[str], count: int) -> tuple[dict[str, Source], HeldOut]:
    """Take `count` rows for each of the `missing` parts from the start of the first shards."""
    shards = min(train.data.num_shards, HELD_OUT_SHARDS)
    rows = -(-count // shards)
    held_out = HeldOut(shards, rows * len(missing))
    read = [list(itertools.islice(shard_rows(train.data, shard, 0), held_out.rows)) for shard in range(shards)]
    if (fewest := min(map(len, read))) < held_out.rows:
        raise ValueError(
            f"{held_out.rows} rows of each of {shards} shards would be held out for {' and '.join(missing)}, but one "
            f"of {train.name} has {fewest}: write --{missing[-1]}_file, or a smaller --validation_examples."
        )
    sources = {}
    for number, split in enumerate(missing):
        mine = [row for shard in read for row in shard[number * rows : (number + 1) * rows]][:count]
        sources[split] = _held(Source(train.data, f"the {split} rows held out of {train.name}"), mine)
        note = "there is no test data: the test figure is on" if split == "test" else "validation is"
        log = logger.warning if split == "test" else logger.info
        log("%s the first %d rows of %d shards of %s.", note, count, shards, train.name)
    return sources, held_out


def _held(source: Source, rows: Sequence) -> Source:
    return Source(datasets.Dataset.from_list(list(rows), features=source.data.features), source.name)
