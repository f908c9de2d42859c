"""Rows of data in files, as users have them, for the tasks that read files."""

import io
from pathlib import Path

import datasets
import numpy as np
from PIL import Image

CLASSES = datasets.ClassLabel(names=[f"class {number}" for number in range(10)])
INTEGER, STRING, BOOL = datasets.Value("int64"), datasets.Value("string"), datasets.Value("bool")


def random_pixels(count: int, shape: tuple, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (count, *shape), dtype=np.uint8)


def encoded(pixels: np.ndarray, kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, kind)
    return file.getvalue()


def image_rows(images, labels=None, column="image", feature=CLASSES) -> datasets.Dataset:
    """A label (by default 0 to 9 in turn) beside each image: pixels, the bytes of a file, or None."""
    images = [encoded(image) if isinstance(image, np.ndarray) else image for image in images]
    features = datasets.Features({column: datasets.Image(), "label": feature})
    labels = [number % 10 for number in range(len(images))] if labels is None else labels
    structs = [None if image is None else {"bytes": image, "path": None} for image in images]
    return datasets.Dataset.from_dict({column: structs, "label": labels}, features=features)


def protein_rows(feature=None, labels=("a.1", "b.2", "c.3")) -> datasets.Dataset:
    """Forty sequences of 3 to 9 letters, of the three labels in turn."""
    features = {"sequence": STRING, "label": feature or datasets.ClassLabel(names=list(labels))}
    columns = {
        "sequence": ["ACDEFGHIKL"[number % 10] * (3 + number % 7) for number in range(40)],
        "label": [labels[number % 3] for number in range(40)],
    }
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


def write(path: Path, rows: datasets.Dataset | dict[str, list]) -> str:
    """Write rows, or columns, into a file of the kind that its name says. Returns its path."""
    if isinstance(rows, dict):
        rows = datasets.Dataset.from_dict(rows)
    writers = {".parquet": rows.to_parquet, ".csv": rows.to_csv, ".json": rows.to_json, ".jsonl": rows.to_json}
    writers[path.suffix](path)
    return str(path)


def write_shards(folder: Path, rows: datasets.Dataset) -> tuple[str, str]:
    """Spread rows over three files, and put them into one. Returns a pattern of the three, and the one."""
    folder.mkdir(exist_ok=True)
    for number in range(3):
        write(folder / f"part-{number}.parquet", rows.shard(3, number))
    return str(folder / "part-*.parquet"), write(folder / "whole.parquet", rows)
