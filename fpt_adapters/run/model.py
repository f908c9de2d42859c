"""The model of a run: new on a backbone, or a saved delta, and what a delta has settled."""

import json
from typing import Any

from transformers import AutoConfig, PreTrainedConfig
from transformers.utils import CONFIG_NAME

from ..configuration_fpt import FPTConfig
from ..hub.download import fetch, saying_whose
from ..models.pretrained import FPTPreTrainedModel
from ..tasks import Task, TaskData
from .arguments import ModelArguments

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


def build_model(task: Task, data: TaskData, model_args: ModelArguments) -> FPTPreTrainedModel:
    """Build a new model on a backbone, or load a saved one if `model_name_or_path` is a delta."""
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


def base_config(model_args: ModelArguments) -> PreTrainedConfig:
    """The configuration of the base, also under a saved delta."""
    hub_kwargs = {"revision": model_args.model_revision, "cache_dir": model_args.cache_dir}
    _, config = find_backbone(model_args, hub_kwargs)
    return config.base_model_config if isinstance(config, FPTConfig) else config


def find_backbone(
    model_args: ModelArguments, hub_kwargs: dict[str, Any]
) -> tuple[str | PreTrainedConfig, PreTrainedConfig]:
    """The source for `from_backbone` or `from_pretrained`, and the configuration found there."""
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
    """Read the configuration of a random backbone from JSON. Raises ValueError for an unknown model type."""
    example = '\'{"model_type": "gpt2", "n_layer": 3}\''
    try:
        values = json.loads(text)
    except ValueError as error:
        raise ValueError(f"--backbone_config is JSON such as {example}; got {text!r:.80} ({error}).") from error
    if not isinstance(values, dict) or "model_type" not in values:
        raise ValueError(f"--backbone_config needs a model_type, as in {example}; got {text!r:.80}.")
    return AutoConfig.for_model(values.pop("model_type"), **values)


def check_same_task(config: FPTConfig, wanted: dict) -> None:
    """Raise ValueError for a delta that was trained for another input or other labels."""
    for name, value in wanted.items():
        if getattr(config, name) != value:
            raise ValueError(
                f"The delta was trained with {name}={getattr(config, name)!r:.80}, the task has {value!r:.80}."
            )


def check_no_other_policy(config: FPTConfig, model_args: ModelArguments) -> None:
    """Raise ValueError for flags that contradict a saved delta."""
    defaults = ModelArguments(model_name_or_path="")
    if model_args.peft is not None:
        raise ValueError(
            f"--peft {model_args.peft!r} came, but the delta says itself what adapter it has: leave it out."
        )
    for flag in SETTLED_FLAGS:
        given, settled = getattr(model_args, flag), getattr(config, "input_dropout" if flag == "dropout" else flag)
        if given != getattr(defaults, flag) and given != settled:
            raise ValueError(f"--{flag} {given!r} came, but the delta was built with {settled!r}: leave the flag out.")
