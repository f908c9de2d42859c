"""The features that a Trainer computes for one training, where they are worth it and can be kept.

Results are those of training without them, up to rounding. With `cache_features=None` that is done where examples are
seen more than once and nothing in front of the head trains or is random, and said if only that stands in the way.
"""

import dataclasses
import time

from torch.utils.data import Dataset
from transformers import Trainer
from transformers.utils import logging

from .cached_features import CachedFeatures, NotCacheableError, cache_features, check_features, trains_head_only

logger = logging.get_logger(__name__)


class FeatureStore:
    """The features that were computed for one training: of its data set, and of those that are evaluated meanwhile."""

    def __init__(self):
        self.seconds = 0.0  # that those to train on took
        self._found: dict[int, CachedFeatures | None] = {}  # by id of the data set; None: it is used as it is

    def get(self, trainer: Trainer, dataset: Dataset, for_training: bool) -> CachedFeatures | None:
        """The features of `dataset`, computed when first asked for; None where they cannot be kept.

        Raises ValueError where they are asked for (`cache_features=True`) and cannot be.
        """
        if id(dataset) not in self._found:
            start = time.perf_counter()
            self._found[id(dataset)] = features = self._compute(trainer, dataset, for_training)
            if for_training and features is not None:
                self.seconds = time.perf_counter() - start
        return self._found[id(dataset)]

    def clear(self) -> None:
        """Free the memory: accelerate goes on to hold the loader, and so the data set."""
        for features in self._kept():
            features.tensors.clear()

    def _kept(self) -> list[CachedFeatures]:
        return [features for features in self._found.values() if features is not None]

    def _compute(self, trainer: Trainer, dataset: Dataset, for_training: bool) -> CachedFeatures | None:
        args, checked = trainer.args, trainer.data_collator
        collator = trainer._get_collator_with_removed_columns(checked.collator, description="features")
        kept = args.world_size * sum(features.nbytes for features in self._kept())
        try:
            if obstacles := _obstacles_in_arguments(trainer):
                raise NotCacheableError(obstacles)
            return cache_features(
                trainer.model,
                dataset,
                dataclasses.replace(checked, collator=collator),
                args.per_device_train_batch_size if for_training else args.per_device_eval_batch_size,
                for_training=for_training,
                num_workers=args.dataloader_num_workers,
                most_bytes=trainer.most_cached - kept,
                epoch=int(trainer.state.epoch or 0),
                accelerator=trainer.accelerator,
                progress=not args.disable_tqdm and trainer.is_world_process_zero(),
                called="the training set" if for_training else "the evaluation set",
            )
        except NotCacheableError as error:
            _report(trainer, "; ".join(error.reasons), for_training)
            return None


def training_features(trainer: Trainer, store: FeatureStore | None) -> CachedFeatures | None:
    """The features to train on in place of `train_dataset`, or None; without a `store`, only those that were given."""
    dataset = trainer.train_dataset
    if isinstance(dataset, CachedFeatures):
        check_features(trainer.model)
        return dataset
    if store is None or not (trainer.cache_features or _caches_by_itself(trainer)):
        return None
    return store.get(trainer, dataset, for_training=True)


def evaluated_features(trainer: Trainer, dataset: Dataset, store: FeatureStore | None) -> CachedFeatures | None:
    """The features to evaluate in place of `dataset`, or None; without a `store`, only those that were given."""
    if isinstance(dataset, CachedFeatures):
        check_features(trainer.model)
        return dataset
    own = trainer.eval_dataset.values() if isinstance(trainer.eval_dataset, dict) else [trainer.eval_dataset]
    if store is None or not any(dataset is one for one in own) or "inputs" in trainer.args.include_for_metrics:
        return None
    if trainer.cache_features is False or not trains_head_only(trainer.model):
        return None
    return store.get(trainer, dataset, for_training=False)


def _caches_by_itself(trainer: Trainer) -> bool:
    """Whether features are worth it, where nobody said: the head alone trains, and sees examples again."""
    args, dataset = trainer.args, trainer.train_dataset
    if trainer.cache_features is False or not trains_head_only(trainer.model):
        return False
    if args.max_steps <= 0:
        return args.num_train_epochs > 1
    in_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
    return hasattr(dataset, "__len__") and args.max_steps * in_step > len(dataset)


def _obstacles_in_arguments(trainer: Trainer) -> list[str]:
    found, args = [], trainer.args
    if trainer.shards:
        found.append("the model is sharded")
    if args.include_num_input_tokens_seen != "no":
        found.append("include_num_input_tokens_seen counts inputs (write 'no')")
    if args.train_sampling_strategy not in ("random", "sequential"):
        found.append(f"train_sampling_strategy is {args.train_sampling_strategy!r} (write 'random')")
    return found


def _report(trainer: Trainer, reasons: str, for_training: bool) -> None:
    if for_training and trainer.cache_features:
        raise ValueError(f"cache_features=True is not possible: {reasons}.")
    if not trainer.is_world_process_zero():
        return
    log = logger.warning if for_training else logger.info
    log(
        f"Only the head trains, but the frozen backbone runs in every {'step' if for_training else 'evaluation'}: "
        f"{reasons}. Without that it would run once over the data, and later epochs would skip it "
        "(cache_features=False turns this off)."
    )
