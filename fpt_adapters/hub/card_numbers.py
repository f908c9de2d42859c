"""The numbers of a model card: counted and measured here, formatted in card_template.py."""

import os
from collections.abc import Mapping, Sequence
from numbers import Real
from pathlib import Path
from sys import float_info
from typing import Any

import numpy as np
from transformers.utils import SAFE_WEIGHTS_NAME

from ..heads.scores import is_number
from .card_metrics import better_high, main_metric, metric_name

MOST = float_info.max  # the largest number that a card can show


def numbers_of(values: Mapping[str, Any]) -> dict[str, float]:
    """Keep the values that are a single number; a card shows no lists, texts and the like."""
    numbers = {name: value.item() if _is_scalar(value) else value for name, value in values.items()}
    return {name: value for name, value in numbers.items() if isinstance(value, Real) and not abs(value) > MOST}


def _is_scalar(value: Any) -> bool:
    return isinstance(value, (np.ndarray, np.generic)) and value.ndim == 0


def delta_size(folder: str | os.PathLike) -> int | None:
    """Bytes of the delta saved in `folder`; None if there is none."""
    file = Path(folder) / SAFE_WEIGHTS_NAME
    return file.stat().st_size if file.is_file() else None


def best_step(history: Sequence[Mapping[str, float]], metric: str | None = None) -> tuple[int, float] | None:
    """Step and value of the best `metric` (None: the main one) in Trainer's log; the first of several equal ones.

    None if fewer than two steps were scored, so that there was no choice, and for a metric whose name does not tell
    whether high or low is better.
    """
    metric = metric or main_metric(history)
    scored = [row for row in history if "step" in row and is_number(row.get(metric))]
    high = better_high(metric_name(metric or ""))
    if high is None or len({row["step"] for row in scored}) < 2:
        return None
    best = (max if high else min)(scored, key=lambda row: row[metric])
    return int(best["step"]), float(best[metric])


def last_loss(history: Sequence[Mapping[str, float]]) -> float | None:
    """The last training loss that Trainer logged; None if it logged none."""
    losses = [float(row["loss"]) for row in history if "loss" in row]
    return losses[-1] if losses else None
