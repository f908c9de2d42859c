"""The library's code, written beside a model so that transformers alone can load it with `trust_remote_code=True`.

What travels is `modeling_fpt.py` and all that it imports, the processors among them. transformers fetches flat files
with plain relative imports only (`transformers.dynamic_module_utils`), so `backbones/structure.py` becomes
`backbones_structure.py`, and what imports it says so.
"""

import ast
import functools
import json
import os
from pathlib import Path

from ..inputs.feature_extraction_fpt import FPTFeatureExtractor
from ..inputs.image_processing_fpt import FPTImageProcessor

CODE_PACKAGE = "transformers_modules"  # where transformers imports a repo's own code
PACKAGE = Path(__file__).parents[0 if __name__.partition(".")[0] == CODE_PACKAGE else 1]
ENTRIES = ("configuration_fpt", "modeling_fpt", "image_processing_fpt", "feature_extraction_fpt")  # keep their names
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


def runs_from_repo(cls: type) -> bool:
    """Whether a class was loaded from a repo's own code, and not from the installed library."""
    return cls.__module__.partition(".")[0] == CODE_PACKAGE


@functools.cache
def code_files() -> dict[str, str]:
    """`modeling_fpt.py` and every module that it needs, as they lie beside a model: their text, by name."""
    waiting, found = [_place("modeling_fpt")], {}
    while waiting:
        path = waiting.pop()
        name = _flat_name(path)
        if name not in found:
            found[name], needed = _flattened(path)
            waiting += needed
    return dict(sorted(found.items()))


def _place(name: str) -> Path:
    """The file of a module that is called `name` when it travels."""
    return next(path for path in PACKAGE.rglob("*.py") if _flat_name(path) == f"{name}.py")


def _flat_name(path: Path) -> str:
    parts = path.relative_to(PACKAGE).parts
    return path.name if path.stem in ENTRIES else "_".join(parts)


def _flattened(path: Path) -> tuple[str, list[Path]]:
    """The text of a module as it travels, and the files that it imports, in functions too."""
    text = path.read_text(encoding="utf-8")
    lines, needed = text.splitlines(keepends=True), []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.level:
            target = path.parents[node.level - 1].joinpath(*node.module.split(".")).with_suffix(".py")
            needed.append(target)
            flat, line = _flat_name(target).removesuffix(".py"), node.lineno - 1
            lines[line] = lines[line].replace(f"from {'.' * node.level}{node.module} ", f"from .{flat} ", 1)
    return "".join(lines), needed


def write_code(folder: str | os.PathLike) -> None:
    """Write the code into `folder`, and name it in the processor's configuration there, if there is one.

    The model's own configuration names it by `AUTO_MAP`, which `save_pretrained` writes.
    """
    for name, text in code_files().items():
        (Path(folder) / name).write_text(text, encoding="utf-8")
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
