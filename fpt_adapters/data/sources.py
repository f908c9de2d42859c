"""Where rows come from: a file, or a split of a data set on the Hub."""

from dataclasses import dataclass
from pathlib import Path

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.exceptions import DatasetsError

READERS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "json",
}  # file ending -> `datasets` builder


@dataclass(frozen=True)
class Source:
    """One file or Hub split: its rows, held or streamed, and what messages call it."""

    data: datasets.Dataset | datasets.IterableDataset
    name: str

    def where(self, row: int) -> str:
        """Name a row (from 0) in a message."""
        return f"row {row} of {self.name}"


def read_file(path: str, split: str) -> Source:
    """Read the rows of a split from a file. Raises ValueError for one that cannot be read, or has none."""
    flag, ending = f"{split}_file", Path(path).suffix.lower()
    if not Path(path).is_file():
        raise ValueError(f"{flag} is a file, but {path!r} is not there: write --{flag} with its path.")
    if ending not in READERS:
        raise ValueError(f"{flag} ends in one of {', '.join(READERS)}, got {path!r}: convert it, or rename it.")
    source_name = f"the {split} split ({path})"
    if Path(path).stat().st_size == 0:
        raise ValueError(f"{source_name} is an empty file: a split needs at least one row.")
    try:
        builder = datasets.load_dataset_builder(READERS[ending], data_files={"rows": path})
        builder.download_and_prepare()
    except (OSError, ValueError, DatasetsError) as error:
        cause = error.__cause__ if error.__cause__ is not None else error
        raise ValueError(f"{flag} {path!r} cannot be read as {READERS[ending]}: {first_line(cause)}") from error
    if builder.info.splits["rows"].num_examples == 0:  # which `as_dataset` cannot return
        raise ValueError(f"{source_name} has no rows: a split needs at least one.")
    return Source(builder.as_dataset(split="rows"), source_name)


def open_rows(path: str) -> tuple[datasets.IterableDataset, int | None]:
    """Open a file's rows without holding them; returns them, and how many there are where the file says so.

    Raises ValueError for a file that is not there, is empty, or cannot be read.
    """
    ending = Path(path).suffix.lower()
    if not Path(path).is_file() or ending not in READERS:
        there = "is not there" if not Path(path).is_file() else f"ends in {ending!r}"
        raise ValueError(f"rows come from a file that ends in one of {', '.join(READERS)}, but {path!r} {there}.")
    try:
        total = pq.read_metadata(path).num_rows if ending == ".parquet" else None
        rows = datasets.load_dataset(READERS[ending], data_files={"rows": path}, split="rows", streaming=True)
    except (OSError, ValueError, DatasetsError, pa.ArrowException) as error:
        raise ValueError(f"{path!r} cannot be read as {READERS[ending]}: {first_line(error)}") from error
    return rows, total


def first_line(error: BaseException) -> str:
    """The first line of an error's message, or its kind."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
