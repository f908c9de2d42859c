"""Train and score a frozen pretrained transformer on one of the paper's tasks.

    python examples/run_fpt.py --task_name cifar10 --model_name_or_path openai-community/gpt2 --output_dir out \
        --do_train --do_eval
    accelerate launch examples/run_fpt.py examples/recipes/mnist.yaml --output_dir out

The first argument may be a recipe (YAML or JSON: flags and their values); flags after it win. Each task has flags of
its own: `python examples/run_fpt.py --task_name mnist --help`. Results lie in `<output_dir>/all_results.json`:
`eval_accuracy` (validation split) beside `eval_floor`, the accuracy that needs no learning, and with `--do_predict`
`test_accuracy` and `test_floor`.
"""

if __name__ == "__main__":
    from starting import say_at_once

    say_at_once(__file__)

import json
import shlex
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from run_arguments import (
    CardArguments,
    DataArguments,
    ModelArguments,
    RunArguments,
    mistakes_in_one_line,
    parse,
    parse_group_learning_rates,
)
from torch.utils.data import Dataset
from transformers import AutoConfig, PreTrainedConfig, set_seed
from transformers.utils import CONFIG_NAME, logging

from fpt_adapters import FPTConfig, FPTTrainer
from fpt_adapters.deltas.disk import room_for
from fpt_adapters.hub.download import fetch, saying_whose
from fpt_adapters.tasks import FileArguments, Task, TaskData
from fpt_adapters.tasks.metrics import joined

logger = logging.get_logger(__name__)
SETTLED_FLAGS = (  # what a saved delta says itself
    "backbone_dropout",
    "backbone_init",
    "backbone_init_scheme",
    "backbone_init_seed",
    "backbone_layers",
    "dropout",
    "pooling",
    "positions",
    "train_qk_norms",
    "trainable",
)


@dataclass
class Run:
    """What the arguments ask for, built and checked, before anything has trained."""

    trainer: FPTTrainer
    task: Task
    data: TaskData
    args: RunArguments


def main(arguments: list[str]) -> dict[str, float]:
    """Run what the arguments ask for. Returns the metrics of `all_results.json`."""
    run = prepare(arguments)
    with room_for(run.args.output_dir):
        return train_and_score(run)


def train_and_score(run: Run) -> dict[str, float]:
    """Do what the arguments ask for, with what was prepared. Returns the metrics of `all_results.json`."""
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
        metrics = trainer.evaluate(metric_key_prefix="eval")
        report(trainer, "eval", {**metrics, **floors(trainer, task, "validation", data.validation, "eval")}, results)
    if args.do_predict:
        prediction = trainer.predict(data.test, metric_key_prefix="test")
        report(trainer, "test", {**prediction.metrics, **floors(trainer, task, "test", data.test, "test")}, results)
        if trainer.is_world_process_zero():
            file = Path(args.output_dir) / "test_predictions.npz"
            np.savez_compressed(file, predictions=joined(prediction.predictions), labels=joined(prediction.label_ids))
    if args.do_train:
        trainer.create_model_card()
    if args.push_to_hub:
        trainer.push_to_hub()
    trainer.end()
    return results


def floors(trainer: FPTTrainer, task: Task, split: str, dataset: Dataset, prefix: str) -> dict[str, float]:
    """Scores that need no learning, for the card too: `eval_floor`, and by name where there are several."""
    found = trainer.floors[split] = task.floors(dataset)
    named = {f"{prefix}_floor_{name}": score for name, score in found.items()} if isinstance(found, dict) else {}
    return {f"{prefix}_floor": task.floor(dataset)} | named


def prepare(arguments: list[str], load: Callable[[Task, DataArguments, RunArguments], TaskData] | None = None) -> Run:
    """Read the arguments, load the data (with `load` instead of `load_data`, if given), build model and Trainer."""
    model_args, data_args, card_args, args, task = parse(arguments)
    check_output_dir(args)
    check_streaming(data_args, args)
    set_seed(args.seed)
    task.base = model_args.model_name_or_path
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
    fill_card(trainer, task, model_args, card_args, arguments)
    return Run(trainer, task, data, args)


def tell(text: str, args: RunArguments) -> None:
    """Print what comes next, in the first process of several."""
    if args.process_index == 0:
        print(text, flush=True)


def fill_card(
    trainer: FPTTrainer, task: Task, model_args: ModelArguments, card_args: CardArguments, arguments: list[str]
) -> None:
    """Tell the model card what the Trainer does not know. What a task says of its data is about no other data."""
    card, copy_of = trainer.card, card_args.card_dataset_id
    own = task if task.reads(copy_of) else None  # whose facts are about this data
    card.task_name = card_args.card_task or (own and own.name)
    card.dataset_name = card_args.card_dataset or (own and own.data_source)
    card.dataset_id = (task.hub_dataset if isinstance(task, FileArguments) else None) or copy_of
    card.license = card_args.license
    card.dataset_license = card_args.card_dataset_license or (own and own.data_license)
    card.limits = [*(own.limits if own else ()), *(card_args.card_limits or [])]
    card.command = shown_command(arguments, model_args)
    card.example_text = own and own.example_text
    card.check()


def shown_command(arguments: list[str], model_args: ModelArguments) -> str:
    """The command of this run, which calls a base in a folder by its Hub id, or else by the folder's name.

    The card cuts the absolute paths in it.
    """
    name, flag = model_args.model_name_or_path, "--model_name_or_path="
    if name is not None and Path(name).is_dir():
        shown = model_args.base_model or Path(name).name
        arguments = [{name: shown, flag + name: flag + shown}.get(part, part) for part in arguments]
    return shlex.join(["python", "examples/run_fpt.py", *arguments])


