"""Writing a delta: after a crash or on a full disk the old one stays whole; a reader sees the old or the new one."""

import contextlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME, logging

from ..configuration_fpt import FPTConfig
from ..rules.config_digest import EDITABLE, config_digest
from ..version import __version__
from .disk import STAGING_PREFIX, room_for, share_weights, size_of
from .errors import DeltaError
from .file import (
    CONFIG_KEY,
    CONFIG_TEXT_KEY,
    DIGESTS_KEY,
    FORMAT,
    FORMAT_KEY,
    VERSION_KEY,
    read_delta,
    read_json,
    saved_config,
    says,
)
from .tensors import as_stored, listed, tensor_digest

logger = logging.get_logger(__name__)

STALE = 600  # a staging folder older than this many seconds was left by a crash
OF_TOKENIZER = ("bos_token_id", "eos_token_id")  # which Trainer sets in every configuration, and the tokenizer saves
SETTLING = 100  # how often a save checks whether another one came between its two renames


def write_delta(
    directory: str | os.PathLike, config: FPTConfig, tensors: Mapping[str, Tensor], format: int = FORMAT
) -> None:
    """Write `config.json` and `model.safetensors` into `directory` (made if missing).

    `tensors`: by place (in `format` 0: by name). Both files are written under temporary names and flushed, then
    renamed. Raises DeltaError if `directory` holds another kind of model, whose weights would be lost, NoSpaceError
    for a full disk, and OSError as the file system does.
    """
    directory = Path(directory)
    refuse_foreign(directory)
    tensors = as_stored(tensors)
    if unknown := [name for name in config.unknown_attributes() if name not in OF_TOKENIZER]:
        logger.warning(f"{listed(unknown)} of the model's config is no field of FPTConfig: it was not saved.")
    with room_for(directory, size_of(tensors.values())):
        directory.mkdir(parents=True, exist_ok=True)
        _remove_stale(directory)
        _write(directory, config, tensors, format)


def _write(directory: Path, config: FPTConfig, tensors: dict[str, Tensor], format: int) -> None:
    staging = Path(tempfile.mkdtemp(prefix=STAGING_PREFIX, dir=directory))
    try:
        config.save_pretrained(staging)
        values = read_json(staging / CONFIG_NAME)
        metadata = metadata_of(values, map(tensor_digest, tensors.values()), format)
        save_file(tensors, staging / SAFE_WEIGHTS_NAME, metadata=metadata)
        share_weights(staging)
        for name in (CONFIG_NAME, SAFE_WEIGHTS_NAME):
            _flush(staging / name)
        _publish(staging, directory)
        _settle(staging, directory)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def metadata_of(values: dict[str, Any], digests: Iterable[str], format: int = FORMAT) -> dict[str, str]:
    """The metadata of a delta's file; `values`: of its configuration, `digests`: of its tensors, sorted by name."""
    metadata = {
        "format": "pt",
        DIGESTS_KEY: ",".join(digests),
        CONFIG_KEY: config_digest(values),
        CONFIG_TEXT_KEY: json.dumps(values),
        VERSION_KEY: __version__,
    }
    return metadata | {FORMAT_KEY: str(format)} if format else metadata


def _remove_stale(directory: Path) -> None:
    """Remove staging folders left by a crash, but not those of other processes that are saving now."""
    for folder in directory.glob(STAGING_PREFIX + "*"):
        with contextlib.suppress(FileNotFoundError):
            if time.time() - folder.stat().st_mtime > STALE:
                shutil.rmtree(folder, ignore_errors=True)


def _flush(path: Path) -> None:
    with open(path, "rb") as file:
        os.fsync(file.fileno())


def _settle(staging: Path, directory: Path) -> None:
    """Make config.json match the weights file, even if several processes save into the folder at once."""
    for _ in range(SETTLING):
        said = saved_config(directory / SAFE_WEIGHTS_NAME)
        if said is None or says(directory / CONFIG_NAME, said):
            return
        copy = staging / CONFIG_NAME
        copy.write_text(json.dumps(said, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        _flush(copy)
        os.replace(copy, directory / CONFIG_NAME)


def refuse_foreign(directory: Path) -> None:
    """Raise DeltaError if `directory` is a file or holds a checkpoint that is no delta."""
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


def update_config(directory: str | os.PathLike, **fields: Any) -> None:
    """Change fields of a saved delta that say nothing of its weights: names of labels, the base's Hub id, a dropout.

    `fields` are `FPTConfig`'s: `id2label` (and `label2id`, else made of it), `base_model`, `base_model_revision`,
    `backbone_dropout`, `input_dropout`, `dtype`. Both files then say it: config.json is only a copy, which loading
    does not trust. Raises ValueError for other fields, DeltaError for a folder without a delta.
    """
    wrong = sorted(fields.keys() - EDITABLE)
    if wrong:
        raise ValueError(
            f"{wrong[0]} changes what the weights compute: only {', '.join(EDITABLE)} can be changed in a saved delta."
        )
    directory = Path(directory)
    if not (directory / SAFE_WEIGHTS_NAME).is_file():
        raise DeltaError(f"{directory} holds no delta: there is no {SAFE_WEIGHTS_NAME}.")
    delta = read_delta(directory / SAFE_WEIGHTS_NAME, directory / CONFIG_NAME)
    kept = {name: value for name, value in delta.values.items() if name != "label2id" or "id2label" not in fields}
    config, before = FPTConfig.from_dict(kept | fields), FPTConfig.from_dict(delta.values)
    if config.num_labels != before.num_labels:
        raise ValueError(f"the delta has {before.num_labels} labels, but {config.num_labels} names came: name each.")
    if sorted((number, name) for name, number in config.label2id.items()) != sorted(config.id2label.items()):
        raise ValueError("label2id is id2label the other way round, with different names; give id2label only.")
    write_delta(directory, config, delta.tensors, delta.format)
