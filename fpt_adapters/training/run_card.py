"""Filling the model card from a run: results with their floors, recipe, learning curve, and hardware."""

import contextlib
import dataclasses
import importlib.util
import io
import os
import platform
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.utils.data import Dataset
from transformers import Trainer
from transformers.modelcard import extract_hyperparameters_from_trainer
from transformers.trainer_utils import EvalLoopOutput
from transformers.utils import logging

from ..analysis.pictures import confusion_matrix, learning_curves
from ..configuration_fpt import FPTConfig
from ..hub.card import CARD_NAME, FPTCard, SplitResult
from ..hub.card_metrics import NO_METRICS, main_metric, metric_name
from ..hub.card_model import auto_class
from ..hub.card_numbers import delta_size, numbers_of
from ..hub.repository import PICTURES
from ..models.pretrained import FPTPreTrainedModel
from ..version import __version__

logger = logging.get_logger(__name__)

SPLIT_NAMES = {"eval": "validation", "test": "test"}  # Trainer's metric prefix -> split
LEFT_OUT = ("loss", *NO_METRICS)  # reported by an evaluation, but not shown in the card
SHOWN_VERSIONS = {  # from the modules themselves, which need not be installed packages
    "fpt_adapters": __version__,
    "transformers": transformers.__version__,
    "torch": str(torch.__version__),
}


class RunCard:
    """Fills in the model's card with what the Trainer knows, and writes it into `args.output_dir`."""

    def __init__(self, trainer: Trainer):
        model = trainer.model
        model.card = model.card or FPTCard()
        if trainer.processing_class is not None:
            model.processor = trainer.processing_class
        self._last = model.card, model.processor  # a hyperparameter search drops the model of each trial
        self.own_optimizer = trainer.optimizer is not None  # given by the user, not made from the arguments
        self.own_scheduler = trainer.lr_scheduler is not None
        self.records = True
        self.steps: dict[str, int] = {}  # split -> number of steps after which its result was recorded
        self.written: str | None = None  # the text of this model's card in `args.output_dir`

    def card_of(self, trainer: Trainer) -> FPTCard:
        """The card of the Trainer's model, or of its last one if it has none now."""
        return self._last[0] if trainer.model is None else trainer.accelerator.unwrap_model(trainer.model).card

    def hand_on(self, trainer: Trainer, model: FPTPreTrainedModel) -> None:
        """Give the last model's card and processor to a new model."""
        if trainer.model is not None:
            self._last = self.card_of(trainer), trainer.accelerator.unwrap_model(trainer.model).processor
        model.card, model.processor = model.card or self._last[0], model.processor or self._last[1]

    def begin(self, card: FPTCard) -> None:
        """Drop the results of earlier weights before a training."""
        card.results.clear()
        self.steps.clear()
        self.written = None

    @contextlib.contextmanager
    def recording_evaluation(self, trainer: Trainer, dataset: Dataset | None) -> Iterator[None]:
        """Context manager for an evaluation of `dataset`: results are recorded, except for the training set.

        Afterwards the card of this training is written again, unless the user has changed or removed it.
        """
        self.records = dataset is None or dataset is not trainer.train_dataset
        try:
            yield
        finally:
            self.records = True
        card = Path(trainer.args.output_dir) / CARD_NAME
        if self.written is not None and card.is_file() and card.read_text(encoding="utf-8") == self.written:
            self._write_beside(trainer, card.parent)

    def record(self, trainer: Trainer, output: EvalLoopOutput, prefix: str) -> None:
        """Record the results of an evaluation, whatever the user's metrics are."""
        metrics = {name.removeprefix(prefix + "_"): value for name, value in output.metrics.items()}
        metrics = {name: float(value) for name, value in numbers_of(metrics).items() if name not in LEFT_OUT}
        if not metrics or not self.records:
            return
        split = SPLIT_NAMES.get(prefix, prefix)
        floors, head = trainer.floors.get(split), trainer.model.head_type
        if floors is None:
            floors = head.floors(output.predictions, output.label_ids, metrics) or None
        counts = head.confusion(output.predictions, output.label_ids, trainer.model.config)
        trainer.card.results[split] = SplitResult(split, output.num_samples, metrics, floors, counts)
        self.steps[split] = trainer.state.global_step

    def finish(self, trainer: Trainer) -> None:
        """Save the model of a training that has just ended, with its card, and print how to load it (if it logs)."""
        for split, step in self.steps.items():
            if trainer.args.load_best_model_at_end or step != trainer.state.global_step:
                trainer.card.results.pop(split, None)  # the result of other weights
        trainer.save_model(_internal_call=True)  # so that nothing is pushed
        if trainer.is_world_process_zero():
            self._write_beside(trainer, Path(trainer.args.output_dir))
            folder, model = trainer.args.output_dir, trainer.accelerator.unwrap_model(trainer.model)
            known = model.config.base_model or model.config.backbone_init == "random"
            place = f"'{folder}'{'' if known else ', base_model_name_or_path=FOLDER_OF_THE_BASE'}"
            if trainer.args.logging_strategy != "no":
                print(f"Saved in {folder}: `import fpt_adapters`, then {auto_class(model)}.from_pretrained({place})")

    def _write_beside(self, trainer: Trainer, folder: Path) -> None:
        if self.write(trainer, delta_size(folder)):
            self.written = (folder / CARD_NAME).read_text(encoding="utf-8")

    def create(self, trainer: Trainer, fields: dict[str, Any]) -> None:
        """Fill in `fields` and write the card: see `create_model_card`, which all processes call if it is sharded."""
        known = {f.name for f in dataclasses.fields(FPTCard)}
        for name, value in fields.items():
            if name not in known:
                raise TypeError(f"FPTCard has no field {name!r}; its fields: {', '.join(sorted(known))}.")
            setattr(trainer.card, name, value)
        delta = trainer.gather_delta()
        if trainer.is_world_process_zero():
            self.write(trainer, trainer.accelerator.unwrap_model(trainer.model).delta_bytes(delta))

    def write(self, trainer: Trainer, size: int | None) -> bool:
        """Write the card; `size`: bytes of the delta. Returns whether it was written: a user's own text is kept."""
        self._fill(trainer)
        model, folder = trainer.accelerator.unwrap_model(trainer.model), Path(trainer.args.output_dir)
        repo_id = trainer.hub_model_id or trainer.args.hub_model_id
        if repo_id is not None and "/" not in repo_id:
            repo_id = f"your-name/{repo_id}"
        folder.mkdir(parents=True, exist_ok=True)
        return trainer.card.write(folder, model, repo_id, size, model.with_code)

    def _fill(self, trainer: Trainer) -> None:
        card, args = trainer.card, trainer.args
        card.recipe = extract_hyperparameters_from_trainer(trainer)
        card.recipe |= {
            **self._optimizer_facts(trainer),
            "max_grad_norm": args.max_grad_norm,
            "mixed_precision": "bf16" if args.bf16 else "fp16" if args.fp16 else None,
            **{f"learning_rate of {group}": rate for group, rate in trainer.group_learning_rates.items()},
        }
        card.seed = args.seed
        card.history = [numbers_of(row) for row in trainer.state.log_history]
        card.steps = trainer.state.global_step or None
        times = [row.get(name, 0.0) for row in card.history for name in ("train_runtime", "train_features_runtime")]
        card.seconds = sum(times) or None
        if trainer.train_dataset is not None and hasattr(trainer.train_dataset, "__len__"):
            card.train_examples = len(trainer.train_dataset)
        card.hardware = hardware(args.device)
        card.versions = dict(SHOWN_VERSIONS)
        card.pictures = draw_pictures(card, trainer.model.config)

    def _optimizer_facts(self, trainer: Trainer) -> dict[str, Any]:
        """The optimizer's own settings, because the user may have passed one that the arguments do not describe."""
        facts = {"optimizer": trainer.args.optim.value, "weight_decay": trainer.args.weight_decay}
        if trainer.optimizer is None:
            return facts
        group = trainer.optimizer.param_groups[0]
        facts |= {"betas": group.get("betas"), "epsilon": group.get("eps")}
        if not trainer.group_learning_rates:  # a resumed training keeps its checkpoint's rate
            facts["learning_rate"] = group.get("initial_lr", group.get("lr"))
        if self.own_optimizer:
            own = getattr(trainer.optimizer, "optimizer", trainer.optimizer)  # accelerate wraps it
            facts |= {"optimizer": type(own).__name__, "weight_decay": group.get("weight_decay")}
        if self.own_scheduler:
            own = getattr(trainer.lr_scheduler, "scheduler", trainer.lr_scheduler)
            facts["lr_scheduler_type"] = type(own).__name__
        return facts