def check_output_dir(args: RunArguments) -> None:
    """Refuse to write into a folder that holds something, unless resuming."""
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
    """Refuse a stream without an end, and flags of streams without one, before anything is read."""
    if data_args.streaming and args.do_train and args.max_steps <= 0:
        raise ValueError("--streaming needs --max_steps: how many examples a stream has is not known before its end.")
    if data_args.shuffle_buffer < 0:
        raise ValueError(
            f"--shuffle_buffer is a number of rows, or 0 for no shuffling; got {data_args.shuffle_buffer}."
        )
    if data_args.label_names_file is not None and not data_args.streaming:
        raise ValueError("--label_names_file is for --streaming: rows that are held are searched for their classes.")


def read_label_names(path: str) -> list[str]:
    """The class names in a text file, one a line. Raises ValueError for an empty line."""
    names = Path(path).read_text(encoding="utf-8").splitlines()
    if not names or not all(names):
        raise ValueError(f"--label_names_file {path!r} has one class name a line, but an empty line came.")
    return names


def load_data(task: Task, data_args: DataArguments, args: RunArguments) -> TaskData:
    """Load the task's splits; tasks that draw fresh examples get as many as the run will see."""
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


def build_model(task: Task, data: TaskData, model_args: ModelArguments):
    """A new model on a backbone, or a saved one where `model_name_or_path` is a delta."""
    hub_kwargs = {"revision": model_args.model_revision, "cache_dir": model_args.cache_dir}
    shared = {
        "dtype": model_args.dtype,
        "attn_implementation": model_args.attn_implementation,
        "quantization_config": model_args.quantization_config,
        "device_map": model_args.device_map,
    }
    source, config = find_backbone(model_args, hub_kwargs)
    if isinstance(config, FPTConfig):
        check_same_task(config, data.config)
        check_no_other_policy(config, model_args)
        base = model_args.base_model_name_or_path
        return task.model_class.from_pretrained(source, base_model_name_or_path=base, **hub_kwargs, **shared)
    return task.model_class.from_backbone(
        source,
        base_model=model_args.base_model,
        **hub_kwargs,
        **shared,
        backbone_init=model_args.backbone_init,
        backbone_init_seed=model_args.backbone_init_seed,
        backbone_init_scheme=model_args.backbone_init_scheme,
        backbone_layers=model_args.backbone_layers,
        backbone_dropout=model_args.backbone_dropout,
        input_dropout=model_args.dropout,
        trainable=model_args.trainable,
        train_qk_norms=model_args.train_qk_norms,
        positions=model_args.positions,
        pooling=model_args.pooling,
        peft_config=model_args.peft_config,
        **data.config,
    )


def find_backbone(
    model_args: ModelArguments, hub_kwargs: dict[str, Any]
) -> tuple[str | PreTrainedConfig, PreTrainedConfig]:
    """What `from_backbone` or `from_pretrained` reads, and the configuration found there."""
    name = model_args.model_name_or_path
    if (name is None) == (model_args.backbone_config is None):
        raise ValueError("Write either --model_name_or_path, a Hub id or a folder, or --backbone_config.")
    if name is None:
        config = read_backbone_config(model_args.backbone_config)
        return config, config
    advice = "Write the folder or the Hub id of a base, or of a saved delta."
    with saying_whose(name, f"--model_name_or_path {name!r}", advice):
        fetch(name, CONFIG_NAME, **hub_kwargs)
        return name, AutoConfig.from_pretrained(name, trust_remote_code=False, **hub_kwargs)


def read_backbone_config(text: str) -> PreTrainedConfig:
    """The configuration of a random backbone out of JSON. Raises ValueError for what transformers does not know."""
    example = '\'{"model_type": "gpt2", "n_layer": 3}\''
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ValueError(f"--backbone_config is JSON such as {example}; got {text!r:.80} ({error}).") from error
    if not isinstance(values, dict) or "model_type" not in values:
        raise ValueError(f"--backbone_config needs a model_type, as in {example}; got {text!r:.80}.")
    return AutoConfig.for_model(values.pop("model_type"), **values)


def check_same_task(config: FPTConfig, wanted: dict) -> None:
    """Refuse a delta that was trained for another input or other labels."""
    for name, value in wanted.items():
        if getattr(config, name) != value:
            raise ValueError(
                f"The delta was trained with {name}={getattr(config, name)!r:.80}, the task has {value!r:.80}."
            )


def check_no_other_policy(config: FPTConfig, model_args: ModelArguments) -> None:
    """Refuse flags that a saved delta has settled otherwise."""
    defaults = ModelArguments(model_name_or_path="")
    if model_args.peft is not None:
        raise ValueError(
            f"--peft {model_args.peft!r} came, but the delta says itself what adapter it has: leave it out."
        )
    for flag in SETTLED_FLAGS:
        given, settled = getattr(model_args, flag), getattr(config, "input_dropout" if flag == "dropout" else flag)
        if given != getattr(defaults, flag) and given != settled:
            raise ValueError(f"--{flag} {given!r} came, but the delta was built with {settled!r}: leave the flag out.")


def report(trainer: FPTTrainer, split: str, metrics: dict[str, float], results: dict[str, float]) -> None:
    """Print metrics and merge them into `all_results.json`."""
    trainer.log_metrics(split, metrics)
    trainer.save_metrics(split, metrics)
    results.update(metrics)


if __name__ == "__main__":
    with mistakes_in_one_line(Path(__file__).name):
        main(sys.argv[1:])
