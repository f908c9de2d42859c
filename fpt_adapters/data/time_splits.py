"""Parts of time: how many steps train, validate and test, one after another, and the first share of those."""

from collections.abc import Sequence

import numpy as np

from ..rules.wording import counted, thousands

ROUNDING = 1e-9


def check_splits(splits: Sequence[float]) -> None:
    """Raise ValueError for what is neither three numbers of steps nor three shares."""
    shares = len(splits) == 3 and all(0 < size < 1 for size in splits) and sum(splits) < 1 + ROUNDING
    counts = len(splits) == 3 and all(size >= 1 and size == int(size) for size in splits)
    if not shares and not counts:
        raise ValueError(
            "splits are the steps of train, validation and test, as 8640 2880 2880, or their shares, as 0.7 0.1 0.2, "
            f"which are 1 together at most; got {' '.join(f'{size:g}' for size in splits)}."
        )


def sizes_of(splits: Sequence[float], steps: int) -> list[int]:
    """The steps of train, validation and test, of `steps` from the first one; of shares, validation has what is left.

    Raises ValueError for more steps than there are.
    """
    sizes = [int(size) for size in splits]
    if splits[0] < 1:
        train, test, used = (int(share * steps + ROUNDING) for share in (splits[0], splits[2], sum(splits)))
        sizes = [train, used - train - test, test]
    if sum(sizes) > steps:
        given = " ".join(f"{size:g}" for size in splits)
        raise ValueError(f"splits are at most the {thousands(steps)} steps of the table together, got {given}.")
    return sizes


def last_steps(size: int, held: Sequence[str], steps: int) -> list[int]:
    """The steps that are left to train on, of `steps`, and `size` for each of `held`. Raises ValueError if none is."""
    left = steps - len(held) * size
    if left <= 0:
        raise ValueError(
            f"{counted(size, 'step')} for each of {' and '.join(held)} leave none of {thousands(steps)} to train on: "
            "write a smaller --validation_share or --validation_examples."
        )
    return [left, *[size] * len(held)]


def first_share(spans: np.ndarray, context_length: int, share: float) -> np.ndarray:
    """Keep the first `share` of the steps of `spans` (series, 2), behind a first context, which is kept too."""
    lengths = spans[:, 1] - spans[:, 0]
    behind = np.maximum(lengths - context_length, 0)
    kept = lengths - behind + (behind * share + ROUNDING).astype(np.int64)
    return np.stack([spans[:, 0], spans[:, 0] + kept], axis=1)
