"""The library's code, copied beside a model so that transformers alone can load it with `trust_remote_code=True`.

What travels is `modeling_fpt.py` and all that it imports, the processors among them: flat siblings with plain relative
imports, the only form that transformers fetches from a repo (`transformers.dynamic_module_utils`).
"""

import json
import os
import shutil
from pathlib import Path

from transformers.dynamic_module_utils import get_relative_import_files

from .feature_extraction_fpt import FPTFeatureExtractor
from .image_processing_fpt import FPTImageProcessor

ENTRY = Path(__file__).with_name("modeling_fpt.py")
AUTO_MAP = {
    "AutoConfig": "configuration_fpt.FPTConfig",
    "AutoModel": "modeling_fpt.FPTModel",
    "AutoModelForImageClassification": "modeling_fpt.FPTForImageClassification",
    "AutoModelForSequenceClassification": "modeling_fpt.FPTForSequenceClassification",
    "AutoModelForTokenClassification": "modeling_fpt.FPTForTokenClassification",
}
PROCESSOR_AUTO_MAP = {  # by the class that a preprocessor_config.json names
    FPTImageProcessor.__name__: {"AutoImageProcessor": "image_processing_fpt.FPTImageProcessor"},
    FPTFeatureExtractor.__name__: {"AutoFeatureExtractor": "feature_extraction_fpt.FPTFeatureExtractor"},
}
CODE_PACKAGE = "transformers_modules"  # where transformers imports a repo's own code


def runs_from_repo(cls: type) -> bool:
    """Whether a class was loaded from a repo's own code, and not from the installed library."""
    return cls.__module__.partition(".")[0] == CODE_PACKAGE


def code_files() -> list[Path]:
    """`modeling_fpt.py` and every module that it needs, as files."""
    needed = {Path(file) for file in get_relative_import_files(os.fspath(ENTRY))}
    return sorted({ENTRY, *needed})


def write_code(folder: str | os.PathLike) -> None:
    """Copy the code into `folder`, and name it in the processor's configuration there, if there is one.

    The model's own configuration names it by `AUTO_MAP`, which `save_pretrained` writes.
    """
    for file in code_files():
        target = Path(folder) / file.name
        if not (target.exists() and target.samefile(file)):
            shutil.copyfile(file, target)
    name_code(folder, named=True)


def name_code(folder: str | os.PathLike, named: bool) -> None:
    """Name the code in the configuration of the processor in `folder`, if there is one, or take its names out."""
    file = Path(folder) / "preprocessor_config.json"
    if not file.is_file():
        return
    values = json.loads(file.read_text(encoding="utf-8"))
    kind = values.get("image_processor_type") or values.get("feature_extractor_type")
    wanted = {name: value for name, value in values.items() if name != "auto_map"}
    if named and kind in PROCESSOR_AUTO_MAP:
        wanted["auto_map"] = PROCESSOR_AUTO_MAP[kind]
    if wanted != values:
        file.write_text(json.dumps(wanted, indent=2, sort_keys=True) + "\n", encoding="utf-8")
