"""The setting of all cases: where they run, at which size, and facts that one case leaves for later ones."""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch


class Skipped(Exception):
    """A case cannot run here; the message says why."""


@dataclass(frozen=True)
class Setting:
    """The setting of one call of `gpu.py`."""

    folder: Path  # shared by the cases, and deleted at the end
    smoke: bool = False  # the same on tiny sizes, on a CPU
    batches: dict[str, int] = field(default_factory=dict)  # backbone -> sequences in a step, if given

    @property
    def device(self) -> torch.device:
        """The device that the cases run on."""
        return torch.device("cpu" if self.smoke else "cuda")

    def leave(self, name: str, facts: Any) -> None:
        """Keep facts for later cases."""
        (self.folder / f"{name}.json").write_text(json.dumps(facts))

    def left(self, name: str) -> Any:
        """The facts that an earlier case left; None if it did not run."""
        file = self.folder / f"{name}.json"
        return json.loads(file.read_text()) if file.exists() else None
