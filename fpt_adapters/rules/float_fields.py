"""Whole numbers in a configuration's float fields: `input_dropout=0` is as good as 0.0, and is kept as that."""

from dataclasses import fields
from typing import Any, get_args


class FloatFields:
    """A configuration of which a field of type `float | int` (`| None`) holds a float, whatever number it is given.

    The annotation lets the strict dataclass accept the whole number; truth values and text it refuses.
    """

    def __setattr__(self, name: str, value: Any) -> None:
        if type(value) is int and any(field.name == name and float in get_args(field.type) for field in fields(self)):
            try:
                value = float(value)
            except OverflowError as error:
                raise ValueError(f"{name} is a number that a float holds, got one of more than 10**308.") from error
        super().__setattr__(name, value)
