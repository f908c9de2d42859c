"""A Trainer that computes frozen features once, where nothing in front of the head trains."""

import contextlib
import copy
import time
from collections.abc import Iterator
from typing import Any

from accelerate.utils import gather_object
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Subset
from tqdm.auto import tqdm
from transformers import TrainingArguments
from transformers.utils import logging

from ..backbones.building import DROPOUT_FIELDS
from ..backbones.structure import output_width
from ..rules.limits import MEMORY
from .cached_features import (
    CachedFeatures,
    SteadyCollator,
    compute_features,
    differs_alone,
    differs_in_training,
    random_fields,
    random_state_kept,
    same_batches,
    two_passes,
)
from .publishing import PublishingTrainer

logger = logging.get_logger(__name__)

LAYER_DROPOUT_FIELDS = ("layerdrop", "encoder_layerdrop", "decoder_layerdrop", "drop_path_rate")
SAMPLED = 32  # examples, spread over a data set, that are looked at before all are computed
TRIED = 4  # of them, that the model runs on
IN_THIS_PROCESS = {  # indexing a tensor takes less time than to talk to a worker
    "dataloader_num_workers": 0,
    "dataloader_persistent_workers": False,
    "dataloader_prefetch_factor": None,
}


class CachingTrainer(PublishingTrainer):
    """Trainer that, where the head alone trains, runs the backbone once over the data and then trains on its output.

    Results are those of training without, up to rounding. With `cache_features=None` it does so by itself where
    examples are seen more than once and nothing in front of the head is random (`input_dropout=0`,
    `backbone_dropout=0`, no augmentation), and says so if only that stands in the way. Sets that are evaluated during
    training are kept likewise. `False` never does; `True` always, or raises ValueError where it cannot be.

    Features lie in memory during training, at most `most_cached` bytes in all processes together; a data set that
    would take more is not kept. Write `cache_features=False` where a callback changes a data set during training (one
    with `set_epoch` is seen to change), or where a subclass's `compute_loss` reads the raw inputs.
    """

    most_cached: int = MEMORY // 4

    def __init__(self, model=None, args=None, *more, cache_features: bool | None = None, **kwargs):
        super().__init__(model, args, *more, **kwargs)
        self.cache_features = cache_features
        self._caches: dict[int, CachedFeatures | None] | None = None  # by id of the data set; None: not in training
        self._caching_seconds = 0.0

    def train(self, *args, **kwargs):
        """As `Trainer.train`; its metric `train_features_runtime` is the seconds spent on features before it began."""
        self._caches, self._caching_seconds = {}, 0.0
        try:
            return super().train(*args, **kwargs)
        finally:
            for cache in self._kept():
                cache.tensors.clear()  # accelerate goes on to hold the loader, and so the data set
            self._caches = None

    def log(self, logs: dict[str, float], *args, **kwargs) -> None:
        """As `Trainer.log`."""
        if "train_runtime" in logs and self._caching_seconds:
            logs["train_features_runtime"] = round(self._caching_seconds, 4)
        super().log(logs, *args, **kwargs)

    def get_train_dataloader(self) -> DataLoader:
        """As `Trainer.get_train_dataloader`; during training, of cached features where they can be."""
        cached = None
        if self.cache_features or self._sees_examples_again():
            cached = self._cached(self.train_dataset, self.args.per_device_train_batch_size, training=True)
        if cached is None:
            return super().get_train_dataloader()
        with self._serving_ready_batches(train_dataset=cached):
            return super().get_train_dataloader()

    def get_eval_dataloader(self, eval_dataset: str | Dataset | None = None) -> DataLoader:
        """As `Trainer.get_eval_dataloader`; during training, of cached features where they can be."""
        dataset = self.eval_dataset if eval_dataset is None else eval_dataset
        dataset = self.eval_dataset[dataset] if isinstance(dataset, str) else dataset
        own = self.eval_dataset.values() if isinstance(self.eval_dataset, dict) else [self.eval_dataset]
        cached = None
        if any(dataset is one for one in own) and "inputs" not in self.args.include_for_metrics:
            cached = self._cached(dataset, self.args.per_device_eval_batch_size, training=False)
        if cached is None:
            return super().get_eval_dataloader(eval_dataset)
        with self._serving_ready_batches():
            return super().get_eval_dataloader(cached)

    def _sees_examples_again(self) -> bool:
        args = self.args
        if args.max_steps <= 0:
            return args.num_train_epochs > 1
        in_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        return hasattr(self.train_dataset, "__len__") and args.max_steps * in_step > len(self.train_dataset)

    def _cached(self, dataset: Dataset, batch_size: int, training: bool) -> CachedFeatures | None:
        """The features of `dataset`, computed when first asked for; None where it is used as it is."""
        if self._caches is None or self.cache_features is False:
            return None
        if any(parameter.requires_grad for parameter in self.model.fpt_model.parameters()):
            if self.cache_features:
                raise ValueError("cache_features=True needs the head alone to train: write trainable=['output'].")
            return None
        if id(dataset) not in self._caches:
            mode = self.model.training
            with random_state_kept(self.args.device):
                self._caches[id(dataset)] = self._compute(dataset, batch_size, training)
            self.model.train(mode)
        return self._caches[id(dataset)]

    def _compute(self, dataset: Dataset, batch_size: int, training: bool) -> CachedFeatures | None:
        start, cached = time.perf_counter(), None
        obstacles = gather_object(self._obstacles(dataset, training))  # of all processes, which must agree
        obstacles = obstacles or gather_object(self._obstacles_in_sample(dataset, batch_size, training))
        if not obstacles:
            loader = self._raw_loader(dataset, batch_size)
            bar = tqdm(loader, "features", disable=self.args.disable_tqdm or not self.is_world_process_zero())
            cached = compute_features(self.model.eval(), bar, self.accelerator, len(dataset))
            if cached is None:
                obstacles = ["an example depends on those it is batched with (if that is padding: give a mask)"]
        if cached is None:
            self._report(list(dict.fromkeys(obstacles)), training)
        elif training:
            self._caching_seconds = time.perf_counter() - start
        return cached

    def _report(self, obstacles: list[str], training: bool) -> None:
        if training and self.cache_features:
            raise ValueError(f"cache_features=True is not possible: {'; '.join(obstacles)}.")
        if not self.is_world_process_zero():
            return
        log = logger.warning if training else logger.info
        log(
            f"Only the head trains, but the frozen backbone runs in every {'step' if training else 'evaluation'}: "
            f"{'; '.join(obstacles)}. Without that it would run once over the data, and later epochs would skip it "
            "(cache_features=False turns this off)."
        )

    def _obstacles(self, dataset: Dataset, training: bool) -> list[str]:
        """Why features cannot be kept, as far as the settings tell; each with what to write instead, if anything."""
        args, config = self.args, self.model.config
        found = self._random_settings() if training else []
        if config.output_hidden_states or config.output_attentions:
            found.append("output_hidden_states or output_attentions asks for what the backbone alone gives")
        if self.is_fsdp_enabled or self.is_deepspeed_enabled:
            found.append("the model is sharded")
        if args.include_num_input_tokens_seen != "no":
            found.append("include_num_input_tokens_seen counts inputs (write 'no')")
        if args.train_sampling_strategy not in ("random", "sequential"):
            found.append(f"train_sampling_strategy is {args.train_sampling_strategy!r} (write 'random')")
        if not hasattr(dataset, "__len__"):
            found.append("the data set has no length")
        elif (needed := self._bytes_of(dataset)) > (left := self._bytes_left()):
            found.append(f"the features of {len(dataset):,} examples take {needed:,} bytes, over the {left:,} allowed")
        return found

    def _random_settings(self) -> list[str]:
        config, backbone_config = self.model.config, self.model.fpt_model.backbone.config
        found = []
        if config.input_dropout:
            found.append(f"input_dropout is {config.input_dropout} (write input_dropout=0)")
        if names := random_fields(backbone_config, DROPOUT_FIELDS):
            found.append(f"the backbone has {', '.join(names)} above 0 (write backbone_dropout=0)")
        if names := random_fields(backbone_config, LAYER_DROPOUT_FIELDS):
            found.append(f"the backbone has {', '.join(names)} above 0")
        return found

    def _obstacles_in_sample(self, dataset: Dataset, batch_size: int, training: bool) -> list[str]:
        """Why features cannot be kept, as a few examples show."""
        step = max(1, len(dataset) // SAMPLED)
        sample = Subset(dataset, list(range(0, len(dataset), step)[:SAMPLED]))
        loader = self._raw_loader(sample, batch_size, **IN_THIS_PROCESS)
        first, second = two_passes(loader, dataset, epoch=int(self.state.epoch or 0))
        if not same_batches(first, second):
            return ["the data set or its collator draws examples anew each time (an augmentation)"]
        if "labels" not in first[0]:
            return ["the data set has no labels"]
        return self._obstacles_in_model(first[0]) if training else []  # evaluated batches are always the same

    def _obstacles_in_model(self, batch: dict[str, Tensor]) -> list[str]:
        inputs = {name: rows[:TRIED] for name, rows in batch.items() if name not in ("labels", *SteadyCollator.added)}
        if differs_in_training(self.model, inputs):
            return ["the backbone is random in training"]
        if batch["steady"].all() and differs_alone(self.model, inputs, batch["widths"][:TRIED]):
            return ["the backbone sees padding in spite of the mask"]
        return []

    def _bytes_of(self, dataset: Dataset) -> int:
        """Bytes that the features of `dataset` take on this machine, as fp32."""
        config = self.model.config
        tokens = config.num_tokens if self.model.per_token else 1
        return 4 * len(dataset) * tokens * output_width(config.base_model_config) * self.args.world_size

    def _bytes_left(self) -> int:
        return self.most_cached - self.args.world_size * sum(cache.nbytes for cache in self._kept())

    def _kept(self) -> list[CachedFeatures]:
        return [cache for cache in self._caches.values() if cache is not None]

    def _raw_loader(self, dataset: Dataset, batch_size: int, **arguments: Any) -> DataLoader:
        """Trainer's loader of `dataset`, whole and in order, with a `SteadyCollator`."""
        name = self.model.fpt_model.input_projection.input_name
        collator = SteadyCollator(self.data_collator, name, self.model.config.pad_token_id)
        arguments |= {"per_device_eval_batch_size": batch_size, "dataloader_drop_last": False}
        arguments |= {"train_sampling_strategy": "random"}
        with self._swapped(data_collator=collator, args=self._changed_args(**arguments)):
            return super().get_test_dataloader(dataset)

    def _serving_ready_batches(self, **attributes: Any) -> contextlib.AbstractContextManager:
        args = self._changed_args(remove_unused_columns=False, **IN_THIS_PROCESS)
        return self._swapped(data_collator=_as_it_is, args=args, **attributes)

    @contextlib.contextmanager
    def _swapped(self, **attributes: Any) -> Iterator[None]:
        """Other attributes of this Trainer while it makes a data loader."""
        before = {name: getattr(self, name) for name in attributes}
        vars(self).update(attributes)
        try:
            yield
        finally:
            vars(self).update(before)

    def _changed_args(self, **arguments: Any) -> TrainingArguments:
        args = copy.copy(self.args)
        vars(args).update(arguments)
        return args


def _as_it_is(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The collator of batches that come ready."""
    return batch
