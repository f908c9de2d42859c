"""The parameter table: how large each group of parameters is, and whether it trains."""

from collections.abc import Iterable
from dataclasses import dataclass

from torch import nn

from ..torch_utils.plain_names import named_parameters
from ..torch_utils.sharding import whole_shape
from .quantized_layers import parameter_size
from .structure import is_quantized


@dataclass(frozen=True)
class GroupCount:
    """One row of the parameter table."""

    group: str
    tensors: int
    parameters: int
    percent: float  # of all parameters of the model
    trained: bool


def count_by_group(model: nn.Module, groups: dict[str, str]) -> list[GroupCount]:
    """Tensors and parameters of each group, in the order of first appearance."""
    parameters = named_parameters(model)
    sizes = {name: _size(parameter) for name, parameter in parameters.items()}
    total = sum(sizes.values())
    rows = []
    for group in dict.fromkeys(groups.values()):
        members = [name for name, its_group in groups.items() if its_group == group]
        count = sum(sizes[name] for name in members)
        trained = any(parameters[name].requires_grad for name in members)
        rows.append(GroupCount(group, len(members), count, 100 * count / total, trained))
    return rows


def _size(parameter: nn.Parameter) -> int:
    """How many weights a parameter stands for, even if it is packed in fewer numbers or sharded."""
    return parameter_size(parameter) if is_quantized(parameter) else whole_shape(parameter).numel()


def trained_sum(rows: Iterable[GroupCount]) -> GroupCount:
    """The sum of the groups that train, as a row of the parameter table."""
    rows = [row for row in rows if row.trained]
    tensors, parameters = sum(row.tensors for row in rows), sum(row.parameters for row in rows)
    return GroupCount("all trained", tensors, parameters, sum(row.percent for row in rows), True)


def format_table(rows: Iterable[GroupCount]) -> str:
    """The parameter table as text, trained groups first, with their sum."""
    rows = sorted(rows, key=lambda row: not row.trained)
    lines = [f"{'group':<14} {'tensors':>8} {'parameters':>14} {'% of all':>9}  trained"]
    for row in rows:
        mark = "yes" if row.trained else "no"
        lines.append(f"{row.group:<14} {row.tensors:>8,} {row.parameters:>14,} {row.percent:>9.3f}  {mark}")
    total = trained_sum(rows)
    lines.append(f"{total.group:<14} {total.tensors:>8,} {total.parameters:>14,} {total.percent:>9.3f}")
    return "\n".join(lines)
