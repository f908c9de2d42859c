"""The results file of a study, shared by its processes: a JSON line for each finished run, and a file lock per run.

A process holds a run's lock while it does the run, so that the run is free again if the process dies.
"""

import contextlib
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

RESULTS = "results.jsonl"
CLAIMS = ".claims"


class Ledger:
    """The finished runs of a study in a folder, by id, and the claims on others."""

    def __init__(self, folder: Path):
        self.file = folder / RESULTS
        self.claims = folder / CLAIMS
        self.claims.mkdir(parents=True, exist_ok=True)

    def records(self) -> dict[str, dict[str, Any]]:
        """All finished runs by id. A last line that was cut short (its process died) is ignored."""
        if not self.file.exists():
            return {}
        lines = self.file.read_text(encoding="utf-8").split("\n")
        records = [json.loads(line) for line in lines[:-1] if line]
        return {record["id"]: record for record in records}

    @contextlib.contextmanager
    def claim(self, run_id: str) -> Iterator[bool]:
        """Context manager: claim a run for the block. Yields False if another process has claimed it."""
        lock = FileLock(self.claims / f"{run_id}.lock", blocking=False)
        try:
            lock.acquire()
        except Timeout:
            yield False
            return
        try:
            yield True
        finally:
            lock.release()

    def append(self, record: dict[str, Any]) -> None:
        """Append a finished run after the last complete line."""
        line = json.dumps(record, allow_nan=False) + "\n"
        with FileLock(self.claims / "results.lock"), open(self.file, "ab+") as file:
            file.seek(0)
            whole = file.read()
            file.truncate(whole.rfind(b"\n") + 1)
            file.write(line.encode())
            file.flush()
            os.fsync(file.fileno())
