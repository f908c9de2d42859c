"""The flags of run_fpt.py and its recipes, read and checked; and how a script tells of a mistake."""

import contextlib
import difflib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import yaml
from huggingface_hub.errors import StrictDataclassError
from transformers import BitsAndBytesConfig, HfArgumentParser, TrainingArguments

from fpt_adapters import PAPER_GROUPS, PARAMETER_GROUPS, TrainingError
from fpt_adapters.tasks import TASKS, Task

SHORT_USAGE = (
    "run_fpt.py [recipe.yaml] --task_name TASK --model_name_or_path MODEL --output_dir DIR [flags]; see --help"
)


@dataclass
class ModelArguments:
    """The backbone, and what trains."""

    model_name_or_path: str | None = field(
        default=None, metadata={"help": "Backbone, or a saved delta: Hub id or folder."}
    )
    backbone_config: str | None = field(
        default=None,
        metadata={
            "help": "Instead of model_name_or_path, a random backbone's configuration as JSON: "
            '\'{"model_type": "gpt2", "n_layer": 3}\'; fpt_lstm and fpt_identity are the baselines.'
        },
    )
    backbone_layers: int | None = field(default=None, metadata={"help": "Keep only the backbone's first layers."})
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
    trainable: list[str] | None = field(
        default=None,
        metadata={
            "help": f"Groups that train, out of {', '.join(PARAMETER_GROUPS)} (default: {', '.join(PAPER_GROUPS)}; "
            "for native input without input)."
        },
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
    load_in_8bit: bool = field(default=False, metadata={"help": "Quantise the frozen weights to 8 bits."})
    load_in_4bit: bool = field(
        default=False, metadata={"help": "Quantise the frozen weights to 4 bits (NF4, computed in dtype or bfloat16)."}
    )
    device_map: str | None = field(
        default=None, metadata={"help": "auto: spread one backbone over all devices; or a device."}
    )
    peft: str | None = field(
        default=None,
        metadata={
            "help": "An adapter on frozen layers, trained beside the groups: a method of peft's, such as lora; its "
            'settings as JSON: \'{"peft_type": "lora", "r": 4}\'; or the path of a peft config file.'
        },
    )

    @property
    def peft_config(self) -> dict[str, Any] | str | None:
        """What --peft asks for. Raises ValueError for JSON that is none, OSError for a file that cannot be read."""
        if self.peft is None or (not self.peft.startswith("{") and not os.path.exists(self.peft)):
            return self.peft
        path = os.path.join(self.peft, "adapter_config.json") if os.path.isdir(self.peft) else self.peft
        text = self.peft if self.peft.startswith("{") else Path(path).read_text(encoding="utf-8")
        try:
            return json.loads(text)
        except ValueError as error:
            raise ValueError(f"--peft {self.peft!r} is no JSON: {error}.") from error

    @property
    def quantization_config(self) -> BitsAndBytesConfig | None:
        """What the flags ask for. Raises ValueError for 8 and 4 bits at once."""
        if self.load_in_8bit and not self.load_in_4bit:
            return BitsAndBytesConfig(load_in_8bit=True)
        if not self.load_in_4bit:
            return None
        return BitsAndBytesConfig(
            load_in_8bit=self.load_in_8bit,
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_compute_dtype=self.dtype or "bfloat16",
        )


@dataclass
class DataArguments:
    """The task, and how much of its data."""

    task_name: str = field(metadata={"help": f"One of {', '.join(TASKS)}."})
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Read the training rows as they are used and hold none: those of train_file, which may be a "
            "pattern such as 'rows-*.parquet', or of the Hub. Needs --max_steps."
        },
    )
    shuffle_buffer: int = field(
        default=10_000, metadata={"help": "Rows that streaming holds to shuffle; 0 keeps the order of the data."}
    )
    label_names_file: str | None = field(
        default=None,
        metadata={"help": "For streaming where the label column names no classes: a file with one a line, by number."},
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Keep this many training examples."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Keep this many validation examples."})
    max_predict_samples: int | None = field(default=None, metadata={"help": "Keep this many test examples."})


@dataclass
class CardArguments:
    """What the model card says that the run cannot know."""

    license: str | None = field(default=None, metadata={"help": "Licence of the delta: a Hub identifier, as mit."})
    card_task: str | None = field(
        default=None, metadata={"help": "What the task is called, where the data is not the task's own."}
    )
    card_dataset: str | None = field(default=None, metadata={"help": "What the data is, in a line."})
    card_dataset_id: str | None = field(
        default=None, metadata={"help": "Hub id of the data set that a local file or folder is a copy of."}
    )
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
    cache_features: bool | None = field(
        default=None,
        metadata={"help": "Frozen features computed once: true, false, or by itself where the head alone trains."},
    )
    save_backbone: str | None = field(
        default=None, metadata={"help": "A new folder: save the trained backbone as an ordinary checkpoint too."}
    )

    def __post_init__(self):
        if self.output_dir is None:
            raise ValueError("--output_dir is needed: a new folder for results and checkpoints.")
        if not torch.accelerator.is_available():  # else bf16 is refused
            self.use_cpu = True
        super().__post_init__()


@contextlib.contextmanager
def mistakes_in_one_line(script: str) -> Iterator[None]:
    """End the program with one line instead of a traceback where a user's mistake is the likely cause."""
    try:
        yield
    except (ValueError, TypeError, OSError, TrainingError, StrictDataclassError) as error:
        if os.environ.get("FPT_DEBUG"):
            raise
        message = " ".join(str(error).split())
        print(f"{script}: error: {message} (FPT_DEBUG=1 shows where)", file=sys.stderr)
        sys.exit(2)


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
