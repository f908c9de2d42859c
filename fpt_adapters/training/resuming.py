"""Checking that a checkpoint has all that a resumed training needs to continue exactly."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerState
from transformers.trainer import SCHEDULER_NAME, TRAINER_STATE_NAME
from transformers.trainer_callback import ExportableState
from transformers.trainer_utils import PREFIX_CHECKPOINT_DIR
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME, logging

from ..deltas.errors import DeltaError
from ..deltas.file import read_delta, read_json
from ..deltas.tensors import check_delta, running_statistics
from ..models.pretrained import FPTPreTrainedModel

logger = logging.get_logger(__name__)

OPTIMIZER_STATE = "state of the optimizer and the schedule"
OPTIMIZER, DEEPSPEED = "optimizer", "global_step"  # how names of files and folders with an optimizer's state begin


def find_checkpoint(given: str | bool | None, folder: Path) -> Path | None:
    """The checkpoint for the argument of `Trainer.train`: a path, True for the last one in `folder`, or None."""
    if not given:
        return None
    return last_checkpoint(folder) if given is True else Path(given)


def last_checkpoint(folder: Path) -> Path | None:
    """The newest complete checkpoint in `folder`; a warning names incomplete ones that are passed over.

    None if all are incomplete: the training begins anew. Raises ValueError if there is no checkpoint at all, or only
    those of `save_only_model`.
    """
    found = [path for path in folder.glob(f"{PREFIX_CHECKPOINT_DIR}-*") if path.is_dir()]
    found = [path for path in found if path.name.removeprefix(f"{PREFIX_CHECKPOINT_DIR}-").isdecimal()]
    if not found:
        raise ValueError(f"No checkpoint to resume from in {os.fspath(folder)!r}.")
    for path in sorted(found, key=lambda path: int(path.name.rpartition("-")[2]), reverse=True):
        lacking = _lacking(path)
        if lacking is None:
            return path
        logger.warning(f"{path} is passed over: it has no {lacking}, so that its save was cut off.")
    if all(_lacking(path) == OPTIMIZER_STATE for path in found):
        raise ValueError(_without_state(folder))
    logger.warning(f"No checkpoint in {os.fspath(folder)!r} is whole: the training begins anew.")
    return None


def _lacking(folder: Path) -> str | None:
    """The first thing that a checkpoint lacks of what Trainer writes; None if it is complete."""
    for name in (CONFIG_NAME, SAFE_WEIGHTS_NAME, TRAINER_STATE_NAME):
        if not (folder / name).is_file():
            return name
    try:
        json.loads((folder / TRAINER_STATE_NAME).read_text(encoding="utf-8"))
    except ValueError:
        return f"whole {TRAINER_STATE_NAME}"
    files = " ".join(sorted(os.listdir(folder)))
    return None if DEEPSPEED in files or (OPTIMIZER in files and SCHEDULER_NAME in files) else OPTIMIZER_STATE


def _without_state(folder: Path) -> str:
    return (
        f"{folder} holds only the model, as save_only_model=True leaves it: resumed, the optimizer and the "
        "learning rate would start anew in the middle of the training. To train on from its weights in a new "
        "training, load them with from_pretrained, and leave resume_from_checkpoint out."
    )


def check_checkpoint(folder: Path, model: FPTPreTrainedModel) -> None:
    """Raise DeltaError, naming what differs, for a checkpoint that is not from a training of exactly this `model`.

    Raises ValueError for one of `save_only_model`, whose optimizer would start anew.
    """
    lacking = _lacking(folder)
    if lacking == OPTIMIZER_STATE:
        raise ValueError(_without_state(folder))
    if lacking is not None:
        raise DeltaError(f"{folder} is no checkpoint of this model: it has no {lacking}.")
    read_json(folder / CONFIG_NAME)  # Trainer reads it too
    delta = read_delta(folder / SAFE_WEIGHTS_NAME, folder / CONFIG_NAME)
    _check_config(folder, delta.values, model)
    check_delta(delta.by_name(model.tensor_places(), folder), model.delta_tensors(), running_statistics(model), folder)


def _check_config(folder: Path, saved: dict[str, Any], model: FPTPreTrainedModel) -> None:
    config = model.config
    base = saved.get("base_model_fingerprint")
    if base not in model.fpt_model.base_fingerprints.values():
        raise DeltaError(
            f"{folder} was trained on another base: its fingerprint is {base}, this model's is "
            f"{config.base_model_fingerprint}."
        )
    quantization = saved.get("base_quantization")
    if quantization != config.base_quantization:
        raise DeltaError(
            f"{folder} was trained on a base quantised by {quantization}, this model's by {config.base_quantization}."
        )
    if saved.get("trainable") != config.trainable:
        raise DeltaError(f"{folder} trains {saved.get('trainable')}, this model {config.trainable}.")


def warn_of_random_numbers(folder: Path, process_index: int, num_processes: int) -> None:
    """Warn if a process's random state is not in the checkpoint, because it had another number of processes."""
    name = "rng_state.pth" if num_processes == 1 else f"rng_state_{process_index}.pth"  # as Trainer calls them
    if not (folder / name).is_file():
        logger.warning(
            f"{folder} has no {name}: dropout and the order of the examples will not be those of the training that "
            "was stopped. Resume with as many processes as it had."
        )


def warn_of_callbacks(folder: Path, callbacks: Iterable[TrainerCallback]) -> None:
    """Warn of callbacks (early stopping) that start anew because Trainer is not told to restore them."""
    stored = TrainerState.load_from_json(os.fspath(folder / TRAINER_STATE_NAME)).stateful_callbacks
    for callback in callbacks:
        if not isinstance(callback, ExportableState):
            continue
        name, now = type(callback).__name__, callback.state()["attributes"]
        kept = stored.get(name)
        then = (kept[0] if isinstance(kept, list) and kept else kept or {}).get("attributes", now)
        if then != now:
            logger.warning(
                f"{name} starts anew with {now}, where the training was stopped with {then}: to go on as it would "
                "have, write TrainingArguments(restore_callback_states_from_checkpoint=True)."
            )