def draw_pictures(card: FPTCard, config: FPTConfig) -> dict[str, bytes]:
    """Draw the learning curve and the confusion matrix, if there are data for them: file name -> PNG."""
    if importlib.util.find_spec("matplotlib") is None:
        logger.warning_once("No matplotlib, so the card has no pictures: pip install 'fpt_adapters[examples]'.")
        return {}
    pictures, title = {}, card.task_name or ""
    shown = card.results.get("test") or card.results.get("validation")
    metric = main_metric(card.history)
    if metric is not None or any("loss" in row for row in card.history):
        validation = card.results.get("validation")
        drawn = io.BytesIO()
        floor = None if validation is None or metric is None else validation.floors().get(metric_name(metric))
        learning_curves({"run": card.history}, drawn, metric=metric, floor=floor, title=title)
        pictures[PICTURES[0]] = drawn.getvalue()
    if shown is not None and shown.confusion is not None:
        drawn = io.BytesIO()
        names = [str(config.id2label[i]) for i in range(config.num_labels)]
        confusion_matrix(shown.confusion, names, drawn, title=f"{title} ({shown.split}, {shown.examples:,})".strip())
        pictures[PICTURES[1]] = drawn.getvalue()
    return pictures


def hardware(device: torch.device) -> str:
    """The hardware of a run in words: the accelerators' name, or the kind of processor and torch's threads."""
    if device.type == "cuda":
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"CPU ({platform.machine()}), {threads} thread{'s' if threads > 1 else ''}"
    return f"{device.type}, {os.cpu_count()} processor cores"
