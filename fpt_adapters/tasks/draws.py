"""What tasks that draw their own examples share: random words that are addressed, not consumed, and split sizes."""

from collections.abc import Sequence

import numpy as np

from ..data.splits import SPLITS


def random_stream(seed: int, split: str, index: int = 0) -> np.random.Philox:
    """Make the generator of number `index` of a split. Its raw words depend on the three arguments alone.

    The generator is NumPy's Philox 4x64 (Salmon et al., SC 2011). Its key is (seed, number of the split), so the
    streams of two splits never meet; its counter starts at index x 2**64, so those of two indices never meet. Take
    raw words from it: NumPy keeps those the same for good, but may change how `Generator` makes numbers of them.

    `validation` and `test` are the same for every seed: only `train` follows it. Raises ValueError for a seed that
    is not in 0..2**64-1.
    """
    if isinstance(seed, bool) or not 0 <= seed < 2**64:
        raise ValueError(f"seed is a whole number in 0..2**64-1, got {seed}.")
    key = np.array([seed if split == "train" else 0, SPLITS.index(split)], dtype=np.uint64)
    return np.random.Philox(key=key, counter=np.array([0, index, 0, 0], dtype=np.uint64))


def random_words(seed: int, split: str, indices: Sequence[int], count: int) -> np.ndarray:
    """Take the first `count` 64-bit words of several streams: (indices, count) uint64, stored little-endian.

    Row i is the start of `random_stream(seed, split, indices[i])`, so every process, worker and resumed run that asks
    for an example gets the same one. Raises as `random_stream`.
    """
    generator = random_stream(seed, split)
    state = generator.state  # set anew for each index: four times faster than a new generator
    words = np.empty((len(indices), count), dtype="<u8")
    for row, index in enumerate(indices):
        state["state"]["counter"] = np.array([0, index, 0, 0], dtype=np.uint64)
        generator.state = state
        words[row] = generator.random_raw(count)
    return words


def random_below(generator: np.random.Philox, bound: int, count: int) -> np.ndarray:
    """Read `count` whole numbers in 0..bound-1 off `generator`: (count,) int64, for a bound below 2**32.

    Each comes from 32 bits (Lemire's multiply and shift), so no probability is off by more than 2**-32.
    """
    halves = generator.random_raw(-(-count // 2)).astype("<u8", copy=False).view("<u4")[:count]
    return ((halves.astype(np.uint64) * np.uint64(bound)) >> np.uint64(32)).astype(np.int64)
