"""Numbers in a configuration, each in its range: it may come from a stranger, and none may be absurd."""

from .config_rules import short

MAX_SIZE = 2**24  # tokens, ids, pixels, numbers per token: far beyond any model's, and sizes of tensors stay countable


def check_within(name: str, value: int, least: int, most: int) -> None:
    """Raise ValueError for what is no whole number between these."""
    if not isinstance(value, int) or isinstance(value, bool) or not least <= value <= most:
        raise ValueError(f"{name} is a whole number of at least {least} and at most {most}, got {short(value)}.")


def check_probability(name: str, value: float) -> None:
    """Raise ValueError for what is no probability, and for 1."""
    if not 0 <= value < 1:
        raise ValueError(f"{name} is a probability of at least 0 and below 1, got {value}.")
