"""Faults and hostile files: five long tests, and the counts of each in one table.

    python benchmarks/faults.py

Runs killed at random moments and resumed, transfers with wrong bits, loads during writes, several writers, mutated
deltas: tests that `make test-slow` runs too. Linux; an hour on two cores that also do other work.
"""

import argparse
import os
import subprocess
import sys
import tempfile
import xml.etree.ElementTree
from pathlib import Path

ROOT = Path(__file__).parents[1]
TESTS = {
    "runs killed at random moments, resumed by themselves": (
        "training/test_trainer_users.py::test_killed_runs_go_on_to_the_same_weights"
    ),
    "two processes pull one delta, a wrong bit in every 10th transfer": (
        "hub/test_hub_pull.py::test_two_processes_pull_while_every_tenth_transfer_has_a_wrong_bit"
    ),
    "loads beside a writer": "deltas/test_delta.py::test_a_load_beside_a_writer_is_one_version_whole",
    "several processes save into one folder": "deltas/test_delta.py::test_several_processes_save_into_one_folder",
    "mutated deltas, configurations and processors": "rules/test_mutations.py::test_no_mutation_gives_a_wrong_model",
}


def run(test: str, report: Path) -> None:
    """Run the long form of a test, and write pytest's report of it."""
    options = ["-m", "slow", "-q", "-o", "junit_family=xunit1", f"--junit-xml={report}"]  # this family has the counts
    command = [sys.executable, "-m", "pytest", f"tests/{test}", *options]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1", "PYTHONPATH": os.fspath(ROOT)}
    subprocess.run(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL, check=False)


def rows(what: str, report: Path) -> list[str]:
    """A table row for each case in a report: the test, how it ended, the counts, the seconds."""
    cases = xml.etree.ElementTree.parse(report).iter("testcase")
    lines = []
    for case in cases:
        failed = case.find("failure") is not None or case.find("error") is not None
        counts = [one.get("value") for one in case.iter("property") if one.get("name") == "counts"]
        ending = "FAILED" if failed else "passed"
        lines.append(f"| {what} | {ending} | {' '.join(counts)} | {float(case.get('time')):.0f} |")
    return lines


def main() -> None:
    """Run the tests in turn and print each line as soon as it is known."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="run only tests whose name has this in it")
    arguments = parser.parse_args()
    print("| test | ending | counts | s |\n|---|---|---|---|", flush=True)
    with tempfile.TemporaryDirectory() as folder:
        for what, test in TESTS.items():
            if arguments.only in what:
                run(test, Path(folder) / "report.xml")
                print("\n".join(rows(what, Path(folder) / "report.xml")), flush=True)


if __name__ == "__main__":
    main()
