"""`fpt-adapters predict`: a file of rows -> a file of answers, read and written a batch at a time."""

import csv
import datetime
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from tqdm.auto import tqdm
from transformers import HfArgumentParser

from ..data.opening import batches_of, open_rows
from ..data.series import VALUES, series_of
from ..data.sources import first_line, read_file
from ..inference.forecasts import FPTForecastPipeline
from ..inference.pipeline import BATCH_SIZE, FPTPipeline, pipeline

ENDINGS = (".csv", ".jsonl", ".parquet")
PREFIX = "predicted_"


@dataclass
class PredictArguments:
    """Which delta answers which rows, and where the answers go."""

    model: str = field(metadata={"help": "A saved delta: a folder or a Hub id."})
    file: str = field(
        metadata={"help": "Rows: a parquet, csv, json, jsonl or .ts file; or a folder or a zip of pictures or sounds."}
    )
    output: str = field(metadata={"help": f"The file of the answers, a new one, which ends in {', '.join(ENDINGS)}."})
    base_model_name_or_path: str | None = field(default=None, metadata={"help": "Where the delta's base is."})
    input_column: str | None = field(
        default=None,
        metadata={"help": "Column with the inputs (default: found by its name, or as the only one that fits)."},
    )
    id_column: str | None = field(
        default=None, metadata={"help": "For rows that are steps of series: the column that says whose."}
    )
    step_column: str | None = field(default=None, metadata={"help": "For rows that are steps: their time."})
    batch_size: int = field(default=BATCH_SIZE, metadata={"help": "Rows that are answered at once."})
    revision: str | None = field(default=None, metadata={"help": "Branch, tag or commit of the delta."})
    cache_dir: str | None = field(default=None, metadata={"help": "The Hub's cache folder."})
    dtype: str | None = field(default=None, metadata={"help": "dtype of the frozen weights; default: as in training."})
    device: str | None = field(default=None, metadata={"help": "Where it runs, such as cuda:0; default: the CPU."})

    def __post_init__(self):
        if Path(self.output).suffix.lower() not in ENDINGS:
            raise ValueError(f"--output ends in one of {', '.join(ENDINGS)}; got {self.output!r}.")
        if os.path.exists(self.output):
            raise ValueError(f"--output {self.output!r} is there already: name a new file, nothing is overwritten.")
        if not os.path.exists(self.file):
            raise ValueError(f"--file {self.file!r} is not there: write the path of your rows.")
        if self.batch_size < 1:
            raise ValueError(f"--batch_size is at least 1; got {self.batch_size}.")
        if self.step_column and not self.id_column:
            raise ValueError("--step_column orders the steps of a series, which --id_column tells: write it too.")


def main(arguments: list[str]) -> int:
    """Answer the rows of a file. Returns how many there were. Raises ValueError, naming row and column."""
    parser = HfArgumentParser(PredictArguments, description=__doc__.splitlines()[0], allow_abbrev=False)
    (args,) = parser.parse_args_into_dataclasses(arguments)
    answering = pipeline(
        args.model,
        base_model_name_or_path=args.base_model_name_or_path,
        input_column=VALUES if args.id_column else args.input_column,
        device=args.device,
        revision=args.revision,
        cache_dir=args.cache_dir,
        dtype=args.dtype,
    )
    if isinstance(answering, FPTForecastPipeline):
        return forecast(answering, args)
    rows, total, answering.folder = open_rows(args.file, answering.model.config.input.modality)
    batches, unit = batches_of(rows, args.batch_size, args.file), "row"
    if args.id_column:
        channels = [name.strip() for name in args.input_column.split(",")] if args.input_column else None
        steps = (
            dict(zip(batch, step, strict=True)) for batch in batches for step in zip(*batch.values(), strict=True)
        )
        one_by_one = series_of(steps, args.file, args.id_column, args.step_column, channels)
        batches, total, unit = batched(one_by_one, args.batch_size, (args.id_column, VALUES)), None, "series"
    part = Path(f"{args.output}.part")  # which a stop leaves behind, and no half file by the right name
    done = 0
    with (
        tqdm(total=total, desc=unit, unit=f" {unit}") as bar,
        Writer(part, Path(args.output).suffix.lower()) as writer,
    ):
        try:
            for batch in answered(answering, batches, args.file, unit):
                writer.write(batch)
                count = len(next(iter(batch.values())))
                done += count
                bar.update(count)
        except ValueError as error:
            if not done:
                part.unlink(missing_ok=True)
            kept = f" The answers of the {done} rows before are in {part}." if done else ""
            raise ValueError(f"{error}{kept}") from error
    os.replace(part, args.output)
    print(f"{done} rows answered: {args.output}")
    return done


