"""Data of one's own: the frozen model beside what one would use otherwise, on text, sound, series, tables, images.

    pip install aeon plotnine    # their data sets, and the methods of aeon that are compared
    python benchmarks/own_data.py --model_name_or_path FOLDER_OF_MINILM --output_dir benchmarks/own_data \
        --banking77 FOLDER --sst2 FOLDER --spoken_digits FOLDER --cifar10 FOLDER

A folder holds train.parquet, test.parquet and, it may be, validation.parquet. `--only GunPoint wine` runs these.
Validation rows choose each contestant's settings with the first seed; then it is trained with every seed (of small
data sets on the validation rows, too) and scored on the test rows, which choose nothing. A finished run is a line of
NAME.jsonl; a second call goes on after the last. `--report` only writes README.md and its picture from these lines.
"""

import argparse
import json
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
from own_data_parts.contestants import CONTESTANTS, Contestant
from own_data_parts.data import FOLDERS, NAMES, Data, load
from own_data_parts.report import write_report
from tqdm import tqdm
from transformers.utils import logging

from fpt_adapters.estimators.kinds import take

CHOOSING, TESTING = "choose", "test"


class Ledger:
    """The finished runs of a data set, a JSON line each."""

    def __init__(self, file: Path):
        self.file = file
        self.records = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []

    def find(self, **fields: Any) -> dict[str, Any] | None:
        """The record with these fields, if that run has finished."""
        return next((one for one in self.records if fields.items() <= one.items()), None)

    def add(self, record: dict[str, Any]) -> None:
        """Write a finished run."""
        self.records.append(record)
        with open(self.file, "a") as file:
            file.write(json.dumps(record, allow_nan=False) + "\n")


class Runs:
    """The runs of one data set."""

    def __init__(self, data: Data, base: str, ledger: Ledger, seeds: int):
        self.data, self.base, self.ledger, self.seeds = data, base, ledger, seeds

    def contest(self, name: str, contestant: Contestant) -> None:
        """Choose a contestant's settings by the validation rows and the first seed, then test it with every seed."""
        data = self.data
        chosen = [self._recorded(CHOOSING, name, contestant, settings, 0) for settings in contestant.settings]
        best = max(chosen, key=lambda record: record["validation"])
        for seed in range(self.seeds if contestant.seeded or data.shots else 1):
            if data.refit or seed:
                self._recorded(TESTING, name, contestant, best["settings"], seed, best["validation"])
            elif self.ledger.find(stage=TESTING, contestant=name, seed=0) is None:
                self.ledger.add(best | {"stage": TESTING})

    def _recorded(
        self, stage: str, name: str, contestant: Contestant, settings: dict[str, Any], seed: int, *validation: float
    ) -> dict[str, Any]:
        """The record of a run, which is done if it was not; its validation score, if it is not given."""
        known = {"stage": stage, "contestant": name, "settings": settings, "seed": seed}
        record = self.ledger.find(**known)
        if record is None:
            data = self.data
            fold = np.arange(len(data.y)) if data.refit and stage == TESTING else data.fold[0]
            estimator, facts = self._trained(contestant, settings, seed, data.rows(fold, seed))
            held = data.fold[1]
            scores = validation or [data.score(estimator.predict(take(data.X, held)), data.y[held])]
            test = data.score(estimator.predict(data.test_X), data.test_y)
            record = known | {"validation": scores[0], "test": test} | facts
            self.ledger.add(record)
        return record

    def _trained(
        self, contestant: Contestant, settings: dict[str, Any], seed: int, rows: np.ndarray
    ) -> tuple[Any, dict[str, Any]]:
        """An estimator trained on rows, and facts: seconds of the training, what trained."""
        estimator = contestant.make(self.base, self.data.numbers, seed, **settings)
        start = time.perf_counter()
        estimator.fit(take(self.data.X, rows), self.data.y[rows])
        facts = {"seconds": time.perf_counter() - start}
        if not contestant.plain:
            parameters = list(estimator.model_.parameters())
            facts["trained"] = sum(one.numel() for one in parameters if one.requires_grad)
            facts["parameters"] = sum(one.numel() for one in parameters)
        return estimator, facts


def contests(names: list[str], arguments: argparse.Namespace) -> Iterator[str]:
    """Run the contests of the named data sets; yields what begins."""
    folders = {name: getattr(arguments, name) for name in FOLDERS}
    for name in names:
        data = load(name, folders)
        ledger = Ledger(arguments.output_dir / f"{name}.jsonl")
        if ledger.find(stage="data") is None:
            ledger.add({"stage": "data"} | facts_of(data))
        runs = Runs(data, arguments.model_name_or_path, ledger, arguments.seeds)
        for contestant in CONTESTANTS[name]:
            yield f"{data.name}: {contestant}"
            runs.contest(contestant, CONTESTANTS[name][contestant])


def facts_of(data: Data) -> dict[str, Any]:
    """What the page says of a data set."""
    trained = len(data.y) if data.refit else len(data.rows(data.fold[0], 0))
    rows = {"train": trained, "validation": len(data.fold[1]), "refit": data.refit, "test": len(data.test_y)}
    return {"title": data.name, "metric": data.metric, "floor": data.floor()} | rows


def main() -> None:
    """Run the contests, and write the page."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model_name_or_path", help="the pretrained backbone: a Hub id or a folder")
    parser.add_argument("--output_dir", type=Path, default=Path(__file__).parent / "own_data")
    parser.add_argument("--only", nargs="+", choices=NAMES, default=NAMES, metavar="NAME", help=", ".join(NAMES))
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--report", action="store_true", help="run nothing, only write the page")
    for name in FOLDERS:
        parser.add_argument(f"--{name}", type=Path, help="folder of its parquet files")
    arguments = parser.parse_args()
    if not arguments.report:
        if arguments.model_name_or_path is None:
            parser.error("--model_name_or_path is needed: a Hub id or a folder.")
        warnings.filterwarnings("ignore", category=FutureWarning)
        datasets.disable_progress_bars()
        logging.set_verbosity_error()
        logging.disable_progress_bar()
        arguments.output_dir.mkdir(parents=True, exist_ok=True)
        count = sum(len(CONTESTANTS[name]) for name in arguments.only)
        progress = tqdm(contests(arguments.only, arguments), total=count)
        for what in progress:
            progress.set_description(what)
    write_report(arguments.output_dir, NAMES)


if __name__ == "__main__":
    main()
