"""One run of a study: training, scoring, and the record of it."""

import gc
import tempfile
import time
from collections.abc import Callable
from typing import Any

import torch
import transformers
from tqdm.auto import tqdm
from transformers import TrainerCallback
from transformers.trainer_callback import PrinterCallback, ProgressCallback

import fpt_adapters
from fpt_adapters import TrainingError
from fpt_adapters.run.training import load_data, prepare
from fpt_adapters.tasks import TaskData

from .plan import Run


class KeepLastData:
    """Loads data as `run.training.load_data` does; runs that follow each other on the same data share it."""

    def __init__(self):
        self.key: str | None = None
        self.data: TaskData | None = None

    def __call__(self, task, data_args, args) -> TaskData:
        """As `run.training.load_data`."""
        key = repr((task, data_args, args.seed, args.max_steps, args.train_batch_size))
        if key != self.key:
            self.key, self.data = None, None  # freed before the next data is read
            self.data = load_data(task, data_args, args)
            self.key = key
        return self.data


class Progress(TrainerCallback):
    """A progress bar for a run, with the last validation score; training stops when that reaches the target."""

    def __init__(self, title: str, metric: str, target: float | None):
        self.title, self.metric, self.target = title, metric, target
        self.bar: tqdm | None = None

    def on_train_begin(self, args, state, control, **kwargs):
        """Open the bar."""
        self.bar = tqdm(total=state.max_steps, desc=self.title, unit="step", dynamic_ncols=True)

    def on_step_end(self, args, state, control, **kwargs):
        """Count a step."""
        self.bar.update(state.global_step - self.bar.n)

    def on_evaluate(self, args, state, control, metrics, **kwargs):
        """Show the score, and stop at the target."""
        score = metrics.get(f"eval_{self.metric}")
        if self.bar is not None and score is not None:
            self.bar.set_postfix_str(f"{self.metric} {100 * score:.1f} %")
        if self.target is not None and score is not None and score >= self.target:
            control.should_training_stop = True

    def on_train_end(self, args, state, control, **kwargs):
        """Close the bar."""
        self.bar.close()


def execute(run: Run, arguments: list[str], load: Callable, title: str) -> dict[str, Any]:
    """Train and score one run; returns its record, with JSON types only.

    The validation score is that of the last step; nothing is chosen on the test split, which is scored once. A
    diverged training is a result too: its record has `status` "diverged" and no scores.
    """
    start = time.perf_counter()
    with tempfile.TemporaryDirectory() as folder:
        prepared = prepare([*arguments, "--output_dir", folder], load)
        trainer = prepared.trainer
        trainer.remove_callback(ProgressCallback)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(Progress(title, run.task.metric, run.task.target))
        record = {
            "id": run.id,
            "model": run.model.name,
            "task": run.task.name,
            "seed": run.seed,
            "learning_rate": run.learning_rate,
            "metric": run.task.metric,
            "flags": dict(run.flags),
            "parameters": sum(row.parameters for row in trainer.model.count_parameters()),
            "trained_parameters": sum(row.parameters for row in trainer.model.count_parameters() if row.trained),
            "floors": floors(run, prepared),
        }
        try:
            trainer.train()
        except TrainingError as error:
            record |= {"status": "diverged", "why": str(error), "steps": trainer.state.global_step}
        else:
            record |= {"status": "finished", "steps": trainer.state.global_step} | scores(run, prepared)
        record["curve"] = curve(trainer.state.log_history, run.task.metric)
    record["seconds"] = round(time.perf_counter() - start, 1)
    record["versions"] = {"fpt_adapters": fpt_adapters.__version__, "transformers": transformers.__version__}
    record["versions"]["torch"] = torch.__version__
    del trainer, prepared
    gc.collect()
    return record


def floors(run: Run, prepared: Any) -> dict[str, float]:
    """The scores that need no learning, on validation and on test."""
    splits = {"validation": prepared.data.validation, "test": prepared.data.test}
    if run.task.floor is not None:
        return dict.fromkeys(splits, run.task.floor)
    return {name: prepared.task.floor(split) for name, split in splits.items()}


def scores(run: Run, prepared: Any) -> dict[str, float]:
    """The run's metric after its last step, on validation and on test."""
    trainer, name = prepared.trainer, run.task.metric
    validation = trainer.evaluate(metric_key_prefix="eval")
    test = trainer.predict(prepared.data.test, metric_key_prefix="test").metrics
    for metrics, prefix in ((validation, "eval"), (test, "test")):
        if f"{prefix}_{name}" not in metrics:
            known = [key.removeprefix(f"{prefix}_") for key in metrics if key.startswith(f"{prefix}_")]
            raise ValueError(f"The task {run.task.name} has no metric {name!r}; it has {', '.join(known)}.")
    return {"validation": validation[f"eval_{name}"], "test": test[f"test_{name}"]}


def curve(history: list[dict[str, float]], metric: str) -> list[list[float]]:
    """The validation scores of a training: [step, score] pairs, one for each evaluated step, ascending."""
    return sorted({row["step"]: row[f"eval_{metric}"] for row in history if f"eval_{metric}" in row}.items())
