"""The range of each number in a configuration, and how much one may hold, because a stranger may have written it."""

import math
from collections.abc import Iterator
from dataclasses import fields
from typing import Any, get_args

MAX_SIZE = 2**24  # tokens, ids, pixels, numbers per token: far beyond any model's, without overflow in tensor sizes
MAX_DEPTH = 8  # dicts and lists inside each other; the configurations of transformers' own models go to 4
MAX_LABELS = 2**17  # reading their number, transformers makes a dict of that size, and copies it often
MAX_VALUES = 2**13  # values besides labels; each is copied a dozen times while a model is built
MOST_PLACE = 100  # the most characters of a value's path in a message
# The sum of all integers, because code loops over some of them and nothing tells which. Vocabularies and context
# lengths are the largest, at most 10**7; one family has a hashed vocabulary of 2 * 10**7.
MAX_INTEGERS = 2**25
LABELS = ("id2label", "label2id")
SHOWN = 200  # characters of a value that a message repeats


def check_within(name: str, value: int, least: int, most: int) -> None:
    """Raise ValueError unless `value` is a whole number from `least` to `most`."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{name} is a whole number of at least {least} and at most {most}, got {short(value)}.")


def check_probability(name: str, value: float) -> None:
    """Raise ValueError unless `value` is at least 0 and below 1."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} is a probability of at least 0 and below 1, got {value}.")


def is_finite(value: Any) -> bool:
    """Whether something is a finite number; NumPy's float64 is a float, and is written as one."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def check_finite_list(name: str, values: Any, length: int) -> None:
    """Raise ValueError unless `values` is a list of `length` finite numbers."""
    numbers = isinstance(values, list) and len(values) == length
    if not numbers or not all(is_finite(value) for value in values):
        raise ValueError(f"{name} is a list of {length} finite numbers, got {short(values)}.")


class FloatFields:
    """Base of a configuration whose fields of type `float | int` (`| None`) hold a float, whatever number is given.

    The annotation lets the strict dataclass accept the whole number; truth values and text it refuses.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if type(value) is int and any(field.name == name and float in get_args(field.type) for field in fields(self)):
            try:
                value = float(value)
            except OverflowError as error:
                raise ValueError(f"{name} is a number that a float holds, got one of more than 10**308.") from error
        super().__setattr__(name, value)


def check_extent(values: dict, place: str, most_depth: int, uncounted: tuple[str, ...] = LABELS) -> None:
    """Raise ValueError for more values, or deeper nesting, than a configuration has.

    Fields in `uncounted` may have as many values as there can be labels.
    """
    count, most, inside = 0, (0, place), [(0, place, values, True)]
    while inside:
        depth, place, one, counts = inside.pop()
        if depth > most_depth:
            raise ValueError(f"{place} is nested more than {MAX_DEPTH} levels deep, as no model's configuration is.")
        if counts or len(one) > MAX_LABELS:
            count, most = count + len(one), max(most, (len(one), place))
        if count > MAX_VALUES:
            raise ValueError(
                f"A configuration has at most {MAX_VALUES} values beside its labels, but this one has more, {most[0]} "
                f"of them in {most[1]}: leave out all that are not its fields."
            )
        named = one.items() if isinstance(one, dict) else ((None, value) for value in one)
        for name, value in named:
            if isinstance(value, (dict, list, tuple)):
                where = place if name is None else f"{place[:MOST_PLACE]}.{name!s:.60}"
                inside.append((depth + 1, where, value, name not in uncounted))


def check_integers(values: dict) -> None:
    """Raise ValueError for a backbone's configuration whose integers are larger than any real model's."""
    found = list(integers(values))
    if sum(abs(value) for _, value in found) > MAX_INTEGERS:
        name, value = max(found, key=lambda item: abs(item[1]))
        raise ValueError(
            f"base_model_config is of no real model: its integers add up to more than {MAX_INTEGERS}, the largest is "
            f"{name:.60}={value!r:.200}. Give the backbone's own configuration."
        )


def integers(values: Any, place: str = "") -> Iterator[tuple[str, int]]:
    """The integers in a configuration that count something, with their names."""
    if isinstance(values, dict):
        for name, value in values.items():
            if "theta" not in str(name):  # a rotary base counts nothing, and may be 10**8 and more
                yield from integers(value, str(name))
    elif isinstance(values, list):
        for value in values:
            yield from integers(value, place)
    elif is_integer(values):
        yield place, values


def differing_integers(one: Any, other: Any, place: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the name and both values wherever two configurations, as dicts, have different integers.

    Names that only one of them has are ignored: they are no fields of the class.
    """
    if isinstance(one, dict) and isinstance(other, dict):
        for name in [name for name in one if name in other]:
            yield from differing_integers(one[name], other[name], str(name))
    elif one != other and float not in (type(one), type(other)) and [*integers(one), *integers(other)]:
        yield place, one, other


def is_integer(value: Any) -> bool:
    """Whether a value is a whole number and not a truth value."""
    return isinstance(value, int) and not isinstance(value, bool)


def short(value: Any) -> str:
    """Word a value for a message, cut to `SHOWN` characters."""
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
