"""The groups of parameters, and which of them may train together."""

from collections.abc import Sequence
from typing import Any

from .ranges import short

# `last_attention` is the last layer's part of `attention`; it is a group of its own only if `trainable` names it.
# `adapter` is what peft added to frozen layers; if there is one, it trains.
PARAMETER_GROUPS = (
    "input",
    "output",
    "norm",
    "position",
    "attention",
    "feedforward",
    "recurrent",
    "last_attention",
    "adapter",
)
PAPER_GROUPS = ("input", "output", "norm", "position")


def checked_policy(
    trainable: Sequence[str], peft_config: dict[str, Any] | None, positions: str
) -> tuple[list[str], dict[str, Any] | None]:
    """Check the policy; return the groups that train, in order, and the adapter's settings. Raises ValueError."""
    unknown = [group for group in trainable if group not in PARAMETER_GROUPS]
    if unknown:
        raise ValueError(f"trainable takes groups out of {', '.join(PARAMETER_GROUPS)}; got {short(unknown[0])}.")
    if len(set(trainable)) != len(trainable):
        raise ValueError(f"trainable names each group once; got {short(list(trainable))}.")
    if {"attention", "last_attention"} <= set(trainable):
        raise ValueError(
            "trainable names either 'attention' (of all layers) or 'last_attention' (of the last only); got both: "
            "leave one out."
        )
    if peft_config is not None:
        from .adapter_settings import checked_settings

        peft_config = checked_settings(peft_config)
    elif "adapter" in trainable:
        raise ValueError(
            "trainable has 'adapter', but there is none: write peft_config, such as {'peft_type': 'lora'}, or "
            "leave 'adapter' out."
        )
    trained = {*trainable, *(["adapter"] if peft_config is not None else [])}
    trainable = [group for group in PARAMETER_GROUPS if group in trained]
    if positions == "none" and "position" in trainable:
        raise ValueError(
            "positions='none' leaves no position to train, but trainable has 'position': "
            f"write trainable={[group for group in trainable if group != 'position']} or positions='auto'."
        )
    return trainable, peft_config
