"""`FPTTrainer`: transformers' Trainer for a delta. It holds what only a subclass can do, in a few lines each.

The stock Trainer trains these models too: the loss, the freezing and the small checkpoints belong to the model.
"""

import contextlib
import os
from concurrent.futures import Future
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import CommitInfo
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Sampler
from transformers import Trainer
from transformers.trainer import TRAINER_STATE_NAME, TRAINING_ARGS_NAME
from transformers.trainer_utils import EvalLoopOutput, PredictionOutput

from ..backbones.precision import weights_kept
from ..hub.card import FPTCard
from ..models.pretrained import FPTPreTrainedModel
from .batch_checks import naming_the_row
from .batch_sources import BatchSource, choose_source, evaluation_loader, own_sampler
from .before_training import check_training, checked_model
from .cached_features import MOST_BYTES
from .data_checks import check_collated, first_batch, loader_of_rows
from .epochs import SetEpoch, epoch_setter, innermost
from .feature_store import FeatureStore
from .group_learning_rates import split_by_group
from .guards import WeightGuard
from .label_checks import LabelRule
from .processes import check_processes, make_ready_for_ddp, unpinned, unwrap_after_training
from .resuming import find_checkpoint
from .run_card import RunCard
from .saving import gather_delta, missing_keys_of_delta_only, room_for_checkpoint, saving_without_base
from .uploads import Uploads, report_failed_uploads


