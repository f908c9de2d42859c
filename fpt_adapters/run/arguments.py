"""The flags of a training run, and of its recipes."""

import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from transformers import BitsAndBytesConfig, TrainingArguments

from ..rules.policy_rules import PAPER_GROUPS, PARAMETER_GROUPS
from ..tasks import TASKS


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
        """The value of --peft, parsed. Raises ValueError for broken JSON, OSError for a file that cannot be read."""
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
        """The quantisation that the flags ask for. Raises ValueError for 8 and 4 bits at once."""
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
    """The task, and how much of its data to use."""

    task_name: str = field(metadata={"help": f"One of {', '.join(TASKS)}."})
    streaming: bool = field(
        default=False,
        metadata={
            "help": "Stream the training rows instead of holding them: from train_file, which may be a "
            "pattern such as 'rows-*.parquet', or from the Hub. Needs --max_steps."
        },
    )
    shuffle_buffer: int = field(
        default=10_000, metadata={"help": "Rows that streaming holds to shuffle; 0 keeps the order of the data."}
    )
    label_names_file: str | None = field(
        default=None,
        metadata={"help": "For streaming, if the label column has no class names: a file with one a line, by number."},
    )
    max_train_samples: int | None = field(default=None, metadata={"help": "Keep this many training examples."})
    max_eval_samples: int | None = field(default=None, metadata={"help": "Keep this many validation examples."})
    max_predict_samples: int | None = field(default=None, metadata={"help": "Keep this many test examples."})


@dataclass
class CardArguments:
    """Facts for the model card that the run cannot know."""

    license: str | None = field(default=None, metadata={"help": "Licence of the delta: a Hub identifier such as mit."})
    card_task: str | None = field(
        default=None, metadata={"help": "The task's name, if the data is not the task's own."}
    )
    card_dataset: str | None = field(default=None, metadata={"help": "The data in a few words."})
    card_dataset_id: str | None = field(
        default=None, metadata={"help": "Hub id of the data set that a local file or folder is a copy of."}
    )
    card_dataset_license: str | None = field(default=None, metadata={"help": "The data's licence."})
    card_limits: list[str] | None = field(default=None, metadata={"help": "Sentences: what it is not good for."})
    push_code: bool = field(
        default=False, metadata={"help": "Push the library's code too, for machines that have only transformers."}
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
        default=None, metadata={"help": "Learning rates of single groups, such as norm=1e-3 input=1e-4."}
    )
    cache_features: bool | None = field(
        default=None,
        metadata={"help": "Compute frozen features once: true or false; default: if only the head trains."},
    )
    save_backbone: str | None = field(
        default=None, metadata={"help": "A new folder: save the trained backbone as an ordinary checkpoint too."}
    )

    def __post_init__(self):
        if self.output_dir is None:
            raise ValueError("--output_dir is needed: a new folder for results and checkpoints.")
        if not torch.accelerator.is_available():  # otherwise bf16 is refused
            self.use_cpu = True
        super().__post_init__()
