"""Where rows come from: a file, or a split of a data set on the Hub."""

from dataclasses import dataclass
from pathlib import Path

import datasets
from datasets.exceptions import DatasetsError

READERS = {
    ".parquet": "parquet",
    ".csv": "csv",
    ".json": "json",
    ".jsonl": "json",
}  # file ending -> `datasets` builder


@dataclass(frozen=True)
class Source:
    """One file or Hub split: its rows, held or streamed, and its name in messages."""

    data: datasets.Dataset | datasets.IterableDataset
    name: str

    def where(self, row: int) -> str:
        """The name of a row (from 0) in messages."""
        return f"row {row} of {self.name}"


def read_file(path: str, split: str) -> Source:
    """Read the rows of a split from a file. Raises ValueError if it cannot be read or has no rows."""
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
    if builder.info.splits["rows"].num_examples == 0:  # `as_dataset` cannot return no rows
        raise ValueError(f"{source_name} has no rows: a split needs at least one.")
    return Source(builder.as_dataset(split="rows"), source_name)


def first_line(error: BaseException) -> str:
    """The first line of an error's message; without one, the name of its class."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
