"""Checking `head_inputs`: kept from an earlier pass, they enter the head in place of raw inputs."""

from torch import Tensor


def check_head_inputs(
    head_inputs: Tensor, expected: tuple[str | int, ...], raw: tuple[Tensor | None, ...], with_states: bool
) -> None:
    """Raise ValueError for `head_inputs` of another shape than `expected`, or beside `raw` inputs or `with_states`."""
    if any(given is not None for given in raw):
        raise ValueError("head_inputs stand in place of the raw inputs and their mask: give one or the other.")
    if with_states:
        raise ValueError("head_inputs skip the backbone: it has no hidden states or attentions to return.")
    if head_inputs.ndim != len(expected) or head_inputs.shape[-1] != expected[-1]:
        raise ValueError(
            f"head_inputs has shape ({', '.join(map(str, expected))}), got {tuple(head_inputs.shape)}: give what "
            "this model's head_inputs() returns."
        )
