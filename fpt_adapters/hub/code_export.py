"""Exporting the library's code with a model: a few flat files from which transformers loads it without this library.

transformers fetches flat files that import each other by plain relative imports (`transformers.dynamic_module_utils`).
So the modules of a room become one file (`rules/` becomes `fpt_rules.py`), and entry points keep their names. Exported
is what loads, runs and saves this model: its entry points, and everything that modules import at their top. What they
import inside a function, such as the making of cards, is left out, except for what `TRAVELS_WITH` names.
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
from .auto_map import PROCESSORS, auto_map
from .flattening import Flattener
from .trimming import Route

PACKAGE = Path(__file__).parents[1]
TITLE = f"Made from fpt_adapters {__version__}, which has its comments, docstrings and tests."
PROCESSOR_CONFIG = "preprocessor_config.json"
ENTRIES = {
    "configuration_fpt": "configuration_fpt.py",
    "modeling_fpt": "modeling_fpt.py",
    "image_processing_fpt": "inputs/image_processing_fpt.py",
    "audio_feature_extraction_fpt": "inputs/audio_feature_extraction_fpt.py",
    "feature_extraction_fpt": "inputs/feature_extraction_fpt.py",
    "table_processing_fpt": "inputs/table_processing_fpt.py",
    "time_series_processing_fpt": "inputs/time_series_processing_fpt.py",
}
APART = ("series_grid", "series_times")  # a file each, which asks for pandas: models, which share others, do not


def _has(model_type: str) -> Callable[[FPTConfig], bool]:
    return lambda config: config.base_model_config.model_type == model_type


def _reads(*input_types: str) -> Callable[[FPTConfig], bool]:
    """Transformers builds an `FPTConfig()` to learn its defaults, which reads the default input type."""
    return lambda config: not {config.input_type, FPTConfig.input_type}.isdisjoint(input_types)


def _is_quantized(config: FPTConfig) -> bool:
    return config.base_quantization is not None


def _has_adapter(config: FPTConfig) -> bool:
    return config.peft_config is not None


AT_HOME = ("fit", "find", "config_fields")  # methods that only who trains calls
IN_PIECES = ("Head", "InputType", "Problem")  # only used methods of these classes are exported (not those for cards)

# Modules that are imported inside functions, or for the import's effect -> whether a model's code needs them.
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
    "heads/forecast.py": _reads("windows"),
    "heads/image.py": lambda config: config.input.modality == "image",
    "heads/audio.py": lambda config: config.input.modality == "audio",
    "inputs/table.py": lambda config: True,
    **{f"inputs/{type(kind).__module__.rpartition('.')[2]}.py": _reads(name) for name, kind in INPUTS.items()},
    "inputs/series.py": _reads("series", "audio"),
    "backbones/images.py": lambda config: config.base_model_config.model_type in IMAGE_FAMILIES,
    "backbones/random_weights.py": lambda config: config.backbone_init != "pretrained",
    "backbones/device_maps.py": _is_quantized,
    "backbones/quantized_layers.py": _is_quantized,
    "rules/quantization.py": _is_quantized,
    "rules/depth.py": lambda config: config.backbone_layers is not None,
}


def code_files(config: FPTConfig, processor: bytes = b"{}") -> dict[str, str]:
    """The code to export with a model of `config`: file name -> text.

    `processor`: the preprocessor_config.json of its processor, whose code is exported too.
    """
    travelling = frozenset(module for module, needs in TRAVELS_WITH.items() if needs(config))
    return _flattened(travelling, (*auto_map(config).values(), *_processor_map(json.loads(processor)).values()))


@functools.cache
def _flattened(travelling: frozenset[str], classes: tuple[str, ...]) -> dict[str, str]:
    """Flatten `classes` ("module.Class") with everything they need, and of `TRAVELS_WITH` only `travelling`."""

    def travels(path: Path) -> bool | None:
        module = path.relative_to(PACKAGE).as_posix()
        return module in travelling if module in TRAVELS_WITH else None

    flattener = Flattener(
        Route(_flat_name, travels, "This needs: pip install fpt_adapters", IN_PIECES, AT_HOME), TITLE
    )
    for module, _, name in (place.partition(".") for place in classes):
        flattener.add(PACKAGE / ENTRIES[module], name)
    return flattener.files()


def _flat_name(path: Path) -> str:
    if path.stem in APART:
        return f"fpt_{path.stem}"
    return path.stem if path.stem in ENTRIES else f"fpt_{path.relative_to(PACKAGE).with_suffix('').parts[0]}"


def write_exported(folder: Path, config: FPTConfig) -> None:
    """Write the code of a model of `config` into `folder`, and name it in the configuration of the processor there."""
    processor = folder / PROCESSOR_CONFIG
    described = processor.read_bytes() if processor.is_file() else b"{}"
    for name, text in code_files(config, described).items():
        (folder / name).write_text(text, encoding="utf-8")
    if described != (named := name_code(described, True)):
        processor.write_bytes(named)


def name_code(processor: bytes, named: bool) -> bytes:
    """Make a preprocessor_config.json name the code of our processors, or (`named=False`) no code."""
    values = json.loads(processor)
    wanted = {name: value for name, value in values.items() if name != "auto_map"}
    if named and (processor_map := _processor_map(values)):
        wanted["auto_map"] = processor_map
    return processor if wanted == values else f"{json.dumps(wanted, indent=2, sort_keys=True)}\n".encode()


def _processor_map(processor: Mapping[str, Any]) -> dict[str, str]:
    return PROCESSORS.get(processor.get("image_processor_type") or processor.get("feature_extractor_type"), {})
