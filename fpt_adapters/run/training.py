"""`fpt-adapters train`: from flags to a trained delta with its results, pictures and card."""

import shlex
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torch.utils.data import Dataset
from transformers import set_seed
from transformers.utils import logging

from ..deltas.disk import room_for
from ..tasks import FileArguments, Task, TaskData
from ..tasks.metrics import joined
from ..training.trainer import FPTTrainer
from .arguments import CardArguments, DataArguments, ModelArguments, RunArguments
from .model import base_config, build_model
from .parsing import parse, parse_group_learning_rates

logger = logging.get_logger(__name__)
COMMAND, SCRIPT = ("fpt-adapters", "train"), ("python", "examples/run_fpt.py")  # what a card shows


@dataclass
class Run:
    """A run, built from the arguments and checked, before training."""

    trainer: FPTTrainer
    task: Task
    data: TaskData
    args: RunArguments


def main(arguments: list[str], command: Sequence[str] = COMMAND) -> dict[str, float]:
    """Run what the arguments of `command` ask for. Returns the metrics of `all_results.json`."""
    run = prepare(arguments, command=command)
    with room_for(run.args.output_dir):
        return train_and_score(run)


def train_and_score(run: Run) -> dict[str, float]:
    """Train, evaluate and push as the arguments ask. Returns the metrics in `all_results.json`."""
    trainer, task, data, args = run.trainer, run.task, run.data, run.args
    if args.process_index == 0:
        trainer.model.print_trainable_parameters()
    results: dict[str, float] = {}
    if args.do_train:
        checkpoint = args.resume_from_checkpoint
        output = trainer.train(resume_from_checkpoint=True if checkpoint == "last" else checkpoint)
        trainer.save_state()
        report(trainer, "train", output.metrics, results)
    if args.save_backbone and trainer.is_world_process_zero():
        trainer.model.save_backbone(args.save_backbone)
    if args.do_eval:
        beside = floors(trainer, task, "validation", data.validation, "eval")
        report(trainer, "eval", {**trainer.evaluate(metric_key_prefix="eval"), **beside}, results)
    if args.do_predict:
        beside = floors(trainer, task, "test", data.test, "test")
        report(trainer, "test", {**_predict(trainer, task, data.test), **beside}, results)
    if args.do_train:
        trainer.create_model_card()
    if args.push_to_hub:
        trainer.push_to_hub()
    trainer.end()
    return results


def _predict(trainer: FPTTrainer, task: Task, dataset: Dataset) -> dict[str, float]:
    """Score the test split, and save its predictions, unless they are too many to be held."""
    if task.scores_batches:
        return trainer.evaluate(dataset, metric_key_prefix="test")
    prediction = trainer.predict(dataset, metric_key_prefix="test")
    if trainer.is_world_process_zero():
        file = Path(trainer.args.output_dir) / "test_predictions.npz"
        np.savez_compressed(file, predictions=joined(prediction.predictions), labels=joined(prediction.label_ids))
    return prediction.metrics


def floors(trainer: FPTTrainer, task: Task, split: str, dataset: Dataset, prefix: str) -> dict[str, float]:
    """Scores that need no learning, for the card too: `eval_floor`, and by name where there are several."""
    found = trainer.floors[split] = task.floors(dataset)
    named = {f"{prefix}_floor_{name}": score for name, score in found.items()} if isinstance(found, dict) else {}
    return {f"{prefix}_floor": task.floor(dataset)} | named


def prepare(
    arguments: list[str],
    load: Callable[[Task, DataArguments, RunArguments], TaskData] | None = None,
    command: Sequence[str] = COMMAND,
) -> Run:
    """Read the arguments, load the data (with `load` instead of `load_data`, if given), build model and Trainer."""
    model_args, data_args, card_args, args, task = parse(arguments)
    check_output_dir(args)
    check_streaming(data_args, args)
    set_seed(args.seed)
    task.base = model_args.model_name_or_path
    task.base_config = base_config(model_args)
    task.base_settings = {"revision": model_args.model_revision, "cache_dir": model_args.cache_dir}
    tell(f"reading the data of {task.name} ...", args)
    with args.main_process_first(desc="reading the data"):
        data = (load or load_data)(task, data_args, args)
    for line in data.found:
        tell(f"  {line}", args)
    tell(f"loading {model_args.model_name_or_path or 'a backbone of the given configuration'} ...", args)
    model = build_model(task, data, model_args)
    model.with_code = card_args.push_code
    args.remove_unused_columns = False  # the splits make their own columns
    args.include_for_metrics = list(task.include_for_metrics)
    args.batch_eval_metrics = args.batch_eval_metrics or task.scores_batches
    trainer = FPTTrainer(
        model,
        args,
        train_dataset=data.train if args.do_train else None,
        eval_dataset=data.validation,
        data_collator=task.collate,
        processing_class=task.processor(),
        compute_metrics=task.compute_metrics,
        preprocess_logits_for_metrics=task.preprocess_logits_for_metrics,
        cache_features=args.cache_features,
        group_learning_rates=parse_group_learning_rates(args.group_learning_rates),
    )
    fill_card(trainer, task, model_args, card_args, [*command, *arguments])
    return Run(trainer, task, data, args)