class FPTTrainer(Trainer):
    """Trainer for frozen pretrained transformers. It takes the arguments of `Trainer`, and:

    `group_learning_rates`: a learning rate for each named parameter group (`input`, `output`, `norm`, `position` ...;
    see `PARAMETER_GROUPS`); the others have `args.learning_rate`.

    `cache_features`: if only the head trains, whether the backbone runs only once over the training and evaluation
    data; see the function `cache_features`. None: if it saves time and is possible. True: else raise ValueError.
    Write False if a callback changes a data set or your `compute_loss` reads raw inputs. `most_cached`: most bytes.

    `train_dataset` may be a stream: an `ExampleStream`, or an IterableDataset of `datasets` or torch. Each process and
    worker reads its share, epoch after epoch until `max_steps`, and resumes after a checkpoint's last example.

    Before training it refuses (ValueError, DeltaError, NoSpaceError) models, labels, inputs, folders and checkpoints
    with which it would go wrong; see `before_training.py`. It raises TrainingError if a frozen weight changed or a
    trained one is not finite; see `WeightGuard`. A sharded model's delta is gathered and saved without the base.

    After a training `args.output_dir` has the delta, the processor and a model card; later evaluations are added to
    the card, except of the training set. `card` is the model's: fill in what only you know (`task_name`, `license`,
    `limits` ...). `floors`: by split ("validation", "test"), the accuracy that needs no learning, or a dict of such
    scores by metric. Defaults are the share of the largest class and, for numbers, the scores of always answering
    their mean. Models that `model_init` makes keep the card.
    """

    def __init__(
        self, model=None, args=None, *more, group_learning_rates=None, cache_features: bool | None = None, **kwargs
    ):
        self.group_learning_rates: dict[str, float] = dict(group_learning_rates or {})
        self.cache_features, self.most_cached = cache_features, MOST_BYTES
        self.floors: dict[str, float | dict[str, float]] = {}
        self.is_in_train = False  # Trainer sets it too, but calls `call_model_init` before
        self._checkpoint: Path | None = None  # the one that is being resumed
        self._source = BatchSource()
        self._store: FeatureStore | None = None  # while a training runs
        model = None if model is None else checked_model(model, args, self.group_learning_rates)
        if args is not None and args.ddp_find_unused_parameters is None:
            args.ddp_find_unused_parameters = False  # every trained parameter takes part in every step
        super().__init__(model, args, *more, **kwargs)
        check_processes(self)
        if self.group_learning_rates and self.optimizer is not None:
            raise ValueError("group_learning_rates sets up Trainer's optimizer; give that or your own, not both.")
        if self.processing_class is None:  # Trainer saves it, and finds it by this name
            self.processing_class = getattr(self.data_collator, "tokenizer", self.model.processor)
        self.run_card, self._uploads = RunCard(self), Uploads()
        self._guard = WeightGuard(may_round=self.is_deepspeed_enabled)
        self.add_callback(self._guard)
        if not isinstance(self.train_dataset, IterableDataset) and epoch_setter(self.train_dataset) is not None:
            self.add_callback(SetEpoch(innermost(self.train_dataset)))
        check_collated(self)

    @property
    def card(self) -> FPTCard:
        """The model's card."""
        return self.run_card.card_of(self)

    @property
    def shards(self) -> bool:
        """Whether FSDP or DeepSpeed spreads the model over processes."""
        return self.is_fsdp_enabled or self.is_deepspeed_enabled

    @property
    def label_rule(self) -> LabelRule | None:
        """What the labels of a batch must be; None if there is no head or the user's own loss reads them."""
        own_loss = self.compute_loss_func is not None or type(self).compute_loss is not FPTTrainer.compute_loss
        return None if self.model.headless or own_loss else LabelRule.of(self.model)

    # Training

    def call_model_init(self, trial=None) -> FPTPreTrainedModel:
        """As `Trainer.call_model_init`: a new model for each training, with the last one's card and processor."""
        model = checked_model(super().call_model_init(trial), self.args, self.group_learning_rates)
        if self.is_in_train:
            self.run_card.hand_on(self, model)
            self.model = model
            self._begin()
        return model

    def create_optimizer(self, model=None) -> torch.optim.Optimizer:
        """As `Trainer.create_optimizer`, with its parameter groups split where learning rates differ."""
        created = self.optimizer is None
        optimizer = super().create_optimizer(model)
        if created and self.group_learning_rates:
            split_by_group(optimizer, self.model, self.group_learning_rates, self.args.learning_rate)
        return optimizer

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """As `Trainer.compute_loss`; without any label it is 0, also with label smoothing."""
        if torch.is_tensor(num_items_in_batch):
            num_items_in_batch = num_items_in_batch.clamp(min=1)
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def train(self, resume_from_checkpoint: str | bool | None = None, trial=None, ignore_keys_for_eval=None):
        """As `Trainer.train`, with the checks that the class describes before and after it.

        The metric `train_features_runtime`: the seconds that computing cached features took.
        """
        self._checkpoint = find_checkpoint(resume_from_checkpoint, Path(self.args.output_dir))
        self._store = FeatureStore(self)
        sharded = missing_keys_of_delta_only(self.model) if self.shards else contextlib.nullcontext()
        try:
            if self.model_init is None:
                self._begin()
            with sharded, naming_the_row("the training set", lambda: loader_of_rows(self, self.train_dataset)):
                folder = None if self._checkpoint is None else os.fspath(self._checkpoint)
                result = super().train(folder, trial, ignore_keys_for_eval)
        finally:
            self._end()
        if trial is None:
            with room_for_checkpoint(self.model, self.args.output_dir):
                self.run_card.finish(self)
        return result

    def _begin(self) -> None:
        """Check what the training needs, and record the weights before it."""
        check_training(self, self._checkpoint)
        self.run_card.begin(self.card)
        self._guard.begin(self.model, resumed=self._checkpoint is not None)
        make_ready_for_ddp(self.model, self._guard.frozen, self.args.world_size)

    def _end(self) -> None:
        """Release what only a training needs."""
        self._source.close()
        self._store.clear()
        self._source, self._store, self._checkpoint = BatchSource(), None, None
        self.is_in_train = False  # even if an error stopped it
        unwrap_after_training(self)

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """As `Trainer.log`; the last entry of a training also has the seconds that its cached features took."""
        if "train_runtime" in logs and self._store is not None and self._store.seconds:
            logs["train_features_runtime"] = round(self._store.seconds, 4)
        super().log(logs, *args, **kwargs)

    def end(self) -> None:
        """Leave the process group, or some processes may abort (gloo): the last call of a script."""
        self.model_wrapped = self.model
        self.accelerator.free_memory()
        self.accelerator.end_training()

    def get_train_dataloader(self) -> DataLoader:
        """As `Trainer.get_train_dataloader`: batches of a data set, a stream, or cached features."""
        self._source.close()  # left from a try with larger batches
        self._source = choose_source(self, super().get_train_dataloader, self._checkpoint, self._store)
        return unpinned(self._source.loader)

    def _get_train_sampler(self, *args) -> Sampler | None:
        """As Trainer's, which has no public hook for it; windows of series have an order that takes no memory."""
        return own_sampler(self) or super()._get_train_sampler(*args)

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        """As `Trainer.get_eval_dataloader`; during training, with cached features if possible."""
        return unpinned(evaluation_loader(self, super().get_eval_dataloader, eval_dataset, self._store))

    def get_test_dataloader(self, test_dataset: Dataset) -> DataLoader:
        """As `Trainer.get_test_dataloader`."""
        return unpinned(evaluation_loader(self, super().get_test_dataloader, test_dataset, store=None))

    def evaluate(self, eval_dataset=None, *args, **kwargs) -> dict[str, float]:
        """As `Trainer.evaluate`; after a training, the results are added to the card in `args.output_dir`."""
        with self.run_card.recording_evaluation(self, eval_dataset):
            return super().evaluate(eval_dataset, *args, **kwargs)

    def predict(self, test_dataset, *args, **kwargs) -> PredictionOutput:
        """As `Trainer.predict`; after a training, the results are added to the card in `args.output_dir`."""
        with self.run_card.recording_evaluation(self, test_dataset):
            return super().predict(test_dataset, *args, **kwargs)

    def evaluation_loop(
        self, dataloader, description, prediction_loss_only=None, ignore_keys=None, metric_key_prefix="eval"
    ) -> EvalLoopOutput:
        """As `Trainer.evaluation_loop`; rounded weights (`bf16_full_eval`) are restored, and a wrong row is named."""
        if not self.is_in_train:  # a training has checked it before
            first_batch(self, dataloader, "the evaluation set")
        rounds = (self.args.bf16_full_eval or self.args.fp16_full_eval) and not self.is_in_train
        kept = weights_kept(self.model) if rounds else contextlib.nullcontext()
        with kept, naming_the_row("the evaluation set", lambda: dataloader):
            output = super().evaluation_loop(
                dataloader, description, prediction_loss_only, ignore_keys, metric_key_prefix=metric_key_prefix
            )
        self.run_card.record(self, output, metric_key_prefix)
        return output

    # Saving

    def gather_delta(self) -> dict[str, Tensor]:
        """The tensors of a checkpoint, whole and on the CPU, in each process; all processes must call this."""
        return gather_delta(self.accelerator.unwrap_model(self.model))

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """As `Trainer.save_model`, which all processes call; only a checkpoint gets the pickle `training_args.bin`.

        An old `trainer_state.json` is removed first: Trainer writes it last, so that a checkpoint with it is complete.
        """
        saves, folder = self.args.should_save, Path(output_dir or self.args.output_dir)
        if saves and output_dir is not None:
            (folder / TRAINER_STATE_NAME).unlink(missing_ok=True)
        if not self.shards:
            super().save_model(output_dir, _internal_call=True)
        else:
            delta = self.gather_delta()
            if saves:
                self._save(output_dir, state_dict=delta)
        if saves and not (_internal_call and output_dir is not None):
            (folder / TRAINING_ARGS_NAME).unlink(missing_ok=True)
        if self.args.push_to_hub and not _internal_call:
            self.push_to_hub(commit_message="Model save", revision=self.args.hub_revision)

    def _save_checkpoint(self, *args, **kwargs) -> None:
        """Write a checkpoint, with a clear error for a full disk (Trainer has no public hook for it)."""
        with room_for_checkpoint(self.model, self.args.output_dir):
            super()._save_checkpoint(*args, **kwargs)

    def _save_optimizer_and_scheduler(self, output_dir: str) -> None:
        """Leave the base out of a sharded model, which Trainer also saves here (it has no public hook for it)."""
        with saving_without_base(self):
            super()._save_optimizer_and_scheduler(output_dir)

    def _save_rng_state(self, output_dir: str) -> None:
        """Also save how far a stream was read; Trainer calls this in every process (it has no public hook for it)."""
        super()._save_rng_state(output_dir)
        self._source.save(Path(output_dir), self.args.process_index)

    # The card and the Hub

    def create_model_card(self, **fields: Any) -> None:
        """Write the card and its pictures into `args.output_dir`. `fields`: values for the card, as `license="mit"`.

        With a sharded model, all processes must call it. A README.md that is not ours is kept. Raises TypeError for a
        name that is no field of `FPTCard`.
        """
        self.run_card.create(self, fields)

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

        As `Trainer.push_to_hub`, but nothing else in `args.output_dir` is uploaded. `card_fields`: see
        `create_model_card`. Raises ValueError for a base without a Hub id.
        """
        if self.hub_model_id is None and private is not None:
            self.args.hub_private_repo = private
        token, revision = self.args.hub_token if token is None else token, revision or self.args.hub_revision
        job = self._uploads.start_final(self, commit_message, token, revision, card_fields)
        return job.result() if blocking and job is not None else job

    def _push_from_checkpoint(self, checkpoint_folder: str) -> None:
        """Upload a checkpoint in the background; Trainer calls this after each (it has no public hook for it)."""
        if self.is_world_process_zero():
            self._uploads.start_checkpoint(self, Path(checkpoint_folder))

    def _finish_current_push(self) -> None:
        """Wait for uploads, and warn of those that failed; Trainer calls this at the end of training."""
        super()._finish_current_push()
        report_failed_uploads(self)
