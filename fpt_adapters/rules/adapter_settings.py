"""What a delta says of the peft adapter on its frozen layers: a method, its numbers, and the layers by name.

A stranger may have written it: the method is one of a closed list, layers are named by their paths, and what is
written there is never matched as a pattern or looked up as a file, class or model. Reading it does not need peft.
"""

import math
import re
from typing import Any

from .config_rules import MAX_LAYERS
from .ranges import short

NAME = "fpt_delta"  # name of a delta's only adapter: peft's own calls name theirs "default"
# peft's methods that wrap linear layers one by one, leave the base's weights as they are, and need nothing of the
# training loop.
METHODS = (
    "c3a",
    "delora",
    "fourierft",
    "gralora",
    "hira",
    "hra",
    "ia3",
    "loha",
    "lokr",
    "lora",
    "miss",
    "oft",
    "road",
    "waveft",
)
LAYER_FIELDS = ("feedforward_modules", "target_modules")
PATTERN_FIELDS = ("alpha_pattern", "rank_pattern")  # end of a layer's path -> a number
# Settings that take weights, data or classes from elsewhere, or train what `trainable` should name. So do all whose
# name ends in _config.
ELSEWHERE = (
    "auto_mapping",
    "base_model_name_or_path",
    "bias",
    "exclude_modules",
    "layer_replication",
    "layers_pattern",
    "layers_to_transform",
    "megatron_core",
    "modules_to_save",
    "revision",
    "target_parameters",
    "trainable_token_indices",
    "use_bdlora",
)
PATH = re.compile(r"\w+(\.\w+)*", re.ASCII)
WORD = re.compile(r"[\w-]{1,40}", re.ASCII)
MOST = 2**20  # the largest number allowed: ranks, blocks, frequencies and seeds are far smaller
MOST_OF = {"num_cayley_neumann_terms": 64}  # steps in each forward pass; peft's default is 5
MOST_LAYERS = 4 * MAX_LAYERS  # the most layers with an adapter: a model of 405 billion weights has 882


def checked_settings(values: dict[str, Any]) -> dict[str, Any]:
    """Check the settings of an adapter, `peft_type` and what differs from its defaults; return them sorted by name.

    Raises ValueError for another method, for what takes anything from elsewhere, and for values that are no truth
    value, number, word, list of layers, or (patterns) dict of layers and numbers.
    """
    method = values.get("peft_type")
    if method not in METHODS:
        raise ValueError(
            f"An adapter on frozen layers is one of {', '.join(METHODS)}; got {short(method)}: peft's other methods "
            "change the base, share weights between layers, wrap no linear layers, or need a training loop of their "
            "own."
        )
    for name, value in values.items():
        if name in ELSEWHERE or str(name).endswith("_config"):
            raise ValueError(
                f"The settings of {method} have {name}={short(value)}: layers are named by target_modules, what "
                "else trains by trainable, and nothing is taken from elsewhere: leave it out."
            )
        if name in LAYER_FIELDS:
            _check_layers(name, value)
        elif name in PATTERN_FIELDS and isinstance(value, dict):
            _check_layers(name, list(value))
            for number in value.values():
                _check_value(name, number)
        else:
            _check_value(name, value)
    return {"peft_type": method} | {name: values[name] for name in sorted(values) if name != "peft_type"}


def _check_layers(name: str, value: Any) -> None:
    paths = isinstance(value, list) and all(isinstance(path, str) and PATH.fullmatch(path) for path in value)
    if not paths or len(value) > MOST_LAYERS:
        raise ValueError(f"{name} names layers by their paths or the ends of them, no patterns; got {short(value)}.")


def _check_value(name: str, value: Any) -> None:
    most = MOST_OF.get(name, MOST)
    number = isinstance(value, (int, float)) and math.isfinite(value) and abs(value) <= most
    if value is not None and not number and not (isinstance(value, str) and WORD.fullmatch(value)):
        raise ValueError(
            f"{name!s:.60} is a number up to {most}, a truth value or a word; got {short(value)}: leave it out."
        )
