"""Places: names for parameters that stay the same when transformers renames or reorders its modules.

A place is the number of the repeated layer, the kind of parameter, and its number among those of that kind in the
layer: `backbone.layers.3.norm.1`. Outside the layers there is no layer number: `backbone.norm.0`. New modules have
this library's own names: `input.projection.weight`, `position.weight`, `output.weight`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping

from torch import nn
from torch.nn.utils.parametrize import ParametrizationList

from ..torch_utils.plain_names import named_modules
from .native import FRONT

KINDS = {"last_attention": "attention"}  # group -> kind, where they differ
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
    """The number of the repeated layer (element of a ModuleList) that each parameter or buffer is in, or None.

    A list inside a list (T5) is part of the outer one's layer. Lists beside each other are numbered one after another.
    """
    first, count = {}, 0  # path of a list -> number of its first layer
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
    """The place of each parameter of a backbone, by name; `groups` has the group of each, in the model's order."""
    numbers, counts, places = layer_numbers(backbone, groups), Counter(), {}
    for name, group in groups.items():
        layer = "" if numbers[name] is None else f"layers.{numbers[name]}."
        place = f"backbone.{layer}{KINDS.get(group, group)}"
        places[name] = f"{place}.{counts[place]}"
        counts[place] += 1
    return places


def own_place(name: str) -> str:
    """The place of a new module's parameter; `name`: its name without the prefix of the headless model."""
    module, _, rest = name.partition(".")
    return f"{OWN[module]}.{rest}"
