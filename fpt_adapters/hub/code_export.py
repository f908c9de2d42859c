"""The library's code as it travels: the few flat files that transformers alone loads a model from.

transformers fetches flat files that name each other by plain relative imports (`transformers.dynamic_module_utils`).
So the modules of a room become one file, `fpt_rules.py` for those of `rules/`, and entry points keep their names. What
travels is what loads, runs and saves the model at hand: its entry points, and all that modules use at their top. What
they import inside a function, such as the card's making, stays at home, but for what `TRAVELS_WITH` names.
"""

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..backbones.images import IMAGE_FAMILIES
from ..configuration_fpt import FPTConfig
from ..inputs.table import INPUTS
from ..version import __version__
from .auto_map import AUTO_MAP, PROCESSORS
from .flattening import Flattener
from .trimming import Route

PACKAGE = Path(__file__).parents[1]
TITLE = (
    f"Made of fpt_adapters {__version__}, where its tests and comments are, and what each function takes and raises."
)
PROCESSOR_CONFIG = "preprocessor_config.json"
ENTRIES = {
    "configuration_fpt": "configuration_fpt.py",
    "modeling_fpt": "modeling_fpt.py",
    "image_processing_fpt": "inputs/image_processing_fpt.py",
    "feature_extraction_fpt": "inputs/feature_extraction_fpt.py",
    "table_processing_fpt": "inputs/table_processing_fpt.py",
}


def _has(model_type: str) -> Callable[[FPTConfig], bool]:
    return lambda config: config.base_model_config.model_type == model_type


def _reads(input_type: str) -> Callable[[FPTConfig], bool]:
    """Transformers builds an `FPTConfig()` to learn its defaults, which reads the default input type."""
    return lambda config: input_type in (config.input_type, FPTConfig.input_type)


def _is_quantized(config: FPTConfig) -> bool:
    return config.base_quantization is not None


def _has_adapter(config: FPTConfig) -> bool:
    return config.peft_config is not None


IN_PIECES = ("Head", "InputType", "Problem")  # which also have words for the card, and the like

# Modules that are imported inside functions, or for what their import does, and the models that they travel with.
TRAVELS_WITH: dict[str, Callable[[FPTConfig], bool]] = {
    "adapters/adding.py": _has_adapter,
    "adapters/peft_api.py": _has_adapter,
    "adapters/refusals.py": _has_adapter,
    "rules/adapter_settings.py": _has_adapter,
    "backbones/baselines/configuration_identity.py": _has("fpt_identity"),
    "backbones/baselines/modeling_identity.py": _has("fpt_identity"),
    "backbones/baselines/configuration_lstm.py": _has("fpt_lstm"),
    "backbones/baselines/modeling_lstm.py": _has("fpt_lstm"),
    "heads/table.py": lambda config: True,
    "inputs/table.py": lambda config: True,
    **{f"inputs/{type(kind).__module__.rpartition('.')[2]}.py": _reads(name) for name, kind in INPUTS.items()},
    "backbones/images.py": lambda config: config.base_model_config.model_type in IMAGE_FAMILIES,
    "backbones/drawing.py": lambda config: config.backbone_init != "pretrained",
    "backbones/device_maps.py": _is_quantized,
    "backbones/quantized_layers.py": _is_quantized,
    "rules/quantization.py": _is_quantized,
    "rules/depth.py": lambda config: config.backbone_layers is not None,
}


def code_files(config: FPTConfig, processor: bytes = b"{}") -> dict[str, str]:
    """The code that a model of `config` travels with: the text of each file, by its name.

    `processor`: the preprocessor_config.json of its processor, whose code comes along.
    """
    travelling = frozenset(module for module, needs in TRAVELS_WITH.items() if needs(config))
    return _flattened(travelling, (*AUTO_MAP.values(), *_auto_map(json.loads(processor)).values()))


@functools.cache
def _flattened(travelling: frozenset[str], classes: tuple[str, ...]) -> dict[str, str]:
    """`classes`, as "module.Class", and all that they need, with the modules that are in `travelling`."""

    def travels(path: Path) -> bool | None:
        module = path.relative_to(PACKAGE).as_posix()
        return module in travelling if module in TRAVELS_WITH else None

    flattener = Flattener(
        Route(_flat_name, travels, "This needs the library: pip install fpt_adapters", IN_PIECES), TITLE
    )
    for module, _, name in (place.partition(".") for place in classes):
        flattener.add(PACKAGE / ENTRIES[module], name)
    return flattener.files()


def _flat_name(path: Path) -> str:
    return path.stem if path.stem in ENTRIES else f"fpt_{path.relative_to(PACKAGE).with_suffix('').parts[0]}"


def write_exported(folder: Path, config: FPTConfig) -> None:
    """Write the code of a model of `config` into `folder`, and name it in the configuration of a processor there."""
    processor = folder / PROCESSOR_CONFIG
    described = processor.read_bytes() if processor.is_file() else b"{}"
    for name, text in code_files(config, described).items():
        (folder / name).write_text(text, encoding="utf-8")
    if described != (named := name_code(described, True)):
        processor.write_bytes(named)


def name_code(processor: bytes, named: bool) -> bytes:
    """A preprocessor_config.json that names the code of our processors (`named`), or no code."""
    values = json.loads(processor)
    wanted = {name: value for name, value in values.items() if name != "auto_map"}
    if named and (auto_map := _auto_map(values)):
        wanted["auto_map"] = auto_map
    return processor if wanted == values else f"{json.dumps(wanted, indent=2, sort_keys=True)}\n".encode()


def _auto_map(processor: Mapping[str, Any]) -> dict[str, str]:
    return PROCESSORS.get(processor.get("image_processor_type") or processor.get("feature_extractor_type"), {})
