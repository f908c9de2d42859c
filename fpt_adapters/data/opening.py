"""Rows that are answered: opened without holding them, from a file, or from a folder or zip of pictures or sounds."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
from datasets.exceptions import DatasetsError

from .series import read_ts
from .sources import READERS, check_header, files_in, first_line

PICTURES = (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff")
SOUNDS = (".wav", ".flac", ".ogg")
ENDINGS = {"image": PICTURES, "audio": SOUNDS}  # of files that are a row each, by what a model reads
FILE = "file"  # the column of their paths


def open_rows(path: str, modality: str | None = None) -> tuple[datasets.IterableDataset, int | None, Path]:
    """Open rows; returns them, how many there are where that is known, and the folder to which paths are relative.

    `modality`: of an "image" or "audio" model, for which a folder, a zip or one such file is rows of paths: column
    "file". Raises ValueError for what is not there, is empty, or cannot be read.
    """
    ending, one_by_one = Path(path).suffix.lower(), ENDINGS.get(modality, ())
    if not Path(path).exists():
        raise ValueError(f"rows come from a file, but {path!r} is not there.")
    if one_by_one and (Path(path).is_dir() or ending == ".zip"):
        folder, files = files_in(path, one_by_one)
        names = [file.relative_to(folder).as_posix() for file in files]
        return _held({FILE: names}), len(files), folder
    if ending in one_by_one:
        return _held({FILE: [Path(path).name]}), 1, Path(path).parent
    if Path(path).is_dir() or ending not in (*READERS, ".ts"):
        more = f", or from a folder or a zip with {', '.join(one_by_one)}" if one_by_one else ""
        what = "is a folder" if Path(path).is_dir() else f"ends in {ending!r}"
        raise ValueError(
            f"this model reads rows of a file that ends in {', '.join(READERS)} or .ts{more}, but {path!r} {what}."
        )
    if ending == ".ts":
        data = read_ts(path, path, needs_label=False).data
        return data.to_iterable_dataset(), len(data), Path(path).parent
    check_header(path, ending)
    try:
        total = pq.read_metadata(path).num_rows if ending == ".parquet" else None
        rows = datasets.load_dataset(READERS[ending], data_files={"rows": path}, split="rows", streaming=True)
    except (OSError, ValueError, DatasetsError, pa.ArrowException) as error:
        raise ValueError(f"{path!r} cannot be read as {READERS[ending]}: {first_line(error)}") from error
    return rows, total, Path(path).parent


def batches_of(rows: datasets.IterableDataset, size: int, path: str) -> Iterator[dict[str, list[Any]]]:
    """Some rows of the file at a time, by column. Raises ValueError, naming the file, where it cannot be read on."""
    try:
        yield from rows.batch(size)
    except (OSError, ValueError, DatasetsError) as error:
        raise ValueError(f"{path!r} cannot be read: {first_line(error)}") from error


def _held(columns: dict[str, list[str]]) -> datasets.IterableDataset:
    return datasets.Dataset.from_dict(columns).to_iterable_dataset()
