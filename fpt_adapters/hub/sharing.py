"""Sharing a model: its origin, the check that others can find its base, and the library's code saved with it.

With that code, transformers loads the model without this library (`trust_remote_code=True`): `auto_map` names its
classes in flat files, which `code_export.py` makes from this package. A model that runs from such files copies them.
"""

import os
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from transformers.dynamic_module_utils import get_relative_import_files

from ..configuration_fpt import FPTConfig
from ..rules.travelling import TRAVELS

TAGS = ("fpt", "frozen-pretrained-transformer")  # every card has them


@dataclass(frozen=True)
class Origin:
    """Where a model was loaded from: a folder or a Hub id, and the keyword arguments that find it there."""

    name_or_path: str
    hub_kwargs: dict[str, Any] = field(default_factory=dict)


def check_shareable(config: FPTConfig) -> None:
    """Raise ValueError for a delta whose base other people cannot find."""
    if config.base_model is None and config.backbone_init != "random":
        raise ValueError(
            "A delta on the Hub names the Hub id of its base, but this one's base was a local folder. If that is a "
            "copy of a Hub model, say which before sharing: model.config.base_model = 'org/name'."
        )


def write_code(folder: str | os.PathLike, config: FPTConfig) -> None:
    """Write the library's code into `folder`, beside a saved model of `config`.

    The model's configuration refers to it by `auto_map`; that of a processor there is changed to do so too.
    """
    if TRAVELS:
        model_file = Path(__file__).with_name("modeling_fpt.py")
        for file in (model_file, *get_relative_import_files(model_file)):
            shutil.copy(file, folder)
        return
    from .code_export import write_exported

    write_exported(Path(folder), config)
