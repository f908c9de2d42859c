"""Rows made ready: each is read before training, so that a wrong one is named then, and kept where there is room."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from tqdm.auto import tqdm

from ..rules.limits import MEMORY
from .splits import Part

MOST_BYTES = MEMORY // 8  # of one split


class PreparedRows(Sequence):
    """The examples of a part: `make(row)` gives a dict of arrays, or raises ValueError for what the row holds.

    Those that fit into `most_bytes` are kept, the others are made anew each time. Raises ValueError, naming the row.
    """

    def __init__(
        self, part: Part, make: Callable[[int], dict[str, np.ndarray]], what: str, most_bytes: int = MOST_BYTES
    ):
        self._make, self._rows = make, part.rows.tolist()
        self._kept: list[dict[str, np.ndarray]] = []
        used = 0
        for row in tqdm(self._rows, desc=f"{what} of {part.source.name}", disable=len(self._rows) < 1000, leave=False):
            try:
                example = make(row)
            except ValueError as error:
                raise ValueError(f"{part.source.where(row)}: {error}") from error
            used += sum(array.nbytes for array in example.values())
            if used <= most_bytes:
                self._kept.append(example)

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self._kept[index] if index < len(self._kept) else self._make(self._rows[index])
