"""What all cases are told: where they run, and how large; and what one leaves for those after it."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


class Skipped(Exception):
    """Why a case cannot run here."""


@dataclass(frozen=True)
class Setting:
    """Of one call of `gpu.py`."""

    folder: Path  # that the cases share, gone at the end
    smoke: bool = False  # the same on tiny sizes, on a CPU
    batches: dict[str, int] = field(default_factory=dict)  # sequences in a step by backbone, where they are given

    @property
    def device(self) -> torch.device:
        """Where the cases run."""
        return torch.device("cpu" if self.smoke else "cuda")

    def leave(self, name: str, facts: Any) -> None:
        """Keep facts for later cases."""
        (self.folder / f"{name}.json").write_text(json.dumps(facts))

    def left(self, name: str) -> Any:
        """What an earlier case left; None where it did not run."""
        file = self.folder / f"{name}.json"
        return json.loads(file.read_text()) if file.exists() else None
