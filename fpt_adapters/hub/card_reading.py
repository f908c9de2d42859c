"""Reading existing model cards: giving one of ours another repo's name, and summarising anybody's metadata."""

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from huggingface_hub.utils import yaml_dump

from ..heads.scores import is_number
from .card import BYTES_KEY, MARKER, REPO_KEY, TASK_KEY
from .card_metrics import FIRST, FLOOR
from .card_template import hub_id

BLOCK_END = "\n```\n\n"
SPLITS_BY_WORTH = ("test", "validation")  # a summary shows the first that was scored


def retitle(text: str, repo_id: str, with_code: bool = True) -> str:
    """Rename a README of ours: metadata, title and code then name `repo_id`, and nothing else changes.

    `with_code=False` removes the part about loading with the repo's own code. A README that is not ours, or names no
    repo, is returned unchanged.
    """
    head, mark, body = text.partition(MARKER)
    found = re.search(rf"^{REPO_KEY}: (.+)$", head, flags=re.MULTILINE)
    if not (mark and found):
        return text
    repo_id = hub_id(repo_id)
    old, new_value = found[1].strip("'\""), yaml_dump({"": repo_id}).strip().partition(": ")[2]
    old_lines = rf"^({REPO_KEY}: |- name: ){re.escape(found[1])}$"
    head = re.sub(old_lines, lambda line: line[1] + new_value, head, flags=re.MULTILINE)
    body = re.sub(rf"^# {re.escape(old)}$", lambda _: f"# {repo_id}", body, count=1, flags=re.MULTILINE)
    body = _with_python_blocks(body, lambda block: block.replace(json.dumps(old), json.dumps(repo_id)))
    if not with_code:
        start = body.find("\nOr without installing: ")
        end = body.find(BLOCK_END, start)
        if start >= 0 and end >= 0:
            body = body[: start + 1] + body[end + len(BLOCK_END) :]
    return head + mark + body


def _with_python_blocks(text: str, change: Callable[[str], str]) -> str:
    """Apply `change` to each fenced block of Python code in `text`."""
    done, block = [], []
    for line in text.splitlines(keepends=True):
        if block or line.rstrip("\n") == "```python":
            block.append(line)
            if line.rstrip("\n") == "```":
                done.append(change("".join(block)))
                block = []
        else:
            done.append(line)
    return "".join([*done, *block])  # a block that nothing closes stays as it is


def read_summary(card_data: Mapping[str, Any]) -> dict[str, Any]:
    """Summarise a card's metadata: `task`, `split`, `examples`, `metric`, `score`, `floor`, `delta_bytes`.

    The figures are those of the test split, else of validation; the metric is accuracy if there is one, else the
    card's first. `card_data` is the metadata as a dictionary (`ModelCardData.to_dict()`) and may be anybody's: values
    that are missing or malformed become None.
    """
    data = card_data if isinstance(card_data, Mapping) else {}
    scored = {}
    for model in _mappings(data.get("model-index")):
        for result in _mappings(model.get("results")):
            split = _mapping(result.get("dataset")).get("split")
            figures = _figures(result)
            if figures and isinstance(split, str):
                scored[split] = {"split": split, **figures}
    nothing = dict.fromkeys(("split", "examples", "metric", "score", "floor"))
    best = next((scored[split] for split in SPLITS_BY_WORTH if split in scored), nothing)
    task = data.get(TASK_KEY)
    return {"task": task if isinstance(task, str) else None, **best, "delta_bytes": _count(data.get(BYTES_KEY))}


def _figures(result: Mapping) -> dict[str, Any] | None:
    """The main metric of one split's result, its floor, and the number of examples; None without a metric."""
    found = [(metric.get("type"), metric.get("value")) for metric in _mappings(result.get("metrics"))]
    values = {name: _score(name, value) for name, value in found if isinstance(name, str)}
    names = [name for name, value in values.items() if value is not None and not name.endswith(FLOOR)]
    if not names:
        return None
    name = FIRST if FIRST in names else names[0]
    examples = _count(_mapping(_mapping(result.get("dataset")).get("args")).get("examples"))
    return {"examples": examples, "metric": name, "score": values[name], "floor": values.get(name + FLOOR)}


def _mapping(value: Any) -> Mapping:
    return value if isinstance(value, Mapping) else {}


def _mappings(value: Any) -> list[Mapping]:
    return [item for item in value if isinstance(item, Mapping)] if isinstance(value, list) else []


def _score(name: str, value: Any) -> float | None:
    """A finite number, for accuracy (which is compared) in 0..1; None for anything else."""
    compared = name.removesuffix(FLOOR) == FIRST
    return float(value) if is_number(value) and (0 <= value <= 1 or not compared) else None


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None
