"""The trainable-delta checkpoint: `config.json` and a `model.safetensors` that holds the trained tensors alone.

Written so that a crash or a full disk leaves the previous checkpoint whole; read so that nothing missing, unexpected,
misshapen or altered passes. Each tensor's digest lies in the file's metadata, because safetensors checks none.
"""

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME, logging

from .configuration_fpt import FPTConfig, config_digest
from .plain_names import named_buffers, named_modules, plain_state
from .sharding import whole_shape

logger = logging.get_logger(__name__)

DIGESTS_KEY = "fpt_digests"  # metadata: hex digests of the tensors in the order of their sorted names
CONFIG_KEY = "fpt_config"  # metadata: digest of the config.json that was saved with the tensors
DTYPES = (torch.float32, torch.bfloat16, torch.float16)  # half precision: of a model that an earlier version saved
BATCH_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
STAGING_PREFIX = ".saving-"
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
    another kind of model, whose weights would be lost, and OSError as the file system does.
    """
    directory = Path(directory)
    refuse_foreign(directory)
    directory.mkdir(parents=True, exist_ok=True)
    for left_over in directory.glob(STAGING_PREFIX + "*"):
        shutil.rmtree(left_over, ignore_errors=True)
    staging = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=directory))
    try:
        tensors = as_stored(tensors)
        config.save_pretrained(staging)
        metadata = {
            "format": "pt",
            DIGESTS_KEY: ",".join(tensor_digest(tensor) for tensor in tensors.values()),
            CONFIG_KEY: _config_digest(staging / CONFIG_NAME),
        }
        save_file(tensors, staging / SAFE_WEIGHTS_NAME, metadata=metadata)
        os.chmod(staging / SAFE_WEIGHTS_NAME, (staging / CONFIG_NAME).stat().st_mode)  # safetensors makes it private
        for name in (CONFIG_NAME, SAFE_WEIGHTS_NAME):
            with open(staging / name, "rb") as file:
                os.fsync(file.fileno())
        _publish(staging, directory)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


@contextlib.contextmanager
def new_folder(directory: str | os.PathLike, what: str) -> Iterator[Path]:
    """A folder to write into, which then becomes `directory`, made whole or not at all.

    Raises ValueError, saying that `what` is saved there, where `directory` holds something or is a file.
    """
    directory = Path(directory)
    if directory.is_file() or (directory.is_dir() and any(directory.iterdir())):
        raise ValueError(f"{what} is saved into a new folder, but {directory} holds something: name another.")
    directory.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=STAGING_PREFIX, dir=directory.parent) as staging:
        written = Path(staging) / directory.name
        written.mkdir()
        yield written
        if directory.is_dir():
            directory.rmdir()
        written.rename(directory)


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


def _config_digest(path: Path) -> str:
    values = json.loads(path.read_text(encoding="utf-8"))
    if "configuration_files" in values:
        raise DeltaError(f"{path} has configuration_files, so that another file would be read instead: remove it.")
    return config_digest(values)


def read_digests(path: str | os.PathLike) -> str:
    """What tells one delta file's values from another's: the digests of its tensors, as its metadata has them."""
    with whole_file(Path(path)), safe_open(path, framework="pt") as file:
        return (file.metadata() or {}).get(DIGESTS_KEY, "")


def check_config(config: FPTConfig, config_path: Path, source: str) -> None:
    """Raise DeltaError for a configuration that an Auto class read from `source`, but not from this file."""
    if config.name_or_path == source and config._digest_as_read not in (None, _config_digest(config_path)):
        raise DeltaError(
            f"The configuration of {source} that was read first is not the one there now: it was damaged, or somebody "
            "pushed in between. Load again."
        )


def read_delta(path: str | os.PathLike, config_path: str | os.PathLike) -> dict[str, Tensor]:
    """Read a delta file and check each tensor's digest, and that `config_path` was saved with it.

    Raises DeltaError, naming the tensor.
    """
    path = Path(path)
    with whole_file(path), safe_open(path, framework="pt") as file:
        metadata = file.metadata() or {}
        names = sorted(file.keys())
        tensors = {name: file.get_tensor(name) for name in names}
    if DIGESTS_KEY not in metadata:
        raise DeltaError(f"{path} was not written by fpt_adapters: its metadata has no {DIGESTS_KEY}.")
    digests = metadata[DIGESTS_KEY].split(",") if names else []
    if len(digests) != len(names):
        raise DeltaError(f"{path} is corrupt: {len(names)} tensors, but {len(digests)} digests. Fetch it again.")
    if metadata.get(CONFIG_KEY) != _config_digest(Path(config_path)):
        raise DeltaError(
            f"{path} and {Path(config_path).name} beside it were not saved together: a save was cut off between them, "
            "or the configuration was edited since. Take another checkpoint, or undo the edit."
        )
    for name, digest in zip(names, digests, strict=True):
        if tensor_digest(tensors[name]) != digest:
            raise DeltaError(f"{path} is corrupt: the values of {name} are not those that were saved. Fetch it again.")
    return plain_state(tensors)


@contextlib.contextmanager
def whole_file(path: Path) -> Iterator[None]:
    """Raise DeltaError for a safetensors file that is damaged as it is read."""
    try:
        yield
    except (SafetensorError, EOFError) as error:
        raise DeltaError(f"{path} is truncated or no safetensors file ({error}). Fetch or save it again.") from error


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
    return ", ".join(names[:NAMES_SHOWN]) + more


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
