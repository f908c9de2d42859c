"""Arguments of a model's `forward`: checked, and completed by its configuration."""

from collections.abc import Sequence

from torch import Tensor


def check_tensors(**given: Tensor | None) -> None:
    """Raise TypeError for arguments that are no tensors; None is none."""
    for name, value in given.items():
        if value is not None and not isinstance(value, Tensor):
            raise TypeError(
                f"{name} is a tensor, got {type(value).__name__}: write torch.as_tensor({name}), or take what the "
                "model's processor returns with return_tensors='pt'."
            )


def wanted_states(
    argument: bool | int | Sequence[int] | None, configured: bool | int | Sequence[int] | None
) -> bool | Sequence[int]:
    """Whether to return hidden states, or the numbers of those to return; a single number becomes a list."""
    chosen = configured if argument is None else argument
    return [chosen] if type(chosen) is int else chosen or False


def wanted(argument: bool | None, configured: bool | None) -> bool:
    """What an argument says or, where it says nothing, the configuration."""
    return bool(configured if argument is None else argument)
