"""The cached features of one training, computed if that saves time and is possible.

Results are those of training without them, up to rounding. With `cache_features=None` they are computed if examples
are seen more than once and nothing in front of the head trains or is random; a warning says if only the latter is not
so.
"""

import dataclasses
import time

from torch.utils.data import Dataset
from transformers import Trainer
from transformers.utils import logging

from .cached_features import CachedFeatures, NotCacheableError, cache_features, trains_head_only

logger = logging.get_logger(__name__)


class FeatureStore:
    """The cached features of one training: of its data set, and of the sets that it evaluates."""

    def __init__(self, trainer: Trainer):
        self.trainer = trainer
        self.seconds = 0.0  # spent on the training set's features
        self._found: dict[int, CachedFeatures | None] = {}  # by id of the data set; None: it is used as it is

    def get(self, dataset: Dataset, for_training: bool) -> CachedFeatures | None:
        """The features of `dataset`, computed on the first call; None if the data set is used as it is.

        Raises ValueError if `cache_features=True` and they cannot be computed.
        """
        if not self._wanted(dataset, for_training):
            return None
        if id(dataset) not in self._found:
            start = time.perf_counter()
            self._found[id(dataset)] = features = self._compute(dataset, for_training)
            if for_training and features is not None:
                self.seconds = time.perf_counter() - start
        return self._found[id(dataset)]

    def clear(self) -> None:
        """Free the memory, because accelerate keeps the loader, and with it the data set."""
        for features in self._kept():
            features.tensors.clear()

    def _kept(self) -> list[CachedFeatures]:
        return [features for features in self._found.values() if features is not None]

    def _wanted(self, dataset: Dataset, for_training: bool) -> bool:
        trainer, args = self.trainer, self.trainer.args
        if trainer.cache_features is False:
            return False
        if not trains_head_only(trainer.model):
            return for_training and bool(trainer.cache_features)  # `cache_features` then raises
        if not for_training:
            own = trainer.eval_dataset
            own = own.values() if isinstance(own, dict) else [own]
            return any(dataset is one for one in own) and "inputs" not in args.include_for_metrics
        if trainer.cache_features or args.max_steps <= 0:
            return trainer.cache_features or args.num_train_epochs > 1
        in_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        return hasattr(dataset, "__len__") and args.max_steps * in_step > len(dataset)

    def _compute(self, dataset: Dataset, for_training: bool) -> CachedFeatures | None:
        trainer, args, checked = self.trainer, self.trainer.args, self.trainer.data_collator
        collator = trainer._get_collator_with_removed_columns(checked.collator, description="features")
        try:
            self._check_arguments()
            return cache_features(
                trainer.model,
                dataset,
                dataclasses.replace(checked, collator=collator),
                args.per_device_train_batch_size if for_training else args.per_device_eval_batch_size,
                for_training=for_training,
                num_workers=args.dataloader_num_workers,
                most_bytes=trainer.most_cached - args.world_size * sum(kept.nbytes for kept in self._kept()),
                epoch=int(trainer.state.epoch or 0),
                accelerator=trainer.accelerator,
                progress=not args.disable_tqdm and trainer.is_world_process_zero(),
                called="the training set" if for_training else "the evaluation set",
            )
        except NotCacheableError as error:
            reasons = "; ".join(error.reasons)
        if for_training and trainer.cache_features:
            raise ValueError(f"cache_features=True is not possible: {reasons}.")
        if for_training and trainer.is_world_process_zero():
            logger.warning(
                f"Only the head trains, but the frozen backbone runs in every step: {reasons}. Without that it would "
                "run once over the data, and later epochs would skip it (cache_features=False turns this off)."
            )
        return None

    def _check_arguments(self) -> None:
        args, found = self.trainer.args, []
        if self.trainer.shards:
            found.append("the model is sharded")
        if args.include_num_input_tokens_seen != "no":
            found.append("include_num_input_tokens_seen counts inputs (write 'no')")
        if args.train_sampling_strategy not in ("random", "sequential"):
            found.append(f"train_sampling_strategy is {args.train_sampling_strategy!r} (write 'random')")
        if found:
            raise NotCacheableError(found)
