"""The data sets of `own_data.py`: rows to train on, rows to choose by, and rows to test on."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pandas
from sklearn.model_selection import train_test_split

from fpt_adapters.data.sources import read_file

FEW = 0.25  # of the rows of a small data set validate
HELD_OUT = 1000  # rows of a large data set that has no validation rows of its own


@dataclass(frozen=True)
class Data:
    """A data set. X: texts, a DataFrame, images, clips, or series (steps, channels); y: classes or numbers (rows,).

    `fold`: the numbers of the rows to train on, and of those to validate. `refit`: whether those that are tested are
    trained on all of them, since there are few.
    """

    name: str
    X: Any
    y: np.ndarray
    test_X: Any
    test_y: np.ndarray
    fold: tuple[np.ndarray, np.ndarray]
    numbers: bool = False  # whether y are numbers
    refit: bool = False
    shots: int | None = None  # rows of each class that are trained on, drawn with each seed anew

    @property
    def metric(self) -> str:
        """What is scored."""
        return "R2" if self.numbers else "accuracy"

    def score(self, answers: np.ndarray, y: np.ndarray) -> float:
        """Accuracy of classes, R2 of numbers."""
        if not self.numbers:
            return float(np.mean(answers == y))
        return float(1 - np.square(answers - y).sum() / np.square(y - y.mean()).sum())

    def floor(self) -> float:
        """The test score of the one constant answer that the training rows give."""
        if self.numbers:
            return self.score(np.full(len(self.test_y), self.y.mean()), self.test_y)
        values, counts = np.unique(self.y, return_counts=True)
        return self.score(np.full(len(self.test_y), values[counts.argmax()]), self.test_y)

    def rows(self, fold: np.ndarray, seed: int) -> np.ndarray:
        """The rows of a fold that are trained on: all, or `shots` of each class, drawn by the seed."""
        if self.shots is None:
            return fold
        rng, y = np.random.default_rng(seed), self.y[fold]
        drawn = [rng.permutation(fold[y == value])[: self.shots] for value in np.unique(y)]
        return np.sort(np.concatenate(drawn))


def texts(folder: Path, column: str = "text") -> Data:
    """Texts in parquet; 1,000 training rows validate where the folder has no rows for that."""
    parts = {split: read_file(str(folder / f"{split}.parquet"), split).data for split in _splits(folder)}
    return _of_splits(folder.name, parts, column)


def sounds(folder: Path) -> Data:
    """Clips in parquet, with speakers of their own in each split."""
    parts = {split: read_file(str(folder / f"{split}.parquet"), split).data for split in _splits(folder)}
    parts = {split: data.cast_column("audio", datasets.Audio(decode=False)) for split, data in parts.items()}
    return _of_splits("spoken digits", parts, "audio")


def images(folder: Path, train: int = 5000, test: int = 2000) -> Data:
    """The first CIFAR-10 images."""
    counts = {"train": train + HELD_OUT, "test": test}
    parts = {
        split: read_file(str(folder / f"{split}.parquet"), split).data.select(range(count))
        for split, count in counts.items()
    }
    return _of_splits(f"CIFAR-10, {train:,} images", parts, "img")


def series(name: str, numbers: bool = False) -> Data:
    """A problem of the UEA and UCR archives that comes with aeon."""
    from aeon.datasets import load_classification, load_regression

    load = load_regression if numbers else load_classification
    (X, y), (test_X, test_y) = (load(name, split=split) for split in ("train", "test"))
    X, test_X = ([np.asarray(one).T for one in part] for part in (X, test_X))  # each (steps, channels)
    return Data(name, X, y, test_X, test_y, _held_out(y, numbers, FEW), numbers, refit=True)


def table(name: str) -> Data:
    """A table that comes with scikit-learn; a fifth of its rows tests."""
    import sklearn.datasets

    X, y = getattr(sklearn.datasets, f"load_{name}")(return_X_y=True, as_frame=True)
    return _of_table(name, X, y.to_numpy(), numbers=name == "diabetes", test=0.2)


def diamonds(train: int = 10_000, test: int = 5000) -> Data:
    """Prices of diamonds, as logarithms: 6 numeric columns and 3 categories, out of plotnine's data."""
    from plotnine.data import diamonds

    rows = diamonds.sample(train + test, random_state=0).reset_index(drop=True)
    X = rows.drop(columns="price")
    categories = {column: X[column].astype(str) for column in ("cut", "color", "clarity")}
    return _of_table(
        "diamonds", X.assign(**categories), np.log(rows["price"].to_numpy(float)), numbers=True, test=test, few=False
    )


def few_shot(data: Data, shots: int) -> Data:
    """The same with `shots` training rows of each class; validation and test rows stay."""
    return replace(data, name=f"{data.name}, {shots} a class", shots=shots)


def load(name: str, folders: dict[str, Path | None]) -> Data:
    """Load a data set by its name. Raises ValueError if it needs a folder that was not given."""
    base, _, shots = name.partition("@")
    if base in folders and folders[base] is None:
        raise ValueError(f"{base} is read from a folder: write --{base} FOLDER.")
    data = LOADERS[base](folders[base]) if base in folders else LOADERS[base]()
    return few_shot(data, int(shots)) if shots else data


LOADERS: dict[str, Callable[..., Data]] = {
    "banking77": texts,
    "sst2": texts,
    "spoken_digits": sounds,
    "cifar10": images,
    **{name: partial(series, name) for name in ("GunPoint", "ItalyPowerDemand", "JapaneseVowels", "ACSF1")},
    "Covid3Month": partial(series, "Covid3Month", numbers=True),
    **{name: partial(table, name) for name in ("breast_cancer", "wine", "diabetes")},
    "diamonds": diamonds,
}
FOLDERS = ("banking77", "sst2", "spoken_digits", "cifar10")
NAMES = [
    *("banking77", "banking77@8", "banking77@64", "sst2", "sst2@8", "sst2@64"),
    *(name for name in LOADERS if name not in ("banking77", "sst2")),
]


def _splits(folder: Path) -> list[str]:
    return [split for split in ("train", "validation", "test") if (folder / f"{split}.parquet").exists()]


def _of_splits(name: str, parts: dict[str, datasets.Dataset], column: str) -> Data:
    X, y = list(parts["train"][column]), np.array(parts["train"]["label"])
    if "validation" in parts:
        train = np.arange(len(y))
        X, y = X + list(parts["validation"][column]), np.concatenate([y, parts["validation"]["label"]])
        fold = (train, np.arange(len(train), len(y)))
    else:
        fold = _held_out(y, False, HELD_OUT)
    test = parts["test"]
    return Data(name, X, y, list(test[column]), np.array(test["label"]), fold)


def _of_table(name: str, X: pandas.DataFrame, y: np.ndarray, numbers: bool, test: float, few: bool = True) -> Data:
    """A table whose test rows are drawn; `few`: whether those that validate are trained on in the end."""
    train, tested = _held_out(y, numbers, test)
    X, test_X, y, test_y = X.iloc[train], X.iloc[tested], y[train], y[tested]
    fold = _held_out(y, numbers, FEW if few else HELD_OUT)
    return Data(name, X, y, test_X, test_y, fold, numbers, refit=few)


def _held_out(y: np.ndarray, numbers: bool, size: float) -> tuple[np.ndarray, np.ndarray]:
    """Numbers of the rows that stay and of `size` that are held out, with the classes in equal shares."""
    return tuple(train_test_split(np.arange(len(y)), test_size=size, random_state=0, stratify=None if numbers else y))
