"""A Trainer that fills the model's card with what it did, and uploads what belongs into a Hub repo, and no more."""

import dataclasses
import importlib.util
import io
import os
import platform
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import CommitInfo, HfApi
from transformers.modelcard import extract_hyperparameters_from_trainer
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import HubStrategy, PredictionOutput
from transformers.utils import PushInProgress, logging

from ..analysis.pictures import confusion_matrix, learning_curves
from ..hub.card import CARD_NAME, FPTCard
from ..hub.card_metrics import main_metric, metric_name
from ..hub.card_model import auto_class
from ..hub.card_numbers import delta_size, numbers_of
from ..hub.repository import PICTURES, repository_files, upload
from ..hub.sharing import check_shareable
from ..models.pretrained import FPTPreTrainedModel
from ..version import __version__
from .recording import RecordingTrainer

logger = logging.get_logger(__name__)

SHOWN_VERSIONS = {  # as the modules say it, who may lie in a folder that nobody installed
    "fpt_adapters": __version__,
    "transformers": transformers.__version__,
    "torch": str(torch.__version__),
}


class PublishingTrainer(RecordingTrainer):
    """Trainer that writes the model's card, and whose pushes hold what `repository.py` says.

    A training that ends well leaves in `args.output_dir` the delta, the processor and the card, whatever
    `save_strategy` is, and says so; what is evaluated afterwards comes into that card. The trials of a hyperparameter
    search leave only their checkpoints. The pickle `training_args.bin` lies in checkpoints alone.

    Uploads during training (`hub_strategy`) run in the background; one that fails is reported by a warning.
    """

    group_learning_rates: dict[str, float] = {}

    def __init__(self, model: FPTPreTrainedModel | None = None, args=None, *more, **kwargs):
        self._written: str | None = None  # the card of the model as it is now, in `args.output_dir`
        self._uploads = HfApi()  # runs one job after the other: the newest delta arrives last
        super().__init__(model, args, *more, **kwargs)
        self._given = {name: getattr(self, name) is not None for name in ("optimizer", "lr_scheduler")}

    def check_model(self, model: FPTPreTrainedModel, args) -> None:
        """Raise ValueError for a model that could not be pushed as `args` say: before its repo is made."""
        if args is not None and args.push_to_hub:
            check_shareable(model.config)

    def train(self, *args, **kwargs):
        """As `Trainer.train`."""
        self._written = None
        return super().train(*args, **kwargs)

    def report_training(self) -> None:
        """Save the model of a training that has just ended, with its card; called by `FPTTrainer.train`."""
        for split, step in self._step_of_results.items():
            if self.args.load_best_model_at_end or step != self.state.global_step:
                self.card.results.pop(split, None)  # the result of other weights than these
        self.save_model(_internal_call=True)  # which pushes nothing
        if self.is_world_process_zero():
            folder, model = Path(self.args.output_dir), self.accelerator.unwrap_model(self.model)
            if self._write_card(delta_size(folder)):
                self._written = (folder / CARD_NAME).read_text(encoding="utf-8")
            known = model.config.base_model or model.config.backbone_init == "random"
            place = f"'{folder}'{'' if known else ', base_model_name_or_path=FOLDER_OF_THE_BASE'}"
            print(f"Saved in {folder}: `import fpt_adapters`, then {auto_class(model)}.from_pretrained({place})")

    def evaluate(self, *args, **kwargs) -> dict[str, float]:
        """As `Trainer.evaluate`; after a training its results come into the card in `args.output_dir`."""
        metrics = super().evaluate(*args, **kwargs)
        self._update_card()
        return metrics

    def predict(self, *args, **kwargs) -> PredictionOutput:
        """As `Trainer.predict`; after a training its results come into the card in `args.output_dir`."""
        output = super().predict(*args, **kwargs)
        self._update_card()
        return output

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As `Trainer.save_model`, without its `training_args.bin` where the folder is no checkpoint.

        A checkpoint's `trainer_state.json`, which Trainer writes last, goes first: one with it is whole.
        """
        if self.args.should_save and output_dir is not None:
            (Path(output_dir) / TRAINER_STATE_NAME).unlink(missing_ok=True)
        super().save_model(output_dir, _internal_call)
        if self.args.should_save and not (_internal_call and output_dir is not None):
            (Path(output_dir or self.args.output_dir) / TRAINING_ARGS_NAME).unlink(missing_ok=True)

    # The card

    def create_model_card(self, **fields: Any) -> None:
        """Write the card and its pictures into `args.output_dir`. `fields` fill in the card's, as `license="mit"`.

        Called at the end of training and by every push; of a sharded model, by all processes. A README.md there that
        is not ours stays. Raises TypeError for a name that is no field of `FPTCard`.
        """
        known = {f.name for f in dataclasses.fields(FPTCard)}
        for name, value in fields.items():
            if name not in known:
                raise TypeError(f"FPTCard has no field {name!r}; its fields: {', '.join(sorted(known))}.")
            setattr(self.card, name, value)
        delta = self.gather_delta()
        if self.is_world_process_zero():
            self._write_card(self.accelerator.unwrap_model(self.model).delta_bytes(delta))

    def _update_card(self) -> None:
        """Write the card of this training again; one that somebody has changed since, or taken away, stays so."""
        card = Path(self.args.output_dir) / CARD_NAME
        if self._written is not None and card.is_file() and card.read_text(encoding="utf-8") == self._written:
            self._write_card(delta_size(self.args.output_dir))
            self._written = card.read_text(encoding="utf-8")

    def _write_card(self, size: int | None) -> bool:
        """`size`: bytes of the delta. Returns whether the card was written: somebody's own text stays."""
        self._fill_card()
        model = self.accelerator.unwrap_model(self.model)
        folder = Path(self.args.output_dir)
        repo_id = self.hub_model_id or self.args.hub_model_id
        if repo_id is not None and "/" not in repo_id:
            repo_id = f"your-name/{repo_id}"
        folder.mkdir(parents=True, exist_ok=True)
        return self.card.write(folder, model, repo_id, size, model.with_code)

    def _fill_card(self) -> None:
        card, args = self.card, self.args
        card.recipe = extract_hyperparameters_from_trainer(self)
        card.recipe |= {
            **self._optimizer_facts(),
            "max_grad_norm": args.max_grad_norm,
            "mixed_precision": "bf16" if args.bf16 else "fp16" if args.fp16 else None,
            **{f"learning_rate of {group}": rate for group, rate in self.group_learning_rates.items()},
        }
        card.seed = args.seed
        card.history = [numbers_of(row) for row in self.state.log_history]
        card.steps = self.state.global_step or None
        times = [row.get(name, 0.0) for row in card.history for name in ("train_runtime", "train_features_runtime")]
        card.seconds = sum(times) or None
        if self.train_dataset is not None and hasattr(self.train_dataset, "__len__"):
            card.train_examples = len(self.train_dataset)
        card.hardware = hardware(self.args.device)
        card.versions = dict(SHOWN_VERSIONS)
        card.pictures = self._pictures()

    def _optimizer_facts(self) -> dict[str, Any]:
        """What the optimizer is, by its own settings: it may have been given, and not made of the arguments."""
        facts = {"optimizer": self.args.optim.value, "weight_decay": self.args.weight_decay}
        if self.optimizer is None:
            return facts
        group, made = self.optimizer.param_groups[0], not self._given["optimizer"]
        facts |= {"betas": group.get("betas"), "epsilon": group.get("eps")}
        if not self.group_learning_rates:  # a resumed training goes on with its checkpoint's
            facts["learning_rate"] = group.get("initial_lr", group.get("lr"))
        if not made:
            own = getattr(self.optimizer, "optimizer", self.optimizer)  # accelerate wraps it
            facts |= {"optimizer": type(own).__name__, "weight_decay": group.get("weight_decay")}
        if self._given["lr_scheduler"]:
            own = getattr(self.lr_scheduler, "scheduler", self.lr_scheduler)
            facts["lr_scheduler_type"] = type(own).__name__
        return facts

    def _pictures(self) -> dict[str, bytes]:
        if importlib.util.find_spec("matplotlib") is None:
            logger.warning_once("No matplotlib, so the card has no pictures: pip install 'fpt_adapters[examples]'.")
            return {}
        card, pictures = self.card, {}
        shown = card.results.get("test") or card.results.get("validation")
        title = card.task_name or ""
        metric = main_metric(card.history)
        if metric is not None or any("loss" in row for row in card.history):
            validation = card.results.get("validation")
            drawn = io.BytesIO()
            floor = None if validation is None or metric is None else validation.floors().get(metric_name(metric))
            learning_curves({"run": card.history}, drawn, metric=metric, floor=floor, title=title)
            pictures[PICTURES[0]] = drawn.getvalue()
        if shown is not None and shown.confusion is not None:
            config, drawn = self.model.config, io.BytesIO()
            names = [str(config.id2label[i]) for i in range(config.num_labels)]
            confusion_matrix(
                shown.confusion, names, drawn, title=f"{title} ({shown.split}, {shown.examples:,})".strip()
            )
            pictures[PICTURES[1]] = drawn.getvalue()
        return pictures

    # The Hub

    def push_to_hub(
        self,
        commit_message: str | None = "End of training",
        blocking: bool = True,
        token: str | None = None,
        revision: str | None = None,
        private: bool | None = None,
        **card_fields: Any,
    ) -> CommitInfo | Future | None:
        """Upload configuration, delta, processor and card to `args.hub_model_id`, as one commit.

        As `Trainer.push_to_hub`, but nothing else of `args.output_dir` leaves it. `card_fields`: see
        `create_model_card`. Raises ValueError for a base without a Hub id.
        """
        model = self.accelerator.unwrap_model(self.model)
        check_shareable(model.config)
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        token = token if token is not None else self.args.hub_token
        if self.hub_model_id is None:
            if private is not None:
                self.args.hub_private_repo = private
            self.init_hf_repo(token=token)
        self.save_model(_internal_call=True)
        self.create_model_card(**card_fields)
        if not self.is_world_process_zero():
            return None
        self._finish_current_push()
        job = self._uploads.run_as_future(
            upload,
            repository_files(self.args.output_dir, model),
            self.hub_model_id,
            commit_message=commit_message,
            token=token,
            revision=revision or self.args.hub_revision,
        )
        return job.result() if blocking else job

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Trainer calls this after each checkpoint (there is no public hook): upload it in the background."""
        if not self.is_world_process_zero() or self.args.hub_strategy == HubStrategy.END:
            return
        busy = self.push_in_progress is not None and not self.push_in_progress.is_done()
        if busy and not self.args.hub_always_push:
            return
        self._report_failed_pushes()
        self.callback_handler.on_push_begin(self.args, self.state, self.control)
        folder, model = Path(checkpoint_folder), self.accelerator.unwrap_model(self.model)
        self._write_card(delta_size(folder))
        files = repository_files(folder, model, card_folder=self.args.output_dir)
        if self.args.hub_strategy in (HubStrategy.CHECKPOINT, HubStrategy.ALL_CHECKPOINTS):
            last = self.args.hub_strategy == HubStrategy.CHECKPOINT
            place = "last-checkpoint" if last else folder.name
            files |= {f"{place}/{name}": content for name, content in _state_files(folder).items()}
        job = self._uploads.run_as_future(
            upload,
            files,
            self.hub_model_id,
            commit_message=f"Training in progress, step {self.state.global_step}",
            token=self.args.hub_token,
            revision=self.args.hub_revision,
        )
        if busy:
            self.push_in_progress.jobs.append(job)
        else:
            self.push_in_progress = PushInProgress([job])

    def _finish_current_push(self) -> None:
        """Trainer calls this at the end of training: also say what failed."""
        super()._finish_current_push()
        self._report_failed_pushes()

    def _report_failed_pushes(self) -> None:
        """Warn of each background upload that failed, once."""
        if self.hub_model_id is None:
            return
        jobs = [] if self.push_in_progress is None else self.push_in_progress.jobs
        for job in [job for job in jobs if job.done()]:
            jobs.remove(job)
            if job.exception() is not None:
                logger.warning(f"An upload to {self.hub_model_id} during training failed: {job.exception()}")


def _state_files(folder: Path) -> dict[str, bytes]:
    """The files of a checkpoint that somebody can resume; a warning names links, which are left out."""
    files = [file for file in sorted(folder.iterdir()) if file.is_file() and file.name != TRAINING_ARGS_NAME]
    for file in files:
        if file.is_symlink():
            logger.warning(f"{file} is a link to {file.resolve()}: it was not uploaded.")
    return {file.name: file.read_bytes() for file in files if not file.is_symlink()}


def hardware(device: torch.device) -> str:
    """What a run took place on: the accelerator's name, or the processor's kind and the threads that torch used."""
    if device.type == "cuda":
        return f"{torch.cuda.device_count()} x {torch.cuda.get_device_name(device)}"
    if device.type == "cpu":
        threads = torch.get_num_threads()
        return f"CPU ({platform.machine()}), {threads} thread{'s' if threads > 1 else ''}"
    return f"{device.type}, {os.cpu_count()} processor cores"