def forecast(answering: FPTForecastPipeline, args: PredictArguments) -> int:
    """Forecast the series of a file, which is read whole. Returns how many rows the forecasts have."""
    if args.id_column or args.step_column:
        raise ValueError("the processor of forecasts knows its columns: leave --id_column and --step_column out.")
    source = read_file(args.file, "forecast")
    table = answering(source.data, args.batch_size, lambda row: f"row {row} of {args.file}")
    part = Path(f"{args.output}.part")
    with Writer(part, Path(args.output).suffix.lower()) as writer:
        writer.write(table.to_dict("list"))
    os.replace(part, args.output)
    print(f"{len(table)} rows of forecasts: {args.output}")
    return len(table)


def answered(
    answering: FPTPipeline, batches: Iterable[dict[str, list[Any]]], file: str, unit: str
) -> Iterator[dict[str, list[Any]]]:
    """Answer batches: their numbers, texts and dates, as they came, and the answers beside them.

    `unit`: what one of their rows is called.
    """
    start, kept = 0, None
    for batch in batches:
        answering = answering if start else answering.knowing_column(batch)
        count = len(next(iter(batch.values())))
        try:
            answers = answering.answer(batch, start)
        except ValueError as error:
            row = _first_wrong(answering, batch, count)
            where = f"{unit} {start} to {start + count - 1}" if row is None else f"{unit} {start + row}"
            raise ValueError(f"{where} of {file}: {error}") from error
        if kept is None:
            kept = [name for name, values in batch.items() if all(_is_cell(value) for value in values)]
        yield {name: batch.get(name, [None] * count) for name in kept} | {
            PREFIX + name: values for name, values in answers.items()
        }
        start += count
    if not start:
        raise ValueError(f"{file} has no rows: nothing is to be answered.")


def batched(rows: Iterator[tuple], size: int, names: Sequence[str]) -> Iterator[dict[str, list[Any]]]:
    """Some tuples at a time, as columns of these names."""
    while batch := list(islice(rows, size)):
        yield dict(zip(names, map(list, zip(*batch, strict=True)), strict=True))


def _first_wrong(answering: FPTPipeline, batch: dict[str, list[Any]], count: int) -> int | None:
    """The first row of a batch that fails by itself; None: they only fail together."""
    for row in range(count):
        try:
            answering.answer({name: values[row : row + 1] for name, values in batch.items()})
        except ValueError:
            return row
    return None


def _is_cell(value: Any) -> bool:
    return value is None or isinstance(value, (bool, int, float, str, datetime.date))


class Writer:
    """Writes columns of answers into a csv, jsonl or parquet file, a batch at a time."""

    def __init__(self, path: Path, ending: str):
        self._path, self._ending = path, ending
        self._file: Any = None
        self._writer: Any = None
        self._columns: list[str] = []

    def __enter__(self) -> "Writer":
        self._path.parent.mkdir(parents=True, exist_ok=True)
        if self._ending != ".parquet":
            self._file = open(self._path, "w", encoding="utf-8", newline="")
        return self

    def __exit__(self, *error: Any) -> None:
        if self._writer is not None and self._ending == ".parquet":
            self._writer.close()
        if self._file is not None:
            self._file.close()

    def write(self, batch: dict[str, list[Any]]) -> None:
        """Add a batch. The first one fixes the columns."""
        self._columns = self._columns or list(batch)
        count = len(next(iter(batch.values())))
        batch = {name: batch.get(name, [None] * count) for name in self._columns}
        if self._ending == ".parquet":
            if self._writer is None:
                self._writer = pq.ParquetWriter(self._path, schema_of(pa.table(batch).schema))
            try:
                self._writer.write_table(pa.table(batch, schema=self._writer.schema))
            except (pa.ArrowInvalid, pa.ArrowTypeError) as error:
                raise ValueError(
                    f"a column of a parquet file holds values of one kind, but later ones differ from those of the "
                    f"first batch ({first_line(error)}): write --output with a name that ends in .csv or .jsonl."
                ) from error
            return
        if self._writer is None and self._ending == ".csv":
            self._writer = csv.writer(self._file)
            self._writer.writerow(self._columns)
        for record in zip(*batch.values(), strict=True):
            if self._ending == ".csv":
                self._writer.writerow([_cell(value) for value in record])
            else:
                self._file.write(
                    json.dumps(dict(zip(batch, record, strict=True)), ensure_ascii=False, default=str) + "\n"
                )


def schema_of(schema: pa.Schema) -> pa.Schema:
    """The kinds of columns; one that begins without any value is text."""
    kinds = [pa.string() if pa.types.is_null(field.type) else field.type for field in schema]
    return pa.schema(list(zip(schema.names, kinds, strict=True)))


def _cell(value: Any) -> Any:
    """A value in a csv file: lists of names with semicolons, other nested values as JSON."""
    if isinstance(value, list) and all(isinstance(one, str) for one in value):
        return ";".join(value)
    return json.dumps(value, ensure_ascii=False) if isinstance(value, (list, dict)) else value
