"""All GPU checks and measurements in one call of at most 8 minutes: is it right, how fast is it, does data keep up.

    python benchmarks/gpu.py --output_dir outputs/gpu            # on a machine with one card, without a network
    python benchmarks/gpu.py --output_dir outputs/smoke --smoke  # the same on a CPU, with tiny sizes

Each finished case is a line of results.jsonl, and summary.md is rewritten from these lines each time, so that nothing
finished is lost if the call ends early. A case that fails, dies or takes too long is recorded, and the next one runs
in a new process; a case that no longer fits into the time is recorded as skipped. A second call with the same folder
adds to it (`--only speed/1.5B` runs one part), and the later line of a case counts. log.txt has the libraries' output.
"""

import argparse
import contextlib
import importlib
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from gpu_parts.cases import Case
from gpu_parts.packages import missing, unmet, versions
from gpu_parts.summary import brief, summary

START_SECONDS = 120  # for a process to start, with its imports
RESERVE = 5  # seconds kept for the end
QUOTED = 15  # lines of the log that are recorded with a process that died
BAD = ("failed", "wrong", "died", "stopped")


class Results:
    """The lines of results.jsonl, with older ones, and the summary made from them."""

    def __init__(self, folder: Path):
        folder.mkdir(parents=True, exist_ok=True)
        self.folder, file = folder, folder / "results.jsonl"
        lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
        self.records: list[dict[str, Any]] = [json.loads(line) for line in lines]
        self.file = open(file, "a", encoding="utf-8")

    def add(self, **record: Any) -> None:
        """Write a line to the disk, and rewrite the summary."""
        self.records.append(record)
        self.file.write(json.dumps(record) + "\n")
        self.file.flush()
        os.fsync(self.file.fileno())
        written = self.folder / "summary.md.new"
        written.write_text(summary(self.records), encoding="utf-8")
        written.replace(self.folder / "summary.md")


class Worker:
    """A process that runs cases, one at a time."""

    def __init__(self, settings: dict[str, Any], log: Path):
        self.log = log
        here = os.fspath(Path(__file__).parent)
        paths = [here, os.fspath(Path(here).parent), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {
            "PYTHONPATH": os.pathsep.join(path for path in paths if path),
            "PYTHONUNBUFFERED": "1",
            "HF_HUB_OFFLINE": "1",
            "TRANSFORMERS_VERBOSITY": "error",
            "TOKENIZERS_PARALLELISM": "false",
            "CUBLAS_WORKSPACE_CONFIG": ":4096:8",  # torch's default on these cards; setting it allows repeatable runs
        }
        if settings["smoke"]:
            environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "gpu_parts.worker", json.dumps(settings)]
        with open(log, "a") as stderr:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr, text=True, env=environment
            )
        self.ready = False
        self.answers: queue.Queue[dict[str, Any] | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            if line.startswith("@"):
                self.answers.put(json.loads(line[1:]))
        self.answers.put(None)

    def hear(self, seconds: float) -> dict[str, Any]:
        """Wait for the next answer; after `seconds` the process is ended."""
        try:
            answer = self.answers.get(timeout=max(0.0, seconds))
        except queue.Empty:
            self.end()
            return {"status": "stopped", "why": f"not ready after {seconds:.0f} s"}
        if answer is None:
            quoted = self.log.read_text(errors="replace").splitlines()[-QUOTED:]
            return {"status": "died", "why": f"exit code {self.process.wait()}", "traceback": "\n".join(quoted)}
        return answer

    def run(self, case: Case, end: float) -> dict[str, Any]:
        """Run a case until `end` at most, and return its answer."""
        if not self.ready:
            said = self.hear(min(START_SECONDS, end - time.monotonic()))
            if said["status"] != "ready":
                return said
            self.ready = True
        with contextlib.suppress(BrokenPipeError):  # the process has just died, which `hear` reports
            self.process.stdin.write(json.dumps({"function": case.function, "arguments": case.arguments}) + "\n")
            self.process.stdin.flush()
        said = self.hear(min(case.seconds, end - time.monotonic()))
        if said["status"] == "failed":
            self.end()  # a card may be left in a state in which nothing runs
        return said

    @property
    def serves(self) -> bool:
        """Whether the process is alive."""
        return self.process.poll() is None

    def end(self) -> None:
        """Kill the process."""
        self.process.kill()
        self.process.wait()


def run_cases(cases: Iterable[Case], settings: dict[str, Any], results: Results, seconds: float) -> None:
    """Run the cases in turn within `seconds`, starting a new process after each one that fails."""
    end, worker, lacking = time.monotonic() + seconds - RESERVE, None, ""
    for case in cases:
        start = time.monotonic()
        left = end - start
        if lacking or left < case.seconds:
            why = lacking or f"{max(left, 0):.0f} s are left, and it may take {case.seconds:.0f} s"
            said = {"status": "skipped", "why": why}
        else:
            if worker is None or not worker.serves:
                worker = Worker(settings, results.folder / "log.txt")
            said = worker.run(case, end)
        if case.vital and said["status"] != "ok":
            lacking = f"{case.name} did not come off"
        report(results, case, said, time.monotonic() - start, end - time.monotonic())
    if worker is not None:
        worker.end()


def report(results: Results, case: Case, said: dict[str, Any], seconds: float, left: float) -> None:
    """Record the answer to a case, and print it in one line."""
    results.add(case=case.name, seconds=round(seconds, 2), **said)
    print(f"[{max(left, 0):4.0f} s left] {brief(results.records[-1])}", flush=True)


def given_batches(texts: Iterable[str]) -> dict[str, int]:
    """`["124M=64"]` -> `{"124M": 64}`."""
    return {name: int(count) for name, _, count in (text.partition("=") for text in texts)}


def is_in(name: str, part: str) -> bool:
    """Whether the case `name` is `part` or belongs to it."""
    return name == part or name.startswith(f"{part}/")


def main() -> int:
    """Run the cases; returns 1 if any went wrong, else 0."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True)
    parser.add_argument("--smoke", action="store_true", help="tiny sizes, on a CPU")
    parser.add_argument("--minutes", type=float, default=8.0, help="the most that everything may take")
    parser.add_argument("--only", nargs="+", default=[], help="cases of these names, or parts of them: speed/1.5B")
    parser.add_argument("--batches", nargs="+", default=[], help="124M=64 1.5B=4 (else by the card's memory)")
    parser.add_argument("--plan", default="gpu_parts.cases:PLAN", help="module:list of the cases")
    arguments = parser.parse_args()
    start = time.monotonic()
    if lacking := missing():
        raise SystemExit(f"This Python lacks {', '.join(lacking)}: see benchmarks/README.md, On a GPU.")
    module, _, name = arguments.plan.partition(":")
    plan: list[Case] = getattr(importlib.import_module(module), name)
    cases = [case for case in plan if not arguments.only or any(is_in(case.name, part) for part in arguments.only)]
    results = Results(arguments.output_dir)
    before = len(results.records)
    results.add(
        case="setup",
        status="ok",
        seconds=0.0,
        facts={"smoke": arguments.smoke, "versions": versions(), "unmet": unmet()},
    )
    with tempfile.TemporaryDirectory() as folder:
        settings = {"folder": folder, "smoke": arguments.smoke, "batches": given_batches(arguments.batches)}
        run_cases(cases, settings, results, 60 * arguments.minutes - (time.monotonic() - start))
    print(f"\n{(results.folder / 'summary.md').read_text(encoding='utf-8')}")
    return int(any(record["status"] in BAD for record in results.records[before:]))


if __name__ == "__main__":
    sys.exit(main())
