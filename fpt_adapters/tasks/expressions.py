"""Expressions of ListOps: drawn, evaluated, and written as tokens, a whole block of trees at a time."""

from dataclasses import dataclass

import numpy as np

from .draws import random_below

PAD, FIRST_DIGIT, MIN, MAX, MED, SM, CLOSE = 0, 1, 11, 12, 13, 14, 15
TOKENS = ("<pad>", *"0123456789", "[MIN", "[MAX", "[MED", "[SM", "]")  # a token's id is its place
LEAVES_AND_OPERATORS = 4  # one node in this many is an operator
TREES_PER_BLOCK = 2048


@dataclass
class Level:
    """The nodes at one depth in all trees of a block: tree after tree, and in each tree from left to right.

    `tree`: (nodes,), the number of each node's tree, ascending; `ids`: uint8 (nodes,), token ids of digits and
    operators; `arity`: (operators,), the number of each operator's children, which are the nodes of the next level.
    """

    tree: np.ndarray
    ids: np.ndarray
    arity: np.ndarray

    @property
    def operators(self) -> np.ndarray:
        """Which nodes are operators: bool (nodes,)."""
        return self.ids >= MIN

    @property
    def first_child(self) -> np.ndarray:
        """Where each operator's children start in the next level: (operators,)."""
        return np.cumsum(self.arity) - self.arity

    def of(self, kept: np.ndarray) -> "Level":
        """Keep only the nodes of some trees; `kept`: bool (trees,)."""
        nodes = kept[self.tree]
        return Level(self.tree[nodes], self.ids[nodes], self.arity[nodes[self.operators]])


def grow(generator: np.random.Philox, max_depth: int, max_args: int, min_length: int, max_length: int) -> list[Level]:
    """Draw a block of trees level by level, and keep those whose length fits: returns the levels that are not empty.

    A node is a digit with probability 3/4, else an operator with 2 to `max_args` children; on level `max_depth` all
    are digits. The roots are operators: a single digit is too short for any `min_length`.
    """
    levels = []
    lengths = np.ones(TREES_PER_BLOCK, dtype=np.int64)  # tokens of the nodes drawn so far, `]` included
    tree = np.arange(TREES_PER_BLOCK)
    for depth in range(1, max_depth + 1):
        ids = (FIRST_DIGIT + random_below(generator, 10, len(tree))).astype(np.uint8)
        if depth == 1:
            operators = np.ones(len(tree), dtype=bool)
        elif depth < max_depth:
            operators = random_below(generator, LEAVES_AND_OPERATORS, len(tree)) == 0
        else:
            operators = np.zeros(len(tree), dtype=bool)
        parents = tree[operators]
        ids[operators] = MIN + random_below(generator, 4, len(parents))
        arity = 2 + random_below(generator, max_args - 1, len(parents))
        levels.append(Level(tree, ids, arity))
        lengths += np.bincount(parents, weights=arity + 1, minlength=TREES_PER_BLOCK).astype(np.int64)
        still_fits = lengths[parents] < max_length
        tree = np.repeat(parents[still_fits], arity[still_fits])
    kept = (min_length < lengths) & (lengths < max_length)
    levels = [level.of(kept) for level in levels]
    return [level for level in levels if len(level.tree)]


def evaluate(levels: list[Level]) -> tuple[np.ndarray, list[np.ndarray]]:
    """Evaluate trees from the leaves up: values of the roots (trees,), and for each level sizes in tokens (nodes,)."""
    all_sizes = []
    values = sizes = np.zeros(0, dtype=np.int64)
    for level in reversed(levels):
        child_values, child_sizes = values, sizes
        values = level.ids.astype(np.int64) - FIRST_DIGIT
        sizes = np.ones(len(values), dtype=np.int64)
        operators = level.operators
        if operators.any():
            first = level.first_child
            answers = np.stack(
                [
                    np.minimum.reduceat(child_values, first),
                    np.maximum.reduceat(child_values, first),
                    _medians(child_values, first, level.arity),
                    np.add.reduceat(child_values, first) % 10,
                ]
            )
            values[operators] = answers[level.ids[operators] - MIN, np.arange(len(first))]
            sizes[operators] = 2 + np.add.reduceat(child_sizes, first)
        all_sizes.insert(0, sizes)
    return values, all_sizes


def _medians(values: np.ndarray, first: np.ndarray, arity: np.ndarray) -> np.ndarray:
    """The median, cut to an integer, of each run of `arity` values (0-9) that starts at `first`."""
    runs = np.repeat(np.arange(len(first)), arity)
    ordered = np.sort(runs * 10 + values) % 10
    return (ordered[first + (arity - 1) // 2] + ordered[first + arity // 2]) // 2


def write(levels: list[Level], sizes: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Write trees as expressions: the tokens of all, uint8, and the offsets of each in them, (trees + 1,)."""
    offsets = np.concatenate([[0], np.cumsum(sizes[0] if sizes else [])]).astype(np.int64)
    tokens = np.empty(offsets[-1], dtype=np.uint8)
    place = offsets[:-1]
    for depth, level in enumerate(levels):
        tokens[place] = level.ids
        opened = place[level.operators]
        tokens[opened + sizes[depth][level.operators] - 1] = CLOSE
        if len(opened):
            inner = sizes[depth + 1]
            before = np.cumsum(inner) - inner
            place = np.repeat(opened + 1 - before[level.first_child], level.arity) + before
    return tokens, offsets
