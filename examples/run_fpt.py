"""Train and score a frozen pretrained transformer on one of the paper's tasks.

    python examples/run_fpt.py --task_name cifar10 --model_name_or_path openai-community/gpt2 --output_dir out \
        --do_train --do_eval
    accelerate launch examples/run_fpt.py examples/recipes/mnist.yaml --output_dir out

The first argument may be a recipe (YAML or JSON: flags and their values); flags after it win. Each task has flags of
its own: `python examples/run_fpt.py --task_name mnist --help`. Results lie in `<output_dir>/all_results.json`:
`eval_accuracy` (validation split) beside `eval_floor`, the accuracy that needs no learning, and with `--do_predict`
`test_accuracy` and `test_floor`.
"""

import difflib
import json
import os
import shlex
import sys
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig, HfArgumentParser, TrainingArguments, set_seed
from transformers.utils import logging

from fpt_adapters import PAPER_GROUPS, PARAMETER_GROUPS, FPTConfig, FPTTrainer, TrainingError
from fpt_adapters.tasks import TASKS, FileArguments, Task, TaskData

logger = logging.get_logger(__name__)
SETTLED_FLAGS = (  # what a saved delta says itself
    "backbone_dropout",
    "backbone_init",
    "backbone_init_scheme",
    "backbone_init_seed",
    "dropout",
    "pooling",
    "positions",
    "train_qk_norms",
    "trainable",
)
SHORT_USAGE = (
    "run_fpt.py [recipe.yaml] --task_name TASK --model_name_or_path MODEL --output_dir DIR [flags]; see --help"
)


@dataclass
class ModelArguments:
    """The backbone, and what trains."""

    model_name_or_path: str = field(metadata={"help": "Backbone, or a saved delta: Hub id or folder."})
    model_revision: str | None = field(default=None, metadata={"help": "Its branch, tag or commit."})
    base_model: str | None = field(
        default=None, metadata={"help": "Hub id that a local backbone folder is a copy of; written into the config."}
    )
    base_model_name_or_path: str | None = field(
        default=None, metadata={"help": "Where the base is, when model_name_or_path is a delta."}
    )
    cache_dir: str | None = field(default=None, metadata={"help": "The Hub's cache folder."})
    backbone_init: str = field(default="pretrained", metadata={"help": "pretrained, random or statistics."})
    backbone_init_seed: int = field(default=0, metadata={"help": "Seed of random and statistics weights."})
    backbone_init_scheme: str | None = field(
        default=None, metadata={"help": "GPT-2's random scheme: gpt2-scaled-residual or gpt2-flat (the paper's)."}
    )
    trainable: list[str] = field(
        default_factory=lambda: list(PAPER_GROUPS),
        metadata={"help": f"Groups that train, out of {', '.join(PARAMETER_GROUPS)}."},
    )
    train_qk_norms: bool = field(default=False, metadata={"help": "Whether query and key norms count as norms."})
    positions: str = field(default="auto", metadata={"help": "auto, backbone, new or none."})
    pooling: str = field(default="auto", metadata={"help": "auto, last, mean or first."})
    dropout: float = field(default=0.1, metadata={"help": "Dropout after the input projection."})
    backbone_dropout: float | None = field(
        default=None, metadata={"help": "Every dropout inside the backbone; default: as its config says."}
    )
    dtype: str | None = field(default=None, metadata={"help": "dtype of the frozen weights; default: as stored."})
    attn_implementation: str | None = field(default=None, metadata={"help": "eager, sdpa, flash_attention_2 ..."})


