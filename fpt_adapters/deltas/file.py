"""The trainable-delta checkpoint: `config.json` and a `model.safetensors` that holds the trained tensors alone.

Written so that a crash or a full disk leaves the previous checkpoint whole; read so that nothing missing, unexpected,
misshapen or altered passes. Each tensor's digest lies in the file's metadata, because safetensors checks none. There
too lies the whole configuration, so that a save is one rename for whoever reads meanwhile: `config.json` is the copy
that Auto classes find. (Files of earlier versions have the configuration's digest alone.)
"""

import contextlib
import hashlib
import io
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save_file
from torch import Tensor, nn
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME, logging

from ..configuration_fpt import EDITABLE, FPTConfig, config_digest
from ..rules.config_rules import short
from ..torch_utils.plain_names import named_buffers, named_modules, plain_state
from ..torch_utils.sharding import whole_shape
from .disk import STAGING_PREFIX, room_for, share_weights, size_of

logger = logging.get_logger(__name__)

DIGESTS_KEY = "fpt_digests"  # metadata: hex digests of the tensors in the order of their sorted names
CONFIG_KEY = "fpt_config"  # metadata: digest of the config.json that was saved with the tensors
CONFIG_TEXT_KEY = "fpt_config_json"  # metadata: that configuration itself
DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # half precision: of a model that an earlier version saved
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
STALE = 600  # seconds after which a staging folder is one that a crash left
MOST_TEXT, MOST_TENSORS = 2**24, 2**16  # bytes of JSON, in a file or a header; far beyond any delta's
SETTLING = 100  # times that a save looks whether another one came between its two renames
NAMES_SHOWN = 4


class DeltaError(ValueError):
    """A delta checkpoint that cannot be trusted, or that does not fit the model or the base it is loaded on."""


def tensor_digest(tensor: Tensor) -> str:
    """16 hex digits over a tensor's bytes."""
    flat = tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
    return hashlib.sha256(flat.numpy()).hexdigest()[:16]


def persistent_buffers(model: nn.Module) -> dict[str, Tensor]:
    """The floating-point buffers that a state dict holds (running statistics of a batch norm), by name."""
    floating = {name for name, buffer in named_buffers(model).items() if buffer.is_floating_point()}
    if not floating:  # most backbones; a state dict is slow to make
        return {}
    return {name: tensor for name, tensor in plain_state(model.state_dict()).items() if name in floating}


def running_statistics(model: nn.Module) -> dict[str, Tensor]:
    """The buffers that training changes: a batch norm's. Others are frozen, as the bias that chooses experts."""
    norms = {name: module for name, module in named_modules(model).items() if isinstance(module, BATCH_NORMS)}
    buffers = ((f"{path}.{name}", b) for path, norm in norms.items() for name, b in norm.named_buffers(recurse=False))
    return {name: buffer for name, buffer in buffers if buffer.is_floating_point()}


