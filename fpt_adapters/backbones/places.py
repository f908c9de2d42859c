"""Where a parameter lies in a model, said so that it outlives transformers, which may rename and reorder its modules.

A place is the number of the repeated layer, what kind of parameter it is, and its number among those of that kind in
that layer: `backbone.layers.3.norm.1`. What lies in no layer has no number: `backbone.norm.0`. The new modules have
the names of this library: `input.projection.weight`, `position.weight`, `output.weight`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from ..torch_utils.plain_names import named_modules
from .native import FRONT

KINDS = {"last_attention": "attention"}  # of groups that say more than what a parameter is
OWN = {"input_projection": "input", "position_embeddings": "position", "head": "output"}  # new modules
HEAD_PLACE = "output."  # what a head's places begin with


def layer_lists(backbone: nn.Module) -> dict[str, nn.ModuleList]:
    """The lists of repeated layers by path, also those inside a layer; not those of convolutions in front of them."""
    return {
        path: module
        for path, module in named_modules(backbone).items()
        if isinstance(module, nn.ModuleList)
        and not isinstance(module, ParametrizationList)
        and not path.startswith(FRONT)
    }


def layer_numbers(backbone: nn.Module, names: Iterable[str]) -> dict[str, int | None]:
    """The number of the repeated layer (an element of a ModuleList) of each parameter or buffer; None where in none.

    A list inside a list (T5's) is a part of the outer one's layer. Where several lie side by side, the numbers go on.
    """
    first, count = {}, 0  # number of each list's first layer
    for path, module in layer_lists(backbone).items():
        if not any(path.startswith(f"{outer}.") for outer in first):
            first[path], count = count, count + len(module)

    def number(name: str) -> int | None:
        for path, start in first.items():
            if name.startswith(f"{path}."):
                return start + int(name.removeprefix(f"{path}.").partition(".")[0])
        return None

    return {name: number(name) for name in names}


def backbone_places(backbone: nn.Module, groups: Mapping[str, str]) -> dict[str, str]:
    """The place of each parameter of a backbone, by the name that `groups` gives the group of, in its order."""
    numbers, counts, places = layer_numbers(backbone, groups), Counter(), {}
    for name, group in groups.items():
        layer = "" if numbers[name] is None else f"layers.{numbers[name]}."
        place = f"backbone.{layer}{KINDS.get(group, group)}"
        places[name] = f"{place}.{counts[place]}"
        counts[place] += 1
    return places


def own_place(name: str) -> str:
    """The place of a parameter of a new module, by its name in the headless model or beside it."""
    module, _, rest = name.partition(".")
    return f"{OWN[module]}.{rest}"
