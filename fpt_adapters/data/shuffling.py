"""Shuffling in constant memory: an order of millions of examples that is computed, and never held."""

from collections.abc import Iterator

import numpy as np
from torch.utils.data import Sampler

ROUNDS = 4  # of a Feistel network (Luby and Rackoff, 1988), which permutes the numbers of 2 * half bits
AT_ONCE = 4096
ODD = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB], dtype=np.uint64)  # splitmix64's


class LazyShuffle(Sampler[int]):
    """All of 0..count-1 in an order that depends on `seed` and on the epoch, which a data loader sets."""

    def __init__(self, count: int, seed: int):
        self.count, self.seed, self.epoch = count, seed, 0
        self._half = np.uint64(max((count - 1).bit_length() + 1, 2) // 2)

    def set_epoch(self, epoch: int) -> None:
        """Take another order."""
        self.epoch = epoch

    def __len__(self) -> int:
        return self.count

    def __iter__(self) -> Iterator[int]:
        keys = np.random.Philox(key=np.array([self.seed, self.epoch], dtype=np.uint64)).random_raw(ROUNDS)
        for start in range(0, self.count, AT_ONCE):
            numbers = np.arange(start, min(start + AT_ONCE, self.count), dtype=np.uint64)
            numbers = self._permuted(numbers, keys)
            while (out := numbers >= self.count).any():  # those above come back, as one walks on along their cycle
                numbers[out] = self._permuted(numbers[out], keys)
            yield from numbers.tolist()

    def _permuted(self, numbers: np.ndarray, keys: np.ndarray) -> np.ndarray:
        mask = (np.uint64(1) << self._half) - np.uint64(1)
        left, right = numbers >> self._half, numbers & mask
        for key in keys:
            left, right = right, left ^ (_mixed(right ^ key) & mask)
        return (left << self._half) | right


def _mixed(numbers: np.ndarray) -> np.ndarray:
    """Numbers that look random, uint64, one for each."""
    numbers = numbers + ODD[0]  # which wraps around
    for shift, odd in ((30, ODD[1]), (27, ODD[2])):
        numbers = (numbers ^ (numbers >> np.uint64(shift))) * odd
    return numbers ^ (numbers >> np.uint64(31))
