"""The files of a delta: `model.safetensors` with only the trained tensors, and `config.json` beside it.

Missing, unexpected, misshapen or altered tensors are refused. The metadata has each tensor's digest, because
safetensors checks nothing. It also has the whole configuration, so that readers see a save as one rename, and
`config.json` is the copy for Auto classes. (The first files have only the configuration's digest.)

Format 1 names tensors by their place in the model, which transformers cannot rename; format 0 by transformers' names.
"""

import contextlib
import io
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, BinaryIO

from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor
from transformers.utils import logging

from ..backbones.places import HEAD_PLACE
from ..rules.config_digest import config_digest
from ..rules.ranges import short
from ..torch_utils.plain_names import plain_state
from ..version import __version__
from .errors import DeltaError
from .tensors import listed, tensor_digest

logger = logging.get_logger(__name__)

DIGESTS_KEY = "fpt_digests"  # metadata: hex digests of the tensors in the order of their sorted names
CONFIG_KEY = "fpt_config"  # metadata: digest of the config.json that was saved with the tensors
FORMAT_KEY, VERSION_KEY = "fpt_format", "fpt_version"  # metadata: the file's format, and the version that wrote it
FORMAT = 1  # the format that is written
CONFIG_TEXT_KEY = "fpt_config_json"  # metadata: the configuration itself
MOST_TEXT, MOST_TENSORS = 2**24, 2**16  # bytes of JSON in a file or header, and tensors: far beyond any delta's


@dataclass(frozen=True)
class Delta:
    """A delta as a value: the tensors that a training adds to a base, and the configuration saved with them.

    `tensors`: on the CPU, by place (see `backbones/places.py`); in format 0 by transformers' names at that time.
    `values`: the contents of config.json.
    """

    tensors: dict[str, Tensor]
    values: dict[str, Any]
    format: int = FORMAT

    def without_head(self) -> "Delta":
        """Return the delta of the headless model."""
        if self.format == 0:
            inner = {name.removeprefix("fpt."): t for name, t in self.tensors.items() if name.startswith("fpt.")}
            return replace(self, tensors=inner or self.tensors)
        return replace(
            self, tensors={place: t for place, t in self.tensors.items() if not place.startswith(HEAD_PLACE)}
        )

    def by_name(self, places: Mapping[str, str], source: str | os.PathLike) -> dict[str, Tensor]:
        """Return the tensors by their names in a model with these `places`. Raises DeltaError for an unknown one."""
        if self.format == 0:
            return dict(self.tensors)
        names = {place: name for name, place in places.items()}
        if unknown := sorted(place for place in self.tensors if place not in names):
            raise DeltaError(f"{source} has {listed(unknown)}, which this model does not train (see `trainable`).")
        return {names[place]: tensor for place, tensor in self.tensors.items()}


def says(config_file: Path, values: dict[str, Any]) -> bool:
    """Whether a config.json can be read and has exactly these `values`."""
    try:
        return read_json(config_file) == values
    except (OSError, DeltaError):
        return False


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON file. Raises DeltaError for one that is no JSON, or holds no fields by name."""
    if (size := path.stat().st_size) > MOST_TEXT:
        raise DeltaError(f"{path} has {size} bytes, where at most {MOST_TEXT} are read.")
    return parse_json(path.read_text(encoding="utf-8", errors="replace"), path)


def parse_json(text: str, source: str | os.PathLike) -> dict[str, Any]:
    """Parse JSON text, called `source` in messages, of values by name. Raises DeltaError for anything else."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DeltaError(f"{source} is no JSON ({error!s:.200}): fetch or save it again.") from error
    if not isinstance(values, dict):
        raise DeltaError(f"{source} holds settings by name; got {short(values)}.")
    return values


def _config_beside(path: Path) -> dict[str, Any]:
    """Read the configuration beside a delta file that does not contain its own. Raises DeltaError."""
    values = read_json(path)
    if "configuration_files" in values:
        raise DeltaError(f"{path} has configuration_files, so that another file would be read instead: remove it.")
    return values


def _read_header(file: BinaryIO) -> dict[str, Any]:
    """Read the header of a safetensors file. Raises SafetensorError for another file."""
    length = int.from_bytes(file.read(8), "little")
    if length > MOST_TEXT:
        raise SafetensorError(f"its header would have {length} bytes")
    try:
        header = json.loads(file.read(length))
    except (ValueError, RecursionError) as error:
        raise SafetensorError(f"its header is no JSON: {error}") from error
    if not isinstance(header, dict):
        raise SafetensorError("its header is no JSON of names")
    return header


