"""The packages for the cases: which are installed, and whether those that were brought as wheels fit the others."""

import importlib.metadata
import importlib.util
import platform

NEEDED = {  # import name -> package
    "torch": "torch",
    "transformers": "transformers",
    "accelerate": "accelerate",
    "peft": "peft",
    "datasets": "datasets",
    "evaluate": "evaluate",
    "jinja2": "jinja2",
    "PIL": "pillow",
    "safetensors": "safetensors",
    "packaging": "packaging",
    "numpy": "numpy",
    "pandas": "pandas",
    "pyarrow": "pyarrow",
}
SHOWN = (*NEEDED.values(), "huggingface-hub", "tokenizers", "triton", "bitsandbytes")
CARRIED = ("datasets", "evaluate", "bitsandbytes")  # perhaps brought without their requirements


def missing() -> list[str]:
    """The needed packages that are not installed."""
    return [package for name, package in NEEDED.items() if importlib.util.find_spec(name) is None]


def versions() -> dict[str, str]:
    """The versions of Python and the packages."""
    return {"python": platform.python_version()} | {name: version(name) or "not installed" for name in SHOWN}


def version(package: str) -> str | None:
    """The version of a package; None if it is not installed."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def unmet() -> list[str]:
    """Requirements of the carried packages that are missing or have another version."""
    from packaging.requirements import Requirement

    found = []
    for package in filter(version, CARRIED):
        for asked in map(Requirement, importlib.metadata.requires(package) or []):
            there = version(asked.name)
            if asked.marker is not None and not asked.marker.evaluate({"extra": ""}):
                continue
            if there is None or not asked.specifier.contains(there, prereleases=True):
                found.append(f"{package} asks for {asked}, there is {there or 'none'}")
    return found
