"""A Trainer that looks at its data before it learns from them, and names the row that is wrong."""

import contextlib
import functools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence, Sized

import datasets
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset, Subset
from transformers.trainer_utils import EvalLoopOutput, IntervalStrategy

from ..heads.problems import problem_type_of
from .batch_checks import ROW, BatchError, CheckedCollator, check_first_batch
from .cached_features import random_state_kept
from .label_checks import LabelRule, check_labels_at_hand
from .stream_batches import BatchStream
from .streaming import StreamingTrainer

SEARCHED = 60  # seconds that a wrong row is looked for, at most


class CheckingTrainer(StreamingTrainer):
    """Trainer whose data are checked: all labels and the first batch before training, then every batch.

    Labels are looked at where a data set has them at hand (see `check_labels_at_hand`). Where a loss of your own reads
    them (`compute_loss_func`, or another `compute_loss`), a label that the model's loss would not take is warned of.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        tokenizer = getattr(self.data_collator, "tokenizer", None)  # which Trainer saves, and finds by this name
        if self.processing_class is None and tokenizer is not None:
            self.processing_class = self.model.processor = tokenizer
        self._check_collated()

    def _check_collated(self) -> None:
        """Have the batches of the collator checked, be it the one that came first or one that was set since."""
        collator = self.data_collator
        if isinstance(collator, CheckedCollator):
            collator = collator.collator
        self.data_collator = CheckedCollator(collator, self.model.config, self._rule())

    def check_data(self) -> None:
        """Look at the labels of all data sets and at their first batches. Raises ValueError for what is wrong."""
        self._check_collated()
        if not self.model.headless:
            rule, collator = LabelRule.of(self.model), self.data_collator.collator
            for what, dataset in self._data_sets().items():
                check_labels_at_hand(what, dataset, rule, collator, self._own_loss)
        for what, dataset in self._data_sets().items():
            training = dataset is self.train_dataset
            if training and self.streams:  # whose first batch is looked at where its loader is made
                continue
            if training or self.args.eval_strategy != IntervalStrategy.NO:
                batch = self._first_batch(self._loader_of(dataset, rows=[0]), what)
                if training:
                    self._check_first_batch(batch, functools.partial(_columns_of, dataset))

    def train(self, *args, **kwargs):
        """As `Trainer.train`. Raises ValueError for a wrong batch."""
        with self._naming_the_row("the training set"):
            return super().train(*args, **kwargs)

    def compute_loss(self, model, inputs, return_outputs=False, num_items_in_batch=None):
        """As `Trainer.compute_loss`; where nothing is labelled, it is 0 with label smoothing, too."""
        if torch.is_tensor(num_items_in_batch):
            num_items_in_batch = num_items_in_batch.clamp(min=1)
        return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)

    def evaluation_loop(self, dataloader: DataLoader, *args, **kwargs) -> EvalLoopOutput:
        """As `Trainer.evaluation_loop`. Raises ValueError for a wrong batch, and where none can be made."""
        if not self.is_in_train:  # before it, that was seen to
            self._first_batch(dataloader, "the evaluation set")
        with self._naming_the_row("the evaluation set", dataloader):
            return super().evaluation_loop(dataloader, *args, **kwargs)

    def get_train_dataloader(self) -> DataLoader:
        """As `Trainer.get_train_dataloader`. Raises ValueError for a stream whose first batch has wrong inputs."""
        loader = super().get_train_dataloader()
        if self.streams and isinstance(loader.dataset, BatchStream):
            self._check_first_batch(loader.dataset.peek())  # which stays the first batch
        return loader

    @property
    def _own_loss(self) -> bool:
        return self.compute_loss_func is not None or type(self).compute_loss is not CheckingTrainer.compute_loss

    def _rule(self) -> LabelRule | None:
        """What the labels of a batch must be; None where an own loss reads them."""
        return None if self.model.headless or self._own_loss else LabelRule.of(self.model)

    def _data_sets(self) -> dict[str, Dataset]:
        """The data sets by what messages call them."""
        found = {"the training set": self.train_dataset}
        if isinstance(self.eval_dataset, dict):
            found |= {f"the evaluation set {name!r}": dataset for name, dataset in self.eval_dataset.items()}
        elif self.eval_dataset is not None:
            found["the evaluation set"] = self.eval_dataset
        return found

    def _loader_of(self, dataset: Dataset, rows: Sequence[int]) -> DataLoader | None:
        """Trainer's loader of some rows; None where they are not held."""
        if not _is_held(dataset):
            return None
        part = dataset.select(rows) if isinstance(dataset, datasets.Dataset) else Subset(dataset, rows)
        return self.get_test_dataloader(part)

    def _first_batch(self, loader: DataLoader | None, what: str) -> dict[str, Tensor]:
        """The first example as a loader of Trainer's serves it, collated; {} where none is held."""
        if not _is_held(getattr(loader, "dataset", None)):
            return {}
        try:
            with random_state_kept(self.args.device), self._naming_the_row(what, loader):
                return loader.collate_fn([loader.dataset[0]])
        except KeyError as error:
            if not self.args.remove_unused_columns:
                raise
            raise ValueError(
                f"What makes the model's inputs asks for {error}, which the examples do not have: Trainer removes all "
                "that the model's forward does not take. Write TrainingArguments(remove_unused_columns=False)."
            ) from error

    def _check_first_batch(self, batch: dict[str, Tensor], columns: Callable[[], Iterable[str]] | None = None) -> None:
        """Check it, and let the config say, for the card and for pipelines, what problem its labels pose."""
        check_first_batch(self.model, batch, self._rule(), columns)
        config = self.model.config
        if self._rule() is None:
            return
        if problem_type_of(config.problem_type, config.num_labels, batch["labels"]) == "multi_label_classification":
            config.problem_type = "multi_label_classification"
            self.data_collator.rule = self._rule()

    @contextlib.contextmanager
    def _naming_the_row(self, what: str, loader: DataLoader | None = None) -> Iterator[None]:
        """Name the row that makes a batch wrong, where it is found again: in `loader`, else in the training set."""
        try:
            yield
        except BatchError as error:
            if loader is None and _is_held(self.train_dataset):
                loader = self._loader_of(self.train_dataset, range(len(self.train_dataset)))
            found = _find_wrong(loader) if _is_held(getattr(loader, "dataset", None)) else None
            if found is None:
                raise ValueError(str(error)) from error  # which is not looked for again, in another data set
            row, problem = found
            raise ValueError(f"{problem}{ROW}{row} of {what}.") from error


def _columns_of(dataset: Dataset) -> Iterable[str]:
    """The names of what an example has; the whole of it, where it has no names."""
    example = dataset[0]
    return example if isinstance(example, Mapping) else [type(example).__name__]


def _find_wrong(loader: DataLoader) -> tuple[int, str] | None:
    """The first row of a loader's data set that makes a wrong batch, and what is wrong; None where none was found."""
    start = time.monotonic()
    for row in range(len(loader.dataset)):
        try:
            loader.collate_fn([loader.dataset[row]])
        except BatchError as error:
            return row, error.problem
        if time.monotonic() - start > SEARCHED:
            return None
    return None


def _is_held(dataset: object) -> bool:
    """Whether a data set has examples that can be looked at without reading on."""
    return isinstance(dataset, Sized) and not isinstance(dataset, IterableDataset) and len(dataset) > 0
