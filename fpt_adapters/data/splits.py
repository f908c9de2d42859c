"""The splits of a data set: their names and sizes, and rows drawn for each."""

from dataclasses import dataclass

import numpy as np

from .sources import Source

SPLITS = ("train", "validation", "test")
# What rows are drawn for: a word of the random key, so that no two of these draws are related.
HELD_OUT_TEST, HELD_OUT_VALIDATION, SAMPLES = 101, 102, 103  # SAMPLES + number of the split
FIXED_SEED = 0  # of what must be the same rows in every run


@dataclass(frozen=True)
class Part:
    """One split of a task: the numbers of its `rows` in `source`, and class numbers `labels`, int64 (examples,)."""

    source: Source
    rows: np.ndarray
    labels: np.ndarray


def draw_order(count: int, seed: int, purpose: int) -> np.ndarray:
    """Shuffle 0..count-1 in an order that depends only on (seed, purpose): int64 (count,).

    It sorts raw words of NumPy's Philox, which NumPy never changes. Raises ValueError for a seed outside 0..2**64-1.
    """
    if not 0 <= seed < 2**64:
        raise ValueError(f"seed is a whole number in 0..2**64-1, got {seed}.")
    generator = np.random.Philox(key=np.array([seed, purpose], dtype=np.uint64))
    return np.argsort(generator.random_raw(count), kind="stable")


def keep_some(rows: np.ndarray, size: int, seed: int, split: str) -> np.ndarray:
    """Keep `size` of the `rows` of a split, chosen with `seed`, in their old order."""
    if size >= len(rows):
        return rows
    return np.sort(rows[draw_order(len(rows), seed, SAMPLES + SPLITS.index(split))[:size]])


def split_sizes(sizes: dict[str, int], max_samples: dict[str, int] | None) -> dict[str, int]:
    """Limit `sizes` (split -> examples) to `max_samples`, which may name only some splits.

    Raises ValueError for a name that is no split and for a number below 1.
    """
    for split, most in (max_samples or {}).items():
        if split not in SPLITS:
            raise ValueError(f"max_samples takes the splits {', '.join(SPLITS)}; got {split!r}.")
        check_at_least(f"max_samples[{split!r}]", most, 1)
    return {split: min(size, (max_samples or {}).get(split, size)) for split, size in sizes.items()}


def check_at_least(name: str, value: int, least: int) -> None:
    """Raise ValueError unless `value` is a whole number of at least `least`."""
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"{name} is a whole number of at least {least}, got {value}.")


def held_out(
    rows: np.ndarray, count: int, seed: int, purpose: int, blocks: np.ndarray | None = None, latest: bool = False
) -> tuple[np.ndarray, np.ndarray]:
    """Choose about `count` of the `rows` to be held out, and return those that are left and those that are held.

    They are drawn with (seed, purpose). `blocks` (all rows of the source,): rows of one block, such as a speaker's,
    stay together, so that more than `count` may be held; `latest`: the largest blocks, such as the last times, are
    held instead of drawn ones. Raises ValueError where nothing would be left.
    """
    if blocks is None:
        order = draw_order(len(rows), seed, purpose)
        held = np.zeros(len(rows), dtype=bool)
        held[order[:count]] = True
    else:
        names, number_of = np.unique(blocks[rows], return_inverse=True)
        order = np.arange(len(names))[::-1] if latest else draw_order(len(names), seed, purpose)
        sizes = np.bincount(number_of, minlength=len(names))[order]
        taken = int(np.searchsorted(np.cumsum(sizes), count)) + 1  # whole blocks, until there are enough rows
        held = np.isin(number_of, order[:taken])
    if held.all():
        raise ValueError("all rows would be held out")
    return rows[~held], rows[held]
