"""Where rows come from: a file, or a split of a data set on the Hub."""

import csv
import zipfile
from collections.abc import Sequence
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
    folder: str = "."  # of the file, to which paths in it may be relative
    row_names: Sequence[str] | None = None  # in messages, of rows that are no rows of a file

    def where(self, row: int) -> str:
        """The name of a row (from 0) in messages."""
        return f"{f'row {row}' if self.row_names is None else self.row_names[row]} of {self.name}"


def read_file(path: str, split: str) -> Source:
    """Read the rows of a split from a file. Raises ValueError if it cannot be read or has no rows."""
    flag, ending = f"{split}_file", Path(path).suffix.lower()
    if not Path(path).exists():
        raise ValueError(f"{flag} {path!r} is not there: write --{flag} with the path of your rows.")
    if Path(path).is_dir():
        raise ValueError(f"{flag} is a file here, but {path!r} is a folder: write --{flag} with the path of a file.")
    if ending not in READERS:
        raise ValueError(f"{flag} ends in one of {', '.join(READERS)}, got {path!r}: convert it, or rename it.")
    source_name = f"the {split} split ({path})"
    if Path(path).stat().st_size == 0:
        raise ValueError(f"{source_name} is an empty file: a split needs at least one row.")
    check_header(path, ending)
    try:
        builder = datasets.load_dataset_builder(READERS[ending], data_files={"rows": path})
        builder.download_and_prepare()
    except (OSError, ValueError, DatasetsError) as error:
        cause = error.__cause__ if error.__cause__ is not None else error
        raise ValueError(f"{flag} {path!r} cannot be read as {READERS[ending]}: {first_line(cause)}") from error
    if builder.info.splits["rows"].num_examples == 0:  # which `as_dataset` cannot return
        raise ValueError(f"{source_name} has no rows: a split needs at least one.")
    return Source(builder.as_dataset(split="rows"), source_name, str(Path(path).parent))


def read_folder(path: str, split: str, column: str, endings: tuple[str, ...]) -> Source:
    """Read a folder of class folders, or a zip of one: the paths of its files as `column`, and their class as "label".

    Raises ValueError for a folder without such files, for a file outside the class folders, and for one class only.
    """
    name = f"the {split} split ({path})"
    top, files = files_in(path, endings)
    folder = top
    while len({file.relative_to(folder).parts[0] for file in files}) == 1 and files[0].parent != folder:
        folder /= files[0].relative_to(folder).parts[0]  # a zip often holds one folder with all else
    if folder != top and files[0].parent == folder:
        raise ValueError(
            f"each file lies in the folder of its class, but {name} has the folder of one class only, "
            f"{folder.name!r}: add those of others."
        )
    if loose := [file for file in files if file.parent == folder]:
        raise ValueError(
            f"each file lies in the folder of its class, but {loose[0].name!r} lies outside one in {name}: move it, "
            f"or write a csv file with the columns {column} (paths) and label."
        )
    classes = [file.relative_to(folder).parts[0] for file in files]
    if {"train", "test"} <= set(classes):
        raise ValueError(
            f"{name} holds the folders {', '.join(sorted(set(classes)))}: write --train_file {path}/train and "
            f"--test_file {path}/test."
        )
    names = sorted(set(classes))
    features = datasets.Features({column: datasets.Value("string"), "label": datasets.ClassLabel(names=names)})
    rows = {column: [str(file) for file in files], "label": [names.index(one) for one in classes]}
    row_names = [file.relative_to(folder).as_posix() for file in files]
    return Source(datasets.Dataset.from_dict(rows, features=features), name, row_names=row_names)


def files_in(path: str, endings: tuple[str, ...]) -> tuple[Path, list[Path]]:
    """The folder at `path`, where a zip is unpacked, and its files, at any depth, in order.

    Raises ValueError for a folder without any such file, and for a file that is no zip.
    """
    folder = Path(path)
    if not folder.is_dir():
        try:
            folder = Path(datasets.DownloadManager().extract(path))
        except (OSError, zipfile.BadZipFile) as error:
            raise ValueError(f"{path!r} cannot be read as a zip file: {first_line(error)}") from error
    files = sorted(file for file in folder.rglob("*") if file.suffix.lower() in endings and file.is_file())
    hidden = (".", "__MACOSX")  # what systems put into folders and zips
    files = [file for file in files if not any(part.startswith(hidden) for part in file.relative_to(folder).parts)]
    if not files:
        raise ValueError(f"{path!r} has no file that ends in {', '.join(endings)}.")
    return folder, files


def check_header(path: str, ending: str) -> None:
    """Raise ValueError for a csv file with two columns of one name, or with another sign than a comma between them."""
    if ending != ".csv":
        return
    with open(path, newline="", encoding="utf-8-sig", errors="replace") as file:
        names = next(csv.reader(file), [])
    if twice := next((name for place, name in enumerate(names) if name and name in names[:place]), None):
        raise ValueError(
            f"columns have different names, but {path!r} has two called {twice!r}: rename one, or drop it."
        )
    if len(names) == 1 and (sign := next((sign for sign in ";\t|" if sign in names[0]), None)):
        raise ValueError(
            f"commas part the columns of a csv file, but {path!r} has {sign!r} between them: write it anew."
        )


def first_line(error: BaseException) -> str:
    """The first line of an error's message; without one, the name of its class."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__
