"""Finding the deltas of a base on the Hub by their model cards."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

from ..rules.wording import one_line
from .card_metrics import FIRST
from .card_reading import read_summary
from .card_template import score


@dataclass(frozen=True)
class DeltaSummary:
    """One delta on the Hub as its card describes it, unchecked; None for what the card does not say."""

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
        """The score if it is an accuracy, else None."""
        return self.score if self.metric == FIRST else None


def find_deltas(
    base_model: str, *, task: str | None = None, author: str | None = None, limit: int | None = None, token=None
) -> list[DeltaSummary]:
    """List the deltas of the Hub model `base_model` (such as "openai-community/gpt2"), the most accurate first.

    Those whose card has no accuracy, but perhaps another metric, come last.

    `task`: only those of this task, such as "mnist"; `author`: only those of a user or organisation; `limit`: the most
    cards to read; `token`: for private repos, as in transformers. The figures are the cards' own and unchecked; those
    of different tasks, splits and data cannot be compared. Raises the Hub client's errors.
    """
    wanted = {"filter": ["fpt", f"base_model:adapter:{base_model}"], "expand": ["cardData", "model-index"]}
    if author is not None:
        wanted["author"] = author
    models = itertools.islice(_models(wanted, token), limit)
    found = [DeltaSummary(str(model.get("id")), **read_summary(_metadata(model))) for model in models]
    found = [delta for delta in found if task is None or delta.task == task]
    return sorted(found, key=lambda delta: (delta.accuracy is None, -(delta.accuracy or 0.0), delta.repo_id))


def _models(wanted: dict[str, Any], token: str | bool | None) -> Iterator[dict[str, Any]]:
    """The Hub's list of models as JSON: its client's `list_models` would stop at the first malformed card."""
    url, params = f"{HfApi().endpoint}/api/models", wanted
    while url is not None:
        answer = get_session().get(url, params=params, headers=build_hf_headers(token=token))
        hf_raise_for_status(answer)
        yield from (model for model in answer.json() if isinstance(model, dict))
        url, params = answer.links.get("next", {}).get("url"), None


def _metadata(model: dict[str, Any]) -> dict[str, Any]:
    card = model.get("cardData")
    return {**(card if isinstance(card, dict) else {}), "model-index": model.get("model-index")}


def format_deltas(deltas: Iterable[DeltaSummary]) -> str:
    """A table of deltas as text, with "-" for what a card does not say."""
    lines = [f"{'delta':<40} {'task':<16} {'metric':<10} {'score':>9} {'floor':>7} {'split':<11} {'bytes':>9}"]
    for delta in deltas:
        task, metric = (one_line(text) or "-" for text in (delta.task, delta.metric))
        figure, floor = (score(metric, value) or "-" for value in (delta.score, delta.floor))
        size = "-" if delta.delta_bytes is None else f"{delta.delta_bytes:,}"
        lines.append(
            f"{delta.repo_id:<40} {task:<16} {metric:<10} {figure:>9} {floor:>7} {delta.split or '-':<11} {size:>9}"
        )
    return "\n".join(lines)