def as_stored(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as a delta holds them: sorted by name, on the CPU, in float32. A warning says where that rounds them."""
    wide = [name for name, tensor in tensors.items() if tensor.dtype == torch.float64]
    if wide:
        logger.warning(f"{wide[0]} is of torch.float64 ({len(wide)} tensors in all): a delta keeps them in float32.")
    return {name: tensors[name].detach().to("cpu", torch.float32).contiguous() for name in sorted(tensors)}


def write_delta(directory: str | os.PathLike, config: FPTConfig, tensors: dict[str, Tensor]) -> None:
    """Write `config.json` and `model.safetensors` into `directory` (made if missing).

    Both are first written beside their place and flushed, then renamed. Raises DeltaError where `directory` holds
    another kind of model, whose weights would be lost, NoSpaceError for a full disk, and OSError as the file system.
    """
    directory = Path(directory)
    refuse_foreign(directory)
    tensors = as_stored(tensors)
    if unknown := config.unknown_attributes():
        logger.warning(f"{_listed(unknown)} of the model's config is no field of FPTConfig: it was not saved.")
    with room_for(directory, size_of(tensors.values())):
        directory.mkdir(parents=True, exist_ok=True)
        _remove_stale(directory)
        _write(directory, config, tensors)


def _write(directory: Path, config: FPTConfig, tensors: dict[str, Tensor]) -> None:
    staging = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=directory))
    try:
        config.save_pretrained(staging)
        values = read_json(staging / CONFIG_NAME)
        metadata = {
            "format": "pt",
            DIGESTS_KEY: ",".join(tensor_digest(tensor) for tensor in tensors.values()),
            CONFIG_KEY: config_digest(values),
            CONFIG_TEXT_KEY: json.dumps(values),
        }
        save_file(tensors, staging / SAFE_WEIGHTS_NAME, metadata=metadata)
        share_weights(staging)
        for name in (CONFIG_NAME, SAFE_WEIGHTS_NAME):
            _flush(staging / name)
        _publish(staging, directory)
        _settle(staging, directory)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _remove_stale(directory: Path) -> None:
    """Remove what a crash left; another process may be saving here too."""
    for folder in directory.glob(STAGING_PREFIX + "*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - folder.stat().st_mtime > STALE:
                shutil.rmtree(folder, ignore_errors=True)


def _flush(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _settle(staging: Path, directory: Path) -> None:
    """Have config.json be the copy of what the weights file says, where several processes save into one folder."""
    for _ in range(SETTLING):
        said = saved_config(directory / SAFE_WEIGHTS_NAME)
        if said is None or _says(directory / CONFIG_NAME, said):
            return
        copy = staging / CONFIG_NAME
        copy.write_text(json.dumps(said, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        _flush(copy)
        os.replace(copy, directory / CONFIG_NAME)


def _says(config_file: Path, values: dict[str, Any]) -> bool:
    try:
        return read_json(config_file) == values
    except (OSError, DeltaError):
        return False


def refuse_foreign(directory: Path) -> None:
    """Raise DeltaError where `directory` holds a checkpoint that is no delta, or is a file."""
    if directory.is_file():
        raise DeltaError(f"A delta is saved into a folder, but {directory} is a file: name another place.")
    config_file = directory / CONFIG_NAME
    if not config_file.is_file():
        if (directory / SAFE_WEIGHTS_NAME).is_file():
            raise DeltaError(f"{directory} holds a {SAFE_WEIGHTS_NAME} of unknown kind: save the delta elsewhere.")
        return
    try:
        model_type = json.loads(config_file.read_text(encoding="utf-8")).get("model_type")
    except (ValueError, AttributeError):
        model_type = "unreadable"
    if model_type != FPTConfig.model_type:
        raise DeltaError(
            f"{directory} holds a model of type {model_type!r}, which saving a delta there would overwrite: "
            "save into another folder."
        )


def _publish(staging: Path, directory: Path) -> None:
    config_file = directory / CONFIG_NAME
    previous = config_file.read_bytes() if config_file.is_file() else None
    if previous != (staging / CONFIG_NAME).read_bytes():
        os.replace(staging / CONFIG_NAME, config_file)
    try:
        os.replace(staging / SAFE_WEIGHTS_NAME, directory / SAFE_WEIGHTS_NAME)
    except OSError:
        if previous is None:
            config_file.unlink()
        else:
            (staging / CONFIG_NAME).write_bytes(previous)
            os.replace(staging / CONFIG_NAME, config_file)
        raise


def read_json(path: Path) -> dict[str, Any]:
    """The values of a JSON file. Raises DeltaError for what is none."""
    if (size := path.stat().st_size) > MOST_TEXT:
        raise DeltaError(f"{path} has {size} bytes, where at most {MOST_TEXT} are read.")
    return parse_json(path.read_text(encoding="utf-8", errors="replace"), path)


def parse_json(text: str, source: str | os.PathLike) -> dict[str, Any]:
    """The values of a JSON text, which messages say is of `source`. Raises DeltaError for what holds none by name."""
    try:
        values = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DeltaError(f"{source} is no JSON ({error!s:.200}): fetch or save it again.") from error
    if not isinstance(values, dict):
        raise DeltaError(f"{source} holds settings by name; got {short(values)}.")
    return values


def _config_beside(path: Path) -> dict[str, Any]:
    """The configuration of a delta file that does not hold its own."""
    values = read_json(path)
    if "configuration_files" in values:
        raise DeltaError(f"{path} has configuration_files, so that another file would be read instead: remove it.")
    return values


def _read_header(file: BinaryIO) -> dict[str, Any]:
    """What the header of a safetensors file says. Raises SafetensorError for what is none."""
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
    """The configuration that a delta file itself holds; None for one of an earlier version. Raises DeltaError."""
    return _config_of(read_metadata(path), path)


def _config_of(metadata: dict[str, str], path: str | os.PathLike) -> dict[str, Any] | None:
    if CONFIG_TEXT_KEY not in metadata:
        return None
    values = parse_json(metadata[CONFIG_TEXT_KEY], f"The configuration in {path}")
    if metadata.get(CONFIG_KEY) != config_digest(values):
        raise DeltaError(f"{path} is corrupt: its configuration is not the one that was saved. Fetch it again.")
    return values


def read_digests(path: str | os.PathLike) -> str:
    """What tells one delta file's values from another's: the digests of its tensors, as its metadata has them."""
    return read_metadata(path).get(DIGESTS_KEY, "")


def read_delta(path: str | os.PathLike, config_path: str | os.PathLike) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Read a delta file: its tensors, each checked by its digest, and the configuration that was saved with them.

    The file has it itself; for one of an earlier version it is that of `config_path`, if the two were saved together.
    Raises DeltaError, naming the tensor.
    """
    path = Path(path)
    with whole_file(path):  # opened once, so that all is of one version: safe_open does it twice
        data = path.read_bytes()
        header = _read_header(io.BytesIO(data))
        metadata, names = _metadata_of(header), sorted(header.keys() - {"__metadata__"})
        if len(names) > MOST_TENSORS:
            raise SafetensorError(f"it has {len(names)} tensors")
        tensors = load(data)
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
    return plain_state(tensors), values


def warn_of_edits(config_path: Path, path: Path, values: dict[str, Any]) -> None:
    """Warn where config.json says otherwise than the delta file at `path`, whose configuration is `values`."""
    if _says(config_path, values) or saved_config(path) not in (None, values) or _says(config_path, values):
        return  # or another save came in between
    there = read_json(config_path)
    names = sorted(name for name in {*there, *values} if there.get(name) != values.get(name))
    logger.warning(
        f"{config_path} was edited, or a save was cut off: it and the delta file beside it differ in "
        f"{_listed(names)}. Loading goes by the delta file; fpt_adapters.update_config() changes both."
    )


def update_config(directory: str | os.PathLike, **fields: Any) -> None:
    """Change fields of a saved delta that say nothing of its weights: names of labels, the base's Hub id, a dropout.

    `fields` are `FPTConfig`'s: `id2label` (and `label2id`, else made of it), `base_model`, `base_model_revision`,
    `backbone_dropout`, `input_dropout`, `dtype`. Both files say it then; config.json alone is a copy, which loading
    does not go by. Raises ValueError for other fields, DeltaError for a folder without a delta.
    """
    wrong = sorted(fields.keys() - EDITABLE)
    if wrong:
        raise ValueError(
            f"{wrong[0]} says what the weights compute: only {', '.join(EDITABLE)} can be changed in a saved delta."
        )
    directory = Path(directory)
    tensors, values = read_delta(directory / SAFE_WEIGHTS_NAME, directory / CONFIG_NAME)
    if "id2label" in fields:
        values.pop("label2id", None)
    write_delta(directory, FPTConfig.from_dict(values | fields), tensors)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[None]:
    """Raise DeltaError for a safetensors file that is damaged as it is read."""
    try:
        yield
    except (SafetensorError, EOFError, KeyError) as error:  # KeyError: a dtype that torch does not know
        raise DeltaError(
            f"{path} is truncated or no safetensors file ({error!s:.200}). Fetch or save it again."
        ) from error


def check_delta(
    tensors: Mapping[str, Tensor],
    expected: Mapping[str, Tensor],
    optional: Mapping[str, Tensor],
    source: str | os.PathLike,
) -> None:
    """Check a delta against the tensors that the model trains. Raises DeltaError, naming what differs.

    `optional`: tensors that may be there or not (running statistics, saved only where training changed them).
    """
    missing = [name for name in expected if name not in tensors]
    unexpected = sorted(set(tensors) - set(expected) - set(optional))
    if missing:
        raise DeltaError(f"{source} lacks {_listed(missing)}, which this model trains: it belongs to another model.")
    if unexpected:
        raise DeltaError(f"{source} has {_listed(unexpected)}, which this model does not train (see `trainable`).")
    places = {**expected, **optional}
    for name, tensor in tensors.items():
        got, wanted = tuple(tensor.shape), tuple(whole_shape(places[name]))
        if got != wanted:
            raise DeltaError(f"{source}: {name} has shape {got}, but this model needs {wanted}.")
        if tensor.dtype not in DTYPES:
            raise DeltaError(f"{source}: {name} is of {tensor.dtype}, but a delta is of torch.float32.")
        if not torch.isfinite(tensor).all():
            raise DeltaError(f"{source}: {name} is not finite, which no delta is that was saved here.")


def _listed(names: list[str]) -> str:
    more = f" and {len(names) - NAMES_SHOWN} more" if len(names) > NAMES_SHOWN else ""
    return ", ".join(f"{name:.200}" for name in names[:NAMES_SHOWN]) + more


@torch.no_grad()
def overlay(model: nn.Module, tensors: Mapping[str, Tensor]) -> None:
    """Put checked tensors into the parameters and buffers of their names.

    A parameter that has values is filled in place, so that what shares it follows; one on the meta device is replaced.
    """
    for name, tensor in tensors.items():
        owner_name, _, leaf = name.rpartition(".")
        owner = model.get_submodule(owner_name)
        place = getattr(owner, leaf)
        if place.is_meta:
            setattr(owner, leaf, nn.Parameter(tensor.to(place.dtype), requires_grad=place.requires_grad))
        else:
            place.copy_(tensor)