def tell(text: str, args: RunArguments) -> None:
    """Print progress, in the first process only."""
    if args.process_index == 0:
        print(text, flush=True)


def fill_card(
    trainer: FPTTrainer, task: Task, model_args: ModelArguments, card_args: CardArguments, command: list[str]
) -> None:
    """Fill in what the Trainer does not know about. The task's own facts are used only for its own data."""
    card, copy_of = trainer.card, card_args.card_dataset_id
    own = task if task.reads(copy_of) else None  # whose facts are about this data
    card.task_name = card_args.card_task or (task.name if own or task.is_generic else None)
    card.dataset_name = card_args.card_dataset or (own and own.data_source)
    card.dataset_id = (task.hub_dataset if isinstance(task, FileArguments) else None) or copy_of
    card.license = card_args.license
    card.dataset_license = card_args.card_dataset_license or (own and own.data_license)
    card.limits = [*(own.limits if own else ()), *(card_args.card_limits or [])]
    card.command = shown_command(command, model_args)
    card.example_text = own and own.example_text
    card.check()


def shown_command(command: list[str], model_args: ModelArguments) -> str:
    """The command of this run for the card, with a base's Hub id, or else the folder's name, in place of its path.

    The card cuts other absolute paths.
    """
    name, flag = model_args.model_name_or_path, "--model_name_or_path="
    if name is not None and Path(name).is_dir():
        shown = model_args.base_model or Path(name).name
        command = [{name: shown, flag + name: flag + shown}.get(part, part) for part in command]
    return shlex.join(command)


def check_output_dir(args: RunArguments) -> None:
    """Raise ValueError for an output folder that is not empty, unless resuming, and if there is nothing to do."""
    folder = Path(args.output_dir)
    if not (args.do_train or args.do_eval or args.do_predict):
        raise ValueError("Nothing to do: write --do_train, --do_eval or --do_predict.")
    if args.do_train and not args.resume_from_checkpoint and folder.is_dir() and any(folder.iterdir()):
        raise ValueError(
            f"--output_dir {args.output_dir!r} is not empty, and its results would be overwritten: name another "
            "folder, or write --resume_from_checkpoint last."
        )
    if args.save_backbone and Path(args.save_backbone).is_dir() and any(Path(args.save_backbone).iterdir()):
        raise ValueError(f"--save_backbone {args.save_backbone!r} is not empty: name a new folder.")


def check_streaming(data_args: DataArguments, args: RunArguments) -> None:
    """Raise ValueError for a stream without --max_steps, and for streaming flags without --streaming."""
    if data_args.streaming and args.do_train and args.max_steps <= 0:
        raise ValueError("--streaming needs --max_steps: how many examples a stream has is not known before its end.")
    if data_args.shuffle_buffer < 0:
        raise ValueError(
            f"--shuffle_buffer is a number of rows, or 0 for no shuffling; got {data_args.shuffle_buffer}."
        )
    if data_args.label_names_file is not None and not data_args.streaming:
        raise ValueError("--label_names_file is for --streaming: rows that are held are searched for their classes.")


def read_label_names(path: str) -> list[str]:
    """Read class names from a text file, one per line. Raises ValueError for an empty line."""
    names = Path(path).read_text(encoding="utf-8").splitlines()
    if not names or not all(names):
        raise ValueError(f"--label_names_file {path!r} has one class name a line, but an empty line came.")
    return names


def load_data(task: Task, data_args: DataArguments, args: RunArguments) -> TaskData:
    """Load the task's splits; tasks that draw fresh examples draw as many as the run needs."""
    limits = {
        "train": data_args.max_train_samples,
        "validation": data_args.max_eval_samples,
        "test": data_args.max_predict_samples,
    }
    limits = {split: limit for split, limit in limits.items() if limit is not None}
    if data_args.streaming:
        names = None if data_args.label_names_file is None else read_label_names(data_args.label_names_file)
        return task.stream(args.seed, limits, buffer_size=data_args.shuffle_buffer or None, label_names=names)
    if task.draws_fresh_examples and args.max_steps > 0:
        task.train_examples = (
            args.max_steps * args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        )
    return task.load(args.seed, limits)


def report(trainer: FPTTrainer, split: str, metrics: dict[str, float], results: dict[str, float]) -> None:
    """Print metrics and add them to `results` and `all_results.json`."""
    trainer.log_metrics(split, metrics)
    trainer.save_metrics(split, metrics)
    results.update(metrics)
