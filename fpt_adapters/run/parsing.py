"""Reading flags and recipes, and how a command tells of a mistake."""

import contextlib
import difflib
import json
import os
import sys
from collections.abc import Iterator

import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers import HfArgumentParser

from ..tasks import TASKS, Task
from ..training.guards import TrainingError
from .arguments import CardArguments, DataArguments, ModelArguments, RunArguments

SHORT_USAGE = (
    "fpt-adapters train [recipe.yaml] --task_name TASK --model_name_or_path MODEL --output_dir DIR [flags]; see --help"
)


@contextlib.contextmanager
def mistakes_in_one_line(script: str) -> Iterator[None]:
    """Context manager: end the program with one line, not a traceback, for errors that a user's mistake causes."""
    try:
        yield
    except (ValueError, TypeError, OSError, TrainingError, StrictDataclassError) as error:
        if os.environ.get("FPT_DEBUG"):
            raise
        message = " ".join(str(error).split())
        print(f"{script}: error: {message} (FPT_DEBUG=1 shows where)", file=sys.stderr)
        sys.exit(2)


def parse(arguments: list[str]) -> tuple[ModelArguments, DataArguments, CardArguments, RunArguments, Task]:
    """Read a recipe and flags; the task's name is parsed first, because each task has its own flags."""
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
            near = difflib.get_close_matches(task_name, TASKS, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise ValueError(f"--task_name is one of {', '.join(TASKS)}; got {task_name!r}.{hint}")
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
    """Read the flags and values in a recipe file. Raises ValueError for anything but a mapping."""
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
    """Make a recipe's values the parser's defaults, converted like flags."""
    actions = {action.dest: action for action in parser._actions}
    for name, value in recipe.items():
        if name not in actions:
            raise ValueError(unknown_name(name, list(actions)))
        action = actions[name]
        action.required = False
        if isinstance(value, dict) and name in ("backbone_config", "peft"):
            value = json.dumps(value)
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
