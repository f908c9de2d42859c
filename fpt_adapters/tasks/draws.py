"""Helpers of tasks that draw their own examples: random words by address, and sizes of splits."""

from collections.abc import Sequence

import numpy as np

from ..data.splits import SPLITS


def random_stream(seed: int, split: str, index: int = 0) -> np.random.Philox:
    """Make the random generator of example `index` of a split. Its raw words depend only on the three arguments.

    The generator is NumPy's Philox 4x64 (Salmon et al., SC 2011). Its key is (seed, number of the split), so the
    streams of two splits never overlap; its counter starts at index x 2**64, so neither do those of two indices. Use
    its raw words: NumPy never changes those, but may change how `Generator` turns them into numbers.

    Only `train` depends on the seed: `validation` and `test` are always the same. Raises ValueError for a seed outside
    0..2**64-1.
    """
    if isinstance(seed, bool) or not 0 <= seed < 2**64:
        raise ValueError(f"seed is a whole number in 0..2**64-1, got {seed}.")
    key = np.array([seed if split == "train" else 0, SPLITS.index(split)], dtype=np.uint64)
    return np.random.Philox(key=key, counter=np.array([0, index, 0, 0], dtype=np.uint64))


def random_words(seed: int, split: str, indices: Sequence[int], count: int) -> np.ndarray:
    """The first `count` 64-bit words of several streams: (indices, count) uint64, little-endian.

    Row i is the start of `random_stream(seed, split, indices[i])`, so every process, worker and resumed run gets the
    same example. Raises as `random_stream` does.
    """
    generator = random_stream(seed, split)
    state = generator.state  # setting it for each index is four times faster than a new generator
    words = np.empty((len(indices), count), dtype="<u8")
    for row, index in enumerate(indices):
        state["state"]["counter"] = np.array([0, index, 0, 0], dtype=np.uint64)
        generator.state = state
        words[row] = generator.random_raw(count)
    return words


def random_below(generator: np.random.Philox, bound: int, count: int) -> np.ndarray:
    """Draw `count` whole numbers in 0..bound-1 from `generator`: (count,) int64, for a bound below 2**32.

    Each comes from 32 bits (Lemire's multiply and shift), so no probability is off by more than 2**-32.
    """
    halves = generator.random_raw(-(-count // 2)).astype("<u8", copy=False).view("<u4")[:count]
    return ((halves.astype(np.uint64) * np.uint64(bound)) >> np.uint64(32)).astype(np.int64)
