"""The policy, the configuration and the delta fit each other: checked when the policy changes, and on saving."""

import copy
from collections.abc import Sequence
from typing import Any

from ..rules.ranges import short
from ..torch_utils.plain_names import named_parameters

BUILT_BY = (
    "input_type",
    "num_labels",
    "positions",
    "backbone_layers",
    "backbone_init",
    "backbone_init_seed",
    "base_model_fingerprint",
)
CHANGED_LATER = {"pad_token_id", "vocab_size"}  # by Trainer, and by resize_token_embeddings


def note_fields(model: Any) -> None:
    """Note the fields of the configuration that the weights of a new model fit."""
    if model.built_by is None:
        names = {*BUILT_BY, *model.config.input.fields} - CHANGED_LATER
        model.built_by = {name: copy.deepcopy(getattr(model.config, name)) for name in names}


def refuse_other_fields(model: Any) -> None:
    """Raise ValueError if the configuration is wrong, or no longer that which the model was built by."""
    model.config.check()
    for name, value in (model.built_by or {}).items():  # none of a model under a head, which has no policy of its own
        if getattr(model.config, name) != value:
            raise ValueError(
                f"config.{name} is {short(getattr(model.config, name))}, but the model was built with {short(value)}, "
                "which its weights fit: set it back, or build another model."
            )


def refuse_fewer(model: Any, groups: dict[str, str], trainable: Sequence[str]) -> None:
    """Raise ValueError if `trainable` lacks a group of the backbone that trained: a delta would lose its values."""
    left_out = {
        groups[name]
        for name in vars(model).get("trained_groups", {})
        if name.startswith(model.backbone_prefix) and groups.get(name, "adapter") not in (*trainable, "adapter")
    }
    if left_out:
        raise ValueError(
            f"trainable={list(trainable)} leaves out {', '.join(sorted(left_out))}, whose trained values would be "
            "missing in the delta: freeze them with requires_grad_(False) instead, which are saved all the same, or "
            "build the model with this trainable."
        )


def refuse_outside_policy(model: Any) -> None:
    """Raise ValueError if a parameter of the base is set to train that no delta would hold."""
    if "trained_groups" not in vars(model):
        return  # a model under a head
    held = {id(parameter) for parameter in model._adapter_parameters()}
    for name, one in named_parameters(model).items():
        inside = not name.startswith(model.backbone_prefix) or name in model.trained_groups or id(one) in held
        if one.requires_grad and not inside:
            raise ValueError(
                f"{name} is set to train, but trainable={model.config.trainable} does not name its group, so that no "
                "delta would hold it: freeze it, or name the group in config.trainable and call apply_policy()."
            )