@dataclass
class DataArguments:
    """The task, and how much of its data."""

    task_name: str = field(metadata={"help": f"One of {', '.join(TASKS)}."})
    max_train_samples: int | None = field(default=None, metadata={"help": "Keep this many training examples."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Keep this many validation examples."})
    max_predict_samples: int | None = field(default=None, metadata={"help": "Keep this many test examples."})


@dataclass
class CardArguments:
    """What the model card says that the run cannot know."""

    license: str | None = field(default=None, metadata={"help": "Licence of the delta: a Hub identifier, as mit."})
    card_dataset: str | None = field(default=None, metadata={"help": "What the data is, in a line."})
    card_dataset_license: str | None = field(default=None, metadata={"help": "The data's licence."})
    card_limits: list[str] | None = field(default=None, metadata={"help": "Sentences: what it is not good for."})
    push_code: bool = field(
        default=False, metadata={"help": "Push the library's code too, for machines with transformers alone."}
    )


@dataclass
class RunArguments(TrainingArguments):
    """transformers' TrainingArguments with the paper's optimiser settings, and learning rates by group."""

    output_dir: str | None = field(default=None, metadata={"help": "A new folder for results and checkpoints."})
    learning_rate: float = field(default=1e-3, metadata={"help": "Learning rate."})
    lr_scheduler_type: str = field(default="constant", metadata={"help": "The paper uses no schedule."})
    logging_steps: float = field(default=50, metadata={"help": "Steps between two logged losses."})
    report_to: str | None = field(default="none", metadata={"help": "Where to report to besides the terminal."})
    group_learning_rates: list[str] | None = field(
        default=None, metadata={"help": "Learning rates of single groups, as norm=1e-3 input=1e-4."}
    )

    def __post_init__(self):
        if self.output_dir is None:
            raise ValueError("--output_dir is needed: a new folder for results and checkpoints.")
        if not torch.accelerator.is_available():  # else bf16 is refused, and pinned memory warned of
            self.use_cpu, self.dataloader_pin_memory = True, False
        super().__post_init__()


def main(arguments: list[str]) -> dict[str, float]:
    """Run what the arguments ask for. Returns the metrics of `all_results.json`."""
    model_args, data_args, card_args, args, task = parse(arguments)
    check_output_dir(args)
    set_seed(args.seed)
    with args.main_process_first(desc="reading the data"):
        data = load_data(task, data_args, args)
    model = build_model(task, data, model_args)
    model.with_code = card_args.push_code
    if args.process_index == 0:
        model.print_trainable_parameters()
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
        group_learning_rates=parse_group_learning_rates(args.group_learning_rates),
    )
    fill_card(trainer, task, model_args, card_args, arguments)
    results: dict[str, float] = {}
    if args.do_train:
        checkpoint = args.resume_from_checkpoint
        output = trainer.train(resume_from_checkpoint=True if checkpoint == "last" else checkpoint)
        trainer.save_model(_internal_call=True)  # which pushes nothing: the push below has the results too
        trainer.save_state()
        report(trainer, "train", output.metrics, results)
    if args.do_eval:
        floor = trainer.floors["validation"] = task.floor(data.validation)
        metrics = trainer.evaluate(metric_key_prefix="eval")
        report(trainer, "eval", {**metrics, "eval_floor": floor}, results)
    if args.do_predict:
        floor = trainer.floors["test"] = task.floor(data.test)
        prediction = trainer.predict(data.test, metric_key_prefix="test")
        report(trainer, "test", {**prediction.metrics, "test_floor": floor}, results)
        if trainer.is_world_process_zero():
            file = Path(args.output_dir) / "test_predictions.npz"
            np.savez_compressed(file, predictions=prediction.predictions, labels=prediction.label_ids)
    if args.do_train:
        trainer.create_model_card()
    if args.push_to_hub:
        trainer.push_to_hub()
    trainer.accelerator.end_training()  # gloo's threads, where they outlive Python, abort a finished process
    return results


def parse(arguments: list[str]) -> tuple[ModelArguments, DataArguments, CardArguments, RunArguments, Task]:
    """Read a recipe and flags. The task's own flags are known once its name is."""
    recipe, flags = {}, list(arguments)
    if flags and flags[0].endswith((".yaml", ".yml", ".json")):
        recipe = read_recipe(flags.pop(0))
    name_parser = HfArgumentParser(DataArguments, add_help=False, usage=SHORT_USAGE, allow_abbrev=False)
    set_recipe(name_parser, {key: value for key, value in recipe.items() if key == "task_name"})
    if "task_name" not in recipe and not any(f.split("=")[0] == "--task_name" for f in flags):
        if "--help" not in flags and "-h" not in flags:
            raise ValueError(f"--task_name is needed: one of {', '.join(TASKS)}.")
        task_class = None
    else:
        task_name = name_parser.parse_known_args(flags)[0].task_name
        if task_name not in TASKS:
            raise ValueError(f"--task_name is one of {', '.join(TASKS)}; got {task_name!r}.")
        task_class = TASKS[task_name]
    classes = [ModelArguments, DataArguments, CardArguments, RunArguments, *([task_class] if task_class else [])]
    parser = HfArgumentParser(classes, description=__doc__.splitlines()[0], usage=SHORT_USAGE, allow_abbrev=False)
    set_recipe(parser, recipe)
    _, unknown = parser.parse_known_args(flags)
    if unknown:
        raise ValueError(unknown_name(unknown[0], [s for a in parser._actions for s in a.option_strings]))
    model_args, data_args, card_args, args, task = parser.parse_args_into_dataclasses(flags)
    return model_args, data_args, card_args, args, task


def read_recipe(path: str) -> dict:
    """A recipe file's flags and values. Raises ValueError for what is no flat mapping."""
    if not os.path.isfile(path):
        raise ValueError(f"The recipe {path!r} is not there.")
    with open(path, encoding="utf-8") as file:
        try:
            recipe = json.load(file) if path.endswith(".json") else yaml.safe_load(file)
        except (ValueError, yaml.YAMLError) as error:
            raise ValueError(f"The recipe {path!r} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(recipe, dict):
        raise ValueError(f"The recipe {path!r} holds flags and their values (task_name: mnist); got {recipe!r:.40}.")
    return recipe


def set_recipe(parser: HfArgumentParser, recipe: dict) -> None:
    """Make a recipe's values the parser's defaults, converted as flags would be."""
    actions = {action.dest: action for action in parser._actions}
    for name, value in recipe.items():
        if name not in actions:
            raise ValueError(unknown_name(name, list(actions)))
        action = actions[name]
        action.required = False
        if value is not None and action.type is not None:
            many = isinstance(value, list)
            if many != (action.nargs in ("+", "*")):
                raise ValueError(f"The recipe's {name} takes {'one value' if many else 'a list'}; got {value!r}.")
            try:
                value = [action.type(v) for v in value] if many else action.type(value)
            except (ValueError, TypeError) as error:
                raise ValueError(f"The recipe's {name} cannot be {value!r}: {error}") from error
        action.default = value


def unknown_name(name: str, known: list[str]) -> str:
    """The message for a flag or recipe key that does not exist."""
    near = difflib.get_close_matches(name.split("=")[0], known, n=3)
    hint = f" Did you mean {' or '.join(near)}?" if near else ""
    return f"There is no flag {name!r} for this task.{hint} See --task_name TASK --help."


def parse_group_learning_rates(items: list[str] | None) -> dict[str, float]:
    """`["norm=1e-3"]` -> `{"norm": 1e-3}`."""
    rates = {}
    for item in items or []:
        group, _, rate = item.partition("=")
        try:
            rates[group] = float(rate)
        except ValueError as error:
            raise ValueError(f"group_learning_rates takes GROUP=RATE such as norm=1e-3; got {item!r}.") from error
    return rates


def fill_card(
    trainer: FPTTrainer, task: Task, model_args: ModelArguments, card_args: CardArguments, arguments: list[str]
) -> None:
    """Tell the model card what the Trainer does not know."""
    card = trainer.card
    card.task_name = task.name
    card.dataset_name = card_args.card_dataset or task.data_source
    if isinstance(task, FileArguments) and task.train_file is None:
        card.dataset_id = task.dataset_name
    card.license, card.dataset_license = card_args.license, card_args.card_dataset_license or task.data_license
    card.limits = [*task.limits, *(card_args.card_limits or [])]
    card.command = shown_command(arguments, model_args)
    card.example_text = task.example_text
    card.check()


def shown_command(arguments: list[str], model_args: ModelArguments) -> str:
    """The command of this run without the folders of this machine: a base by its Hub id, a file by its name."""
    shown = {model_args.model_name_or_path: model_args.base_model or Path(model_args.model_name_or_path).name}
    parts = [shown.get(part, Path(part).name if os.path.isabs(part) else part) for part in arguments]
    return shlex.join(["python", "examples/run_fpt.py", *parts])


def check_output_dir(args: RunArguments) -> None:
    """Refuse to train into a folder that holds something, unless resuming."""
    folder = Path(args.output_dir)
    if not (args.do_train or args.do_eval or args.do_predict):
        raise ValueError("Nothing to do: write --do_train, --do_eval or --do_predict.")
    if args.do_train and not args.resume_from_checkpoint and folder.is_dir() and any(folder.iterdir()):
        raise ValueError(
            f"--output_dir {args.output_dir!r} is not empty, and its results would be overwritten: name another "
            "folder, or write --resume_from_checkpoint last."
        )


def load_data(task: Task, data_args: DataArguments, args: RunArguments) -> TaskData:
    """Load the task's splits; tasks that draw fresh examples get as many as the run will see."""
    limits = {
        "train": data_args.max_train_samples,
        "validation": data_args.max_eval_samples,
        "test": data_args.max_predict_samples,
    }
    if task.draws_fresh_examples and args.max_steps > 0:
        task.train_examples = (
            args.max_steps * args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        )
    return task.load(args.seed, {split: limit for split, limit in limits.items() if limit is not None})


def build_model(task: Task, data: TaskData, model_args: ModelArguments):
    """A new model on a backbone, or a saved one where `model_name_or_path` is a delta."""
    hub_kwargs = {"revision": model_args.model_revision, "cache_dir": model_args.cache_dir}
    shared = {"dtype": model_args.dtype, "attn_implementation": model_args.attn_implementation}
    try:
        config = AutoConfig.from_pretrained(model_args.model_name_or_path, trust_remote_code=False, **hub_kwargs)
    except OSError as error:
        raise OSError(f"--model_name_or_path {model_args.model_name_or_path!r} cannot be read: {error}") from error
    if isinstance(config, FPTConfig):
        check_same_task(config, data.config)
        check_no_other_policy(config, model_args)
        base = model_args.base_model_name_or_path
        return task.model_class.from_pretrained(
            model_args.model_name_or_path, base_model_name_or_path=base, **hub_kwargs, **shared
        )
    return task.model_class.from_backbone(
        model_args.model_name_or_path,
        base_model=model_args.base_model,
        **hub_kwargs,
        **shared,
        backbone_init=model_args.backbone_init,
        backbone_init_seed=model_args.backbone_init_seed,
        backbone_init_scheme=model_args.backbone_init_scheme,
        backbone_dropout=model_args.backbone_dropout,
        input_dropout=model_args.dropout,
        trainable=model_args.trainable,
        train_qk_norms=model_args.train_qk_norms,
        positions=model_args.positions,
        pooling=model_args.pooling,
        **data.config,
    )


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
    try:
        main(sys.argv[1:])
    except (ValueError, TypeError, OSError, TrainingError, StrictDataclassError) as error:
        if os.environ.get("FPT_DEBUG"):
            raise
        message = " ".join(str(error).split())
        print(f"run_fpt.py: error: {message} (FPT_DEBUG=1 shows where)", file=sys.stderr)
        sys.exit(2)
