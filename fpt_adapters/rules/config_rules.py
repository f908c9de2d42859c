"""Rules for a configuration that a stranger may have written: it can choose no code, no files, no absurd sizes.

The backbone's own configuration is checked before transformers makes an object from it, whether it comes from a file
or from the caller, so that a saved one loads as it was.
"""

import contextlib
from collections.abc import Iterator
from dataclasses import fields
from inspect import getattr_static
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import CONFIG_MAPPING, PreTrainedConfig

from .ranges import MAX_DEPTH, MAX_LABELS, SHOWN, check_extent, check_integers, is_integer, short
from .travelling import TRAVELS

DTYPES = ("float32", "bfloat16", "float16")
MOST_MESSAGE = 1000  # characters of a message of huggingface_hub's
MAX_LAYERS = 512  # of one kind: reading the number, transformers makes lists of that length; deep models have 200
# Fields that choose which attention or experts run. A name with a slash is a Hub repo, whose code would run.
IMPLEMENTATIONS = ("attn_implementation", "experts_implementation")
# Fields that make transformers load, import or replace more than a model's own weights.
LOADS_MORE = (
    "architecture",  # of a timm model
    "backbone",
    "backbone_config",
    "backbone_kwargs",
    "compression_config",
    "distributed_config",
    "extra_config_files",
    "extra_files",
    "fusion_config",
    "kernel_config",
    "quantization_config",
    "transformers_weights",
    "use_pretrained_backbone",
    "use_timm_backbone",
)
UNFIT = (ArithmeticError, AssertionError, AttributeError, LookupError, RuntimeError, TypeError)
# Fields that a backbone without a head does not read, or that the library fills in.
BOOKKEEPING = (
    "auto_map",
    "custom_pipelines",
    "id2label",
    "label2id",
    "name_or_path",
    "num_labels",
    "output_attentions",
    "output_hidden_states",
    "problem_type",
    "return_dict",
)


def build_base_config(given: dict | PreTrainedConfig) -> PreTrainedConfig:
    """Build a backbone's configuration by these rules, from a dict or another configuration.

    Raises ValueError: the rule, what came, what to write instead.
    """
    values = given if isinstance(given, dict) else given.to_dict()
    model_type = values.get("model_type")
    if not isinstance(model_type, str) or model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"base_model_config needs the model_type of a transformers model, got {short(model_type)}: "
            "a backbone whose code lies outside transformers cannot be frozen here."
        )
    return build_config(values, CONFIG_MAPPING[model_type] if isinstance(given, dict) else type(given))


def build_config(values: dict, config_class: type[PreTrainedConfig]) -> PreTrainedConfig:
    """Build a configuration of `config_class` from the settings in `values`; private names and methods are left out.

    Raises ValueError for what chooses code or files, and for sizes that no model has.
    """
    if not TRAVELS:
        check_extent(values, "base_model_config", MAX_DEPTH, BOOKKEEPING)
    cleaned = _clean(values, "base_model_config", config_class)
    if not TRAVELS:
        check_integers(cleaned)
    with said_shortly(), refusing_unfit(config_class):
        return config_class(**{name: value for name, value in cleaned.items() if name != "model_type"})


@contextlib.contextmanager
def said_shortly() -> Iterator[None]:
    """Shorten the errors of type checks, which repeat the value that came, whatever its size."""
    try:
        yield
    except StrictDataclassError as error:
        error.args = (f"{error!s:.{MOST_MESSAGE}}",)
        raise error from None


@contextlib.contextmanager
def refusing_unfit(what: type) -> Iterator[None]:
    """Raise ValueError where transformers' own code fails to make a `what` from a stranger's settings."""
    try:
        yield
    except UNFIT as error:
        raise ValueError(
            f"base_model_config makes no {what.__name__} ({type(error).__name__}: {error!s:.{SHOWN}}): give the "
            "backbone's own configuration."
        ) from error


def _clean(values: Any, place: str, config_class: type[PreTrainedConfig]) -> Any:
    if isinstance(values, (list, tuple)):
        return [_clean(value, place, config_class) for value in values]
    if not isinstance(values, dict):
        return values
    cleaned = {}
    for name, value in values.items():
        if isinstance(name, str):
            _check(name, value, place)
            if not _is_setting(name, config_class):
                continue
        cleaned[name] = _clean(value, f"{place}.{name!s:.60}", PreTrainedConfig)
    return cleaned


def _check(name: str, value: Any, place: str) -> None:
    check_implementation(name, value, place)
    check_dtype(name, value)
    if name in LOADS_MORE and value:
        raise ValueError(
            f"{place} has {name}={short(value)}, which loads or replaces more than a model's own weights: a backbone "
            "is a text or image model of transformers itself, not quantised (from_backbone(quantization_config=...) "
            "does that on loading). Leave it out, or choose another base."
        )
    if name == "model_type" and (value == "fpt" or str(value).startswith("timm")):
        raise ValueError(f"{place} has model_type={short(value)}, which is no backbone: name another model's.")
    if ("layers" in name or name == "n_layer") and is_integer(value) and value > MAX_LAYERS:
        raise ValueError(f"{place} has {name:.60}={short(value)}, but no backbone has more than {MAX_LAYERS} layers.")


def _is_setting(name: str, config_class: type[PreTrainedConfig]) -> bool:
    if name in (*BOOKKEEPING, *LOADS_MORE) or is_implementation(name):
        return False
    if name == "model_type" or name in {field.name for field in fields(config_class)}:
        return True
    if hasattr(config_class, name):  # a method or the like is no setting; a property is one if it can be set
        return getattr(getattr_static(config_class, name), "fset", None) is not None
    return not name.startswith("_")


def is_implementation(name: str) -> bool:
    """Whether a configuration's field chooses which attention or experts run."""
    return name.lstrip("_").removesuffix("_internal") in IMPLEMENTATIONS


def check_implementation(name: str, value: Any, place: str) -> None:
    """Raise ValueError if a configuration takes its attention or experts from the Hub."""
    if is_implementation(name) and value is not None and (not isinstance(value, str) or "/" in value):
        raise ValueError(
            f"{place} has {name}={short(value)}, code that would be fetched and run: whoever loads a model chooses "
            "that, with from_pretrained(..., attn_implementation=...)."
        )


def check_dtype(name: str, value: Any) -> None:
    """Raise ValueError for a dtype that no backbone has; transformers would look any name up in torch."""
    written = value if isinstance(value, str) else str(value).removeprefix("torch.")
    if name in ("dtype", "torch_dtype") and value is not None and written not in DTYPES:
        raise ValueError(f"{name} is one of {', '.join(DTYPES)}; got {short(value)}.")


def check_labels(id2label: Any, label2id: Any) -> None:
    """Raise ValueError unless these are label numbers and names, which transformers does not check."""
    for field, value, name_first in (("id2label", id2label, False), ("label2id", label2id, True)):
        if value is None:
            continue
        pairs = list(value.items()) if isinstance(value, dict) else []
        labels = [(number, name) for name, number in pairs] if name_first else pairs
        well_formed = all(isinstance(name, str) and str(number).isdecimal() for number, name in labels)
        if not well_formed or not 1 <= len(labels) <= MAX_LABELS:
            raise ValueError(f"{field} is a dict of label numbers and names, 1 to {MAX_LABELS}; got {short(value)}.")
