"""`FPTTrainer`: transformers' Trainer with a learning rate per group, guards, and a strict resume.

The stock Trainer trains these models as well: the loss, the freezing and the small checkpoints are the model's.
"""

import json
import math
import os
from pathlib import Path
from typing import Any

import torch
from torch.utils.data import Dataset
from transformers import (
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)
from transformers.trainer_utils import get_last_checkpoint
from transformers.utils import CONFIG_NAME, SAFE_WEIGHTS_NAME, logging

from .cached_features import innermost
from .checking import CheckingTrainer
from .configuration_fpt import PARAMETER_GROUPS
from .delta import DeltaError, check_delta, read_delta, running_statistics, tensor_digest
from .distributing import gather
from .pretrained import FPTPreTrainedModel

logger = logging.get_logger(__name__)


class TrainingError(RuntimeError):
    """Training went wrong in a way that its numbers alone would hide."""


class SetEpoch(TrainerCallback):
    """Tells a data set with `set_epoch` which epoch begins, however the data loader wraps it."""

    def __init__(self, dataset: Dataset):
        self.dataset = dataset

    def on_epoch_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Called by the Trainer; after a resume, `state.epoch` has a fraction."""
        self.dataset.set_epoch(int(state.epoch))


class FPTTrainer(CheckingTrainer):
    """Trainer for frozen pretrained transformers.

    Takes what `Trainer` takes, and `group_learning_rates`: a learning rate for each named parameter group (`input`,
    `output`, `norm`, `position` ...; see `PARAMETER_GROUPS`); the others have `args.learning_rate`.

    Before training it refuses: a model that trains nothing, trained weights below fp32, an empty training set, wrong
    labels and inputs (see `CheckingTrainer`), and a checkpoint to resume that is not exactly this model's. After
    training it raises TrainingError if a frozen weight changed or a trained one is not finite, and warns of a trained
    one that stayed as it was. A loss that is no longer finite stops training with TrainingError.

    Where the head alone trains, the backbone runs once over the data; see `CachingTrainer` for `cache_features`. The
    training data may be a stream, which is read and not held; see `StreamingTrainer`.
    Training ends with a model card in `args.output_dir`; see `PublishingTrainer` for it and for the Hub.
    """

    def __init__(self, model: FPTPreTrainedModel, args=None, *, group_learning_rates=None, **kwargs):
        if not isinstance(model, FPTPreTrainedModel):
            raise TypeError(f"FPTTrainer trains an FPT model, got {type(model).__name__}: use transformers' Trainer.")
        self.group_learning_rates = dict(group_learning_rates or {})
        trained = {row.group for row in model.count_parameters() if row.trained}
        for group in self.group_learning_rates:
            if group not in trained:
                raise ValueError(
                    f"group_learning_rates has {group!r}; the groups that train here are "
                    f"{', '.join(name for name in PARAMETER_GROUPS if name in trained)}."
                )
        super().__init__(model, args, **kwargs)
        if self.group_learning_rates and self.optimizer is not None:
            raise ValueError("group_learning_rates sets up Trainer's optimizer; give that or your own, not both.")
        self.args.logging_nan_inf_filter = False  # it would show the last finite loss instead
        dataset = innermost(self.train_dataset)
        if callable(getattr(dataset, "set_epoch", None)) and not self.streams:
            self.add_callback(SetEpoch(dataset))

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """As `Trainer`, with its parameter groups split by FPT group where learning rates differ."""
        created = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if created and self.group_learning_rates:
            names = {id(parameter): name for name, parameter in self.model.named_parameters()}
            group_of = self.model.parameter_groups()
            param_groups = list(optimizer.param_groups)
            optimizer.param_groups.clear()
            for param_group in param_groups:
                by_group: dict[str, list] = {}
                for parameter in param_group["params"]:
                    by_group.setdefault(group_of[names[id(parameter)]], []).append(parameter)
                for group, parameters in by_group.items():
                    lr = self.group_learning_rates.get(group, self.args.learning_rate)
                    optimizer.add_param_group({**param_group, "params": parameters, "lr": lr})
        return optimizer

    def train(self, resume_from_checkpoint: str | bool | None = None, **kwargs):
        """As `Trainer.train`, between the guards that the class describes."""
        self._check_before_training()
        self.card.check()
        if resume_from_checkpoint:
            resume_from_checkpoint = self._checked_checkpoint(resume_from_checkpoint)
        self.card.results.clear()
        frozen, trained = self._checksums(), self._digests()
        self._keep_frozen_home(frozen)
        result = super().train(resume_from_checkpoint=resume_from_checkpoint, **kwargs)
        self._check_frozen(frozen)
        self._check_trained(trained, steps=self.state.global_step, resumed=bool(resume_from_checkpoint))
        self.report_training()
        return result

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """As `Trainer.log`; raises TrainingError for a loss that is no longer finite."""
        super().log(logs, *args, **kwargs)
        loss = logs.get("loss")
        if isinstance(loss, float) and not math.isfinite(loss):
            raise TrainingError(
                f"The loss is {loss} at step {self.state.global_step}: training diverged. Lower learning_rate; the "
                "checkpoints written before are whole."
            )

    def _check_before_training(self) -> None:
        trained = [(n, p) for n, p in self.model.named_parameters() if p.requires_grad]
        if not trained:
            remedy = "model.apply_policy() undoes what froze them" if self.model.trained_groups else "name some group"
            raise ValueError(f"Nothing would train: trainable={self.model.config.trainable}, {remedy}.")
        for name, parameter in trained:
            if parameter.dtype != torch.float32:
                raise ValueError(
                    f"Trained weights must be float32, but {name} is {parameter.dtype}: give dtype to from_backbone, "
                    "which casts the frozen weights alone, instead of calling .to(dtype) on the model."
                )
        if self.train_dataset is None:
            raise ValueError("Training needs a train_dataset.")
        if not self.streams and len(self.train_dataset) == 0:
            raise ValueError("The training set is empty.")
        self.check_data()

    def _checked_checkpoint(self, checkpoint: str | bool) -> str:
        if checkpoint is True:
            folder = self.args.output_dir
            checkpoint = get_last_checkpoint(folder) if os.path.isdir(folder) else None
            if checkpoint is None:
                raise ValueError(f"No checkpoint to resume from in {self.args.output_dir!r}.")
        folder = Path(checkpoint)
        for name in (CONFIG_NAME, SAFE_WEIGHTS_NAME):
            if not (folder / name).is_file():
                raise DeltaError(f"{folder} is no checkpoint of this model: it has no {name}.")
        try:
            saved = json.loads((folder / CONFIG_NAME).read_text(encoding="utf-8"))
        except ValueError as error:
            raise DeltaError(f"{folder / CONFIG_NAME} cannot be read ({error}): take another checkpoint.") from error
        config = self.model.config
        base = saved.get("base_model_fingerprint")
        if base != config.base_model_fingerprint:
            raise DeltaError(
                f"{folder} was trained on another base: its fingerprint is {base}, this model's is "
                f"{config.base_model_fingerprint}."
            )
        quantization = saved.get("base_quantization")
        if quantization != config.base_quantization:
            raise DeltaError(
                f"{folder} was trained on a base quantised by {quantization}, this model's by "
                f"{config.base_quantization}."
            )
        if saved.get("trainable") != config.trainable:
            raise DeltaError(f"{folder} trains {saved.get('trainable')}, this model {config.trainable}.")
        tensors = read_delta(folder / SAFE_WEIGHTS_NAME, folder / CONFIG_NAME)
        check_delta(tensors, self.model.delta_tensors(), running_statistics(self.model), folder)
        return os.fspath(folder)

    def _checksums(self) -> dict[str, tuple[torch.dtype, int]]:
        """Sum over the bits of every frozen parameter, on its device: enough to see that none was trained."""
        integer = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}
        frozen = ((name, gather(p)) for name, p in self.model.named_parameters() if not p.requires_grad)
        return {n: (t.dtype, t.view(integer[t.element_size()]).sum(dtype=torch.int64).item()) for n, t in frozen}

    def _check_frozen(self, before: dict[str, tuple[torch.dtype, int]]) -> None:
        after = self._checksums()
        if self.is_deepspeed_enabled:  # which rounds the frozen weights to half precision, where it trains in that
            after = {name: after[name] if after[name][0] == old[0] else old for name, old in before.items()}
        changed = [name for name, value in after.items() if before.get(name) != value]
        if changed:
            raise TrainingError(f"The frozen weight {changed[0]} changed in training ({len(changed)} tensors in all).")

    def _digests(self) -> dict[str, str]:
        return {name: tensor_digest(gather(p)) for name, p in self.model.named_parameters() if p.requires_grad}

    def _check_trained(self, before: dict[str, str], steps: int, resumed: bool) -> None:
        digests = {}
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad:
                value = gather(parameter)
                if not torch.isfinite(value).all():
                    raise TrainingError(f"{name} is not finite after training: it diverged. Lower learning_rate.")
                digests[name] = tensor_digest(value)
        unmoved = [name for name, digest in digests.items() if before[name] == digest]
        if unmoved and steps and not resumed:
            logger.warning(
                f"{len(unmoved)} of {len(before)} trained tensors did not change in {steps} steps, the first is "
                f"{unmoved[0]}: no gradient reaches them, or the learning rate is too small for fp32."
            )