def read_metadata(path: str | os.PathLike) -> dict[str, str]:
    """The metadata of a safetensors file. Raises DeltaError for a damaged one."""
    with whole_file(Path(path)), open(path, "rb") as file:
        return _metadata_of(_read_header(file))


def _metadata_of(header: dict[str, Any]) -> dict[str, str]:
    metadata = header.get("__metadata__") or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise SafetensorError("its metadata are no texts by name")
    return metadata


def saved_config(path: str | os.PathLike) -> dict[str, Any] | None:
    """The configuration in a delta file; None if an earlier version wrote it. Raises DeltaError for a damaged file."""
    return _config_of(read_metadata(path), path)


def _config_of(metadata: dict[str, str], path: str | os.PathLike) -> dict[str, Any] | None:
    if CONFIG_TEXT_KEY not in metadata:
        return None
    values = parse_json(metadata[CONFIG_TEXT_KEY], f"The configuration in {path}")
    if metadata.get(CONFIG_KEY) != config_digest(values):
        raise DeltaError(f"{path} is corrupt: its configuration is not the one that was saved. Fetch it again.")
    return values


def read_digests(path: str | os.PathLike) -> str:
    """Return the sorted digests of a delta file's tensors, by which files of any format are compared."""
    return ",".join(sorted(read_metadata(path).get(DIGESTS_KEY, "").split(",")))


def read_delta(path: str | os.PathLike, config_path: str | os.PathLike) -> Delta:
    """Read a delta file, and check each tensor by its digest.

    The file contains its configuration; for a file of an earlier version it is read from `config_path`, if the two
    were saved together. Raises DeltaError, naming the tensor, or the release that can read the file.
    """
    path = Path(path)
    with whole_file(path):  # read once, so that all is of one version: safe_open opens it twice
        data = path.read_bytes()
        header = _read_header(io.BytesIO(data))
        metadata, names = _metadata_of(header), sorted(header.keys() - {"__metadata__"})
        if len(names) > MOST_TENSORS:
            raise SafetensorError(f"it has {len(names)} tensors")
        tensors = load(data)
    format = _format_of(metadata, path)
    if DIGESTS_KEY not in metadata:
        raise DeltaError(f"{path} was not written by fpt_adapters: its metadata has no {DIGESTS_KEY}.")
    digests = metadata[DIGESTS_KEY].split(",") if names else []
    if len(digests) != len(names):
        raise DeltaError(f"{path} is corrupt: {len(names)} tensors, but {len(digests)} digests. Fetch it again.")
    values = _config_of(metadata, path)
    if values is None:
        values = _config_beside(Path(config_path))  # read once: what is checked is what is returned
        if metadata.get(CONFIG_KEY) != config_digest(values):
            raise DeltaError(
                f"{path} and {Path(config_path).name} beside it were not saved together: a save was cut off between "
                "them, or the configuration was edited since. Take another checkpoint, or undo the edit."
            )
    for name, digest in zip(names, digests, strict=True):
        if tensor_digest(tensors[name]) != digest:
            raise DeltaError(f"{path} is corrupt: the values of {name} are not those that were saved. Fetch it again.")
    return Delta(plain_state(tensors), values, format)


def _format_of(metadata: dict[str, str], path: Path) -> int:
    named, version = metadata.get(FORMAT_KEY, "0"), metadata.get(VERSION_KEY, "a later version")
    if named not in map(str, range(FORMAT + 1)):
        raise DeltaError(
            f"{path} is a delta of format {named:.20}, and this fpt_adapters ({__version__}) reads those up to "
            f"{FORMAT}: fpt_adapters {version:.20} wrote it. pip install --upgrade fpt_adapters"
        )
    return int(named)


def warn_of_edits(config_path: Path, path: Path, values: dict[str, Any]) -> None:
    """Warn if config.json differs from `values`, the configuration in the delta file at `path`."""
    if says(config_path, values) or saved_config(path) not in (None, values) or says(config_path, values):
        return  # the same, or another save came in between
    there = read_json(config_path)
    names = sorted(name for name in {*there, *values} if there.get(name) != values.get(name))
    logger.warning(
        f"{config_path} was edited, or a save was cut off: it and the delta file beside it differ in "
        f"{listed(names)}. Loading goes by the delta file; fpt_adapters.update_config() changes both."
    )


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[None]:
    """Context manager for reading a safetensors file: raise DeltaError if it is damaged."""
    try:
        yield
    except (SafetensorError, EOFError, KeyError) as error:  # KeyError: a dtype that torch does not know
        raise DeltaError(
            f"{path} is truncated or no safetensors file ({error!s:.200}). Fetch or save it again."
        ) from error
