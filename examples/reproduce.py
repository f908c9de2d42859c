"""Run one of the studies that repeat the paper's comparisons, and write its tables and pictures.

    python examples/reproduce.py examples/studies/table3.small.yaml --set minilm=FOLDER

A study (YAML) is models x tasks x seeds x learning rates; each combination is one run of `run_fpt.py`. A finished run
is a line of `<output_dir>/results.jsonl`: after a stop, the same command continues there. Several processes may work
on one study, each started with the same command: no run is done twice. At the end (and with `--report`, at any time)
`<output_dir>/README.md` has the tables, beside its pictures. `--plan` lists the runs and their flags.
"""

if __name__ == "__main__":
    from starting import say_at_once

    say_at_once(__file__)

import argparse
import collections
import os
import shlex
import statistics
import sys
import time
from collections.abc import Mapping
from pathlib import Path

from studying.ledger import Ledger
from studying.plan import Run, Study, read_study
from studying.report import write_report
from studying.running import KeepLastData, execute
from transformers.utils import logging

from fpt_adapters.run.model import find_backbone
from fpt_adapters.run.parsing import mistakes_in_one_line, parse


def main(arguments: list[str]) -> None:
    """Do the remaining runs of a study, then write its report."""
    options = read_options(arguments)
    study = read_study(options.study, dict(options.set))
    if options.plan:
        for run in study.runs:
            print(f"{run.id}  {describe(run)}: {shlex.join(run.arguments(study.variables))}")
        return
    folder = options.output_dir or Path("outputs", "studies", options.study.stem)
    folder.mkdir(parents=True, exist_ok=True)
    ledger = Ledger(folder)
    if not options.report:
        check_flags(study)
        work_off(study, ledger)
    command = shlex.join(["python", "examples/reproduce.py", shown(options.study), *shown_settings(options.set)])
    records = ledger.records()
    left = sum(run.id not in records for run in study.runs)
    print(
        f"{len(study.runs) - left} of {len(study.runs)} runs finished: {write_report(study, records, folder, command)}"
    )


def read_options(arguments: list[str]) -> argparse.Namespace:
    """The command's own flags."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("study", type=Path, help="a study file, see examples/studies/")
    parser.add_argument(
        "--set", type=setting, action="append", default=[], metavar="NAME=VALUE", help="a variable of the catalogue"
    )
    parser.add_argument("--output_dir", type=Path, help="results, tables, pictures (default: outputs/studies/<study>)")
    parser.add_argument("--plan", action="store_true", help="only list the runs")
    parser.add_argument("--report", action="store_true", help="run nothing; report what has finished")
    return parser.parse_args(arguments)


def setting(text: str) -> tuple[str, str]:
    """`"name=value"` -> `("name", "value")`."""
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"takes NAME=VALUE, got {text!r}")
    return name, value


def check_flags(study: Study) -> None:
    """Read the flags and the backbone's configuration once for each model and task, before anything trains."""
    seen = set()
    for run in study.runs:
        if (run.model.name, run.task.name) in seen:
            continue
        seen.add((run.model.name, run.task.name))
        try:
            model_args, *_ = parse([*run.arguments(study.variables), "--output_dir", os.devnull])
            find_backbone(model_args, {"revision": model_args.model_revision, "cache_dir": model_args.cache_dir})
        except (ValueError, TypeError, OSError) as error:
            raise ValueError(f"{run.model.name} on {run.task.name}: {error}") from error


def work_off(study: Study, ledger: Ledger) -> None:
    """Do the runs that are not finished and not claimed by another process."""
    load, done_here = KeepLastData(), 0
    while done := one_pass(study, ledger, load):  # once more for runs of a process that has died
        done_here += done
    elsewhere = sum(run.id not in ledger.records() for run in study.runs)
    if elsewhere:
        print(f"{done_here} runs done here; the last {elsewhere} are being done by other processes.")


def one_pass(study: Study, ledger: Ledger, load: KeepLastData) -> int:
    """Go through the study once. Returns how many runs this process did."""
    done = 0
    for number, run in enumerate(study.runs, start=1):
        if run.id in ledger.records():
            continue
        with ledger.claim(run.id) as claimed:
            if not claimed or run.id in ledger.records():
                continue
            title = f"[{number}/{len(study.runs)}] {describe(run)}{time_left(study, ledger)}"
            ledger.append(execute(run, run.arguments(study.variables), load, title))
            done += 1
    return done


def describe(run: Run) -> str:
    """A run in one line."""
    return f"{run.model.name} on {run.task.name}, seed {run.seed}, lr {run.learning_rate:g}"


def time_left(study: Study, ledger: Ledger) -> str:
    """The time that one process needs for the remaining runs, estimated from finished ones of the same kind."""
    records = ledger.records()
    if not records:
        return ""
    known = collections.defaultdict(list)
    for record in records.values():
        known[record["model"], record["task"]].append(record["seconds"])
    typical = statistics.fmean(record["seconds"] for record in records.values())
    left = [run for run in study.runs if run.id not in records]
    seconds = sum(statistics.fmean(known.get((run.model.name, run.task.name), [typical])) for run in left)
    return f"; {len(left)} runs left, about {time.strftime('%H:%M:%S', time.gmtime(seconds))}"


def shown(path: Path) -> str:
    """A study's path for the report, without folders of this machine."""
    return path.name if path.is_absolute() else path.as_posix()


def shown_settings(settings: Mapping[str, str] | list[tuple[str, str]]) -> list[str]:
    """The `--set` flags for the report, without folders of this machine."""
    return [part for name, value in settings for part in ("--set", f"{name}={Path(value).name.upper()}")]


if __name__ == "__main__":
    logging.set_verbosity_error()
    with mistakes_in_one_line(Path(__file__).name):
        main(sys.argv[1:])
