"""A Trainer that looks at its data before it learns from them, and names the row that is wrong."""

import contextlib
import time
from collections.abc import Iterator

from torch import Tensor
from torch.utils.data import DataLoader, Dataset, IterableDataset
from transformers import Trainer, default_data_collator

from .batch_checks import BatchError, CheckedCollator, check_first_batch
from .heads import problem_type_of
from .label_checks import LabelRule, check_labels_at_hand
from .stream_batches import BatchStream
from .streaming import StreamingTrainer

SEARCHED = 60  # seconds that a wrong row is looked for, at most


class CheckingTrainer(StreamingTrainer):
    """Trainer whose data are checked: all labels and the first batch before training, then every batch.

    Labels are looked at where a data set has them at hand (see `check_labels_at_hand`). Where a loss of your own reads
    them (`compute_loss_func`, or another `compute_loss`), a label that the model's loss would not take is warned of.
    """

    def __init__(self, model, args=None, **kwargs):
        super().__init__(model, args, **kwargs)
        collator = self.data_collator or default_data_collator
        self.data_collator = CheckedCollator(collator, self.model.config, self._rule())

    def check_data(self) -> None:
        """Look at the labels of all data sets and at the first batch. Raises ValueError for what is wrong in them."""
        self.data_collator.config, self.data_collator.rule = self.model.config, self._rule()
        if not self.model.headless:
            for what, dataset in self._data_sets().items():
                rule, collator = LabelRule.of(self.model), self.data_collator.collator
                check_labels_at_hand(what, dataset, rule, collator, self._own_loss)
        if not self.streams:  # the first batch of a stream is looked at where its loader is made
            with self._naming_the_row(self.train_dataset, "the training set"):
                self._check_first_batch(self.data_collator([self.train_dataset[0]]))

    def train(self, *args, **kwargs):
        """As `Trainer.train`. Raises ValueError for a wrong batch."""
        with self._naming_the_row(self.train_dataset, "the training set"):
            return super().train(*args, **kwargs)

    def evaluation_loop(self, dataloader: DataLoader, *args, **kwargs):
        """As `Trainer.evaluation_loop`. Raises ValueError for a wrong batch."""
        with self._naming_the_row(dataloader.dataset, "the evaluation set"):
            return super().evaluation_loop(dataloader, *args, **kwargs)

    def get_train_dataloader(self) -> DataLoader:
        """As `Trainer.get_train_dataloader`. Raises ValueError for a stream whose first batch has wrong inputs."""
        loader = super().get_train_dataloader()
        if self.streams and isinstance(loader.dataset, BatchStream):
            self._check_first_batch(loader.dataset.peek())  # which stays the first batch
        return loader

    @property
    def _own_loss(self) -> bool:
        return self.compute_loss_func is not None or type(self).compute_loss is not Trainer.compute_loss

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

    def _check_first_batch(self, batch: dict[str, Tensor]) -> None:
        """Check it, and let the config say, for the card and for pipelines, what problem its labels pose."""
        check_first_batch(self.model, batch, self._rule())
        config = self.model.config
        if self._own_loss:
            return
        if problem_type_of(config.problem_type, config.num_labels, batch["labels"]) == "multi_label_classification":
            config.problem_type = "multi_label_classification"
            self.data_collator.rule = self._rule()

    @contextlib.contextmanager
    def _naming_the_row(self, dataset: Dataset, what: str) -> Iterator[None]:
        """Name the row of the data set, where a batch of it is wrong and that row can be found again."""
        try:
            yield
        except BatchError as error:
            if isinstance(dataset, IterableDataset):
                raise
            start = time.monotonic()
            for row in range(len(dataset)):
                if time.monotonic() - start > SEARCHED:
                    break
                _, wrong = self.data_collator.look_at([dataset[row]])
                if wrong is not None:
                    raise ValueError(f"{wrong.problem}. This is row {row} of {what}.") from error
            raise
