"""The base class of tasks: data splits, the input to declare, a metric, and the score that needs no learning."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch.utils.data import Dataset
from transformers import (
    BaseImageProcessor,
    EvalPrediction,
    FeatureExtractionMixin,
    PreTrainedConfig,
    PreTrainedTokenizerFast,
)

from ..models.pretrained import FPTPreTrainedModel
from .metrics import accuracy


@dataclass
class TaskData:
    """The loaded splits (map-style, except a streamed `train`) and the `FPTConfig` fields that they fix.

    Every split yields dictionaries of model inputs (see `Task.collate`). `test` is only for the final figure:
    everything that is chosen (a step, a learning rate) is chosen on `validation`.
    """

    train: Dataset
    validation: Dataset
    test: Dataset
    config: dict[str, Any]
    found: list[str] = field(default_factory=list)  # what was found in the data, in lines


@dataclass
class Task(ABC):
    """One task. Its dataclass fields are its arguments, which `HfArgumentParser` turns into flags."""

    name: ClassVar[str]
    model_class: ClassVar[type[FPTPreTrainedModel]]
    include_for_metrics: ClassVar[tuple[str, ...]] = ()  # what `compute_metrics` needs beyond predictions and labels
    data_source: ClassVar[str]  # the task's own data in a few words, for the model card
    data_license: ClassVar[str | None] = None  # the data's own licence, if it is stated
    limits: ClassVar[tuple[str, ...]] = ()  # sentences: what a model for this task is not good for
    example_text: ClassVar[str | None] = None  # an input that is text, for the model card
    base: ClassVar[str | None] = None  # set by who loads: the base or the delta, whose tokenizer some tasks read with
    base_config: ClassVar[PreTrainedConfig | None] = None  # the base's configuration
    base_settings: ClassVar[dict[str, Any]] = {}  # where it is on the Hub: `revision`, `cache_dir`
    is_generic: ClassVar[bool] = False  # whether its name tells what is done, and nothing of the data
    scores_batches: ClassVar[bool] = False  # whether `compute_metrics` adds up batches: see `batch_eval_metrics`
    draws_fresh_examples: ClassVar[bool] = False  # whether `train_examples` can be as many as a run needs

    def reads(self, copy_of: str | None = None) -> bool:
        """Whether the data is the task's own, so that `data_source`, `limits` and the like are true of it.

        `copy_of`: the Hub id that local files are a copy of, if the user gives one.
        """
        return True

    @abstractmethod
    def load(self, seed: int = 0, max_samples: dict[str, int] | None = None) -> TaskData:
        """Load or draw the splits. `seed`: for all that is random in the training data and in parts held out from it.

        `max_samples` maps a split's name to the number of examples to keep, drawn with `seed`.
        Raises ValueError, in one or two lines, for data that cannot be trained on.
        """

    def stream(
        self,
        seed: int = 0,
        max_samples: dict[str, int] | None = None,
        *,
        buffer_size: int | None = 10_000,
        label_names: Sequence[str] | None = None,
    ) -> TaskData:
        """As `load`, but the training split is an `ExampleStream`, which is read during training and never held.

        A buffer of `buffer_size` shuffles its rows (None: no shuffling). `label_names`: the classes in the order of
        their numbers, if the data does not name them. Raises ValueError for a task that reads no files.
        """
        raise ValueError(
            f"{self.name} makes its examples itself and reads no files: there is nothing to stream, so leave "
            "--streaming out."
        )

    @abstractmethod
    def floor(self, split: Dataset) -> float:
        """The accuracy on `split` that needs no learning (0..1), or the first of `floors`."""

    def floors(self, split: Dataset) -> dict[str, float] | float:
        """Scores on `split` that need no learning, by the names of `compute_metrics`; one number is an accuracy."""
        return self.floor(split)

    @abstractmethod
    def processor(self) -> BaseImageProcessor | PreTrainedTokenizerFast | FeatureExtractionMixin:
        """Make the processor that turns raw data (an image, a text, numbers) into model inputs like the splits'.

        It follows the task's arguments, and never augments. Saved beside a model (`save_pretrained`), it is found by
        transformers' Auto classes and pipelines. If the task cuts long sequences, call it with `truncation=True`.
        """

    def collate(self, features: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Stack examples of equal shape: a list of {name: tensor, array or number} -> {name: (batch, ...)}."""
        return {key: torch.stack([torch.as_tensor(example[key]) for example in features]) for key in features[0]}

    @staticmethod
    def preprocess_logits_for_metrics(logits: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """Logits (..., classes) -> answers (...), so that an evaluation keeps only these."""
        return logits.argmax(dim=-1)

    def compute_metrics(self, prediction: EvalPrediction) -> dict[str, float]:
        """Metrics of the answers in `prediction.predictions`, which `preprocess_logits_for_metrics` returned."""
        return {"accuracy": accuracy(prediction.predictions, prediction.label_ids)}
