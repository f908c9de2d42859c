"""Finding the deltas of a base on the Hub, by what their cards say."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from huggingface_hub import HfApi, ModelInfo

from .card_metrics import FIRST
from .card_reading import read_summary
from .card_template import one_line, score


@dataclass(frozen=True)
class DeltaSummary:
    """One delta on the Hub, as its card describes it; None where the card says nothing. Not checked in any way."""

    repo_id: str
    task: str | None
    metric: str | None  # accuracy, else the card's first
    score: float | None  # on `split`; an accuracy lies in 0..1
    floor: float | None  # the score that needs no learning
    split: str | None
    examples: int | None  # in that split
    delta_bytes: int | None

    @property
    def accuracy(self) -> float | None:
        """The score, where it is an accuracy."""
        return self.score if self.metric == FIRST else None


def find_deltas(
    base_model: str, *, task: str | None = None, author: str | None = None, limit: int | None = None, token=None
) -> list[DeltaSummary]:
    """List the deltas of the Hub model `base_model` (such as "openai-community/gpt2"), the most accurate first.

    Those that state no accuracy, but perhaps another metric, come last.

    `task`: only those of this task, as "mnist"; `author`: only a user's or an organisation's; `limit`: how many cards
    to read at most; `token`: as everywhere, for private ones. The figures are the cards' own: different tasks, splits
    and data are not comparable, and nobody has checked them. Raises the Hub client's errors.
    """
    filters, expanded = ["fpt", f"base_model:adapter:{base_model}"], ["cardData", "model-index"]
    models = HfApi(token=token).list_models(filter=filters, author=author, limit=limit, expand=expanded)
    found = [DeltaSummary(model.id, **read_summary(_metadata(model))) for model in models]
    found = [delta for delta in found if task is None or delta.task == task]
    return sorted(found, key=lambda delta: (delta.accuracy is None, -(delta.accuracy or 0.0), delta.repo_id))


def _metadata(model: ModelInfo) -> dict[str, Any]:
    """A card's metadata as it came: the client's own way back to it (`to_dict`) fails on what is malformed."""
    return {**(vars(model.card_data) if model.card_data else {}), "model-index": model.model_index}


def format_deltas(deltas: Iterable[DeltaSummary]) -> str:
    """A table of deltas as text, "-" where a card says nothing."""
    lines = [f"{'delta':<40} {'task':<16} {'metric':<10} {'score':>9} {'floor':>7} {'split':<11} {'bytes':>9}"]
    for delta in deltas:
        task, metric = (one_line(text) or "-" for text in (delta.task, delta.metric))
        figure, floor = (score(metric, value) or "-" for value in (delta.score, delta.floor))
        size = "-" if delta.delta_bytes is None else f"{delta.delta_bytes:,}"
        lines.append(
            f"{delta.repo_id:<40} {task:<16} {metric:<10} {figure:>9} {floor:>7} {delta.split or '-':<11} {size:>9}"
        )
    return "\n".join(lines)
