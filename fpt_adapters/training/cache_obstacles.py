"""Reasons why the features of a data set cannot be cached: an example's must be the same in each epoch and any batch.

`SteadyCollator` compares every example with its row in the batch, bit by bit; `obstacles_in_sample` makes a few of
them twice, and runs the model on them.
"""

import copy
import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import Dataset

from ..backbones.building import DROPOUT_FIELDS
from ..backbones.structure import output_width
from ..heads.problems import IGNORED_LABEL
from ..models.pretrained import FPTPreTrainedModel
from .batch_checks import is_held
from .epochs import epoch_setter

# The values that pad short examples.
FILLER = {"attention_mask": 0, "token_type_ids": 0, "labels": IGNORED_LABEL}
ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 2e-2, torch.float16: 2e-2}  # share of the norm; dropout changes more
SAMPLED = 32  # examples, spread over a data set, that are tested first
TRIED = 4  # of these, examples that the model runs on: fewer might miss a layer that is rarely dropped
DEPENDS = "an example depends on those it is batched with (if that is padding: give a mask)"


@dataclass
class SteadyCollator:
    """A collator that also tells for each example whether it is the same in the batch as when collated on its own.

    It adds, each (batch,): `steady`, bool; `lengths`, the length of the example's labels on its own (0: one label).
    Padding after an example is allowed if the mask hides it from the model and the label -100 from the loss.
    `pad_token_id`: the id that counts as masked if no mask is given.
    """

    added = ("steady", "lengths")

    collator: Callable[[Sequence[Any]], dict[str, Tensor]]
    input_name: str
    pad_token_id: int | None

    def __call__(self, examples: Sequence[Any]) -> dict[str, Tensor]:
        """Collate and compare."""
        batch = dict(self.collator([copy.copy(example) for example in examples]))  # some collators empty their inputs
        singles = [self.collator([example]) for example in examples]
        steady = [self._is_row(single, batch, row) for row, single in enumerate(singles)]
        labels = [single["labels"] for single in singles if "labels" in single]
        lengths = [tensor.shape[1] if tensor.ndim > 1 else 0 for tensor in labels]
        return batch | {"steady": torch.tensor(steady), "lengths": torch.tensor(lengths)}

    def _is_row(self, single: dict[str, Tensor], batch: dict[str, Tensor], row: int) -> bool:
        names = [name for name in (self.input_name, *FILLER) if name in batch]
        return all(name in single and self._continues(name, single[name][0], batch, row) for name in names)

    def _continues(self, name: str, alone: Tensor, batch: dict[str, Tensor], row: int) -> bool:
        """Whether `batch[name][row]` is `alone`, or `alone` followed by padding."""
        batched = batch[name][row]
        if alone.shape == batched.shape:
            return _same(alone, batched)
        if alone.shape[1:] != batched.shape[1:] or not _same(alone, batched[: len(alone)]):
            return False
        filler = batched[len(alone) :]
        if name == self.input_name:
            hidden = self.pad_token_id is not None and (filler == self.pad_token_id).all()
            return "attention_mask" in batch or bool(hidden)
        return bool((filler == FILLER[name]).all())


def obstacles_in_settings(
    model: FPTPreTrainedModel, dataset: Dataset, most_bytes: int, num_processes: int, for_training: bool
) -> list[str]:
    """Reasons in the settings why features cannot be cached, each with what to write instead, if anything."""
    config, backbone_config, found = model.config, model.fpt_model.backbone.config, []
    if for_training and config.input_dropout:
        found.append(f"input_dropout is {config.input_dropout} (write input_dropout=0)")
    if for_training and (names := [name for name in DROPOUT_FIELDS if getattr(backbone_config, name, None)]):
        found.append(f"the backbone has {', '.join(names)} above 0 (write backbone_dropout=0)")
    if config.output_hidden_states or config.output_attentions:
        found.append("output_hidden_states or output_attentions asks for what only the backbone returns")
    if not is_held(dataset):
        return [*found, "the data set has no length, or no example"]
    tokens = config.num_tokens if model.per_token else 1
    needed = 4 * len(dataset) * tokens * output_width(config.base_model_config) * num_processes  # in fp32
    if needed > most_bytes:
        found.append(
            f"the features of {len(dataset):,} examples take {needed:,} bytes, over the {most_bytes:,} allowed"
        )
    return found


def obstacles_in_sample(
    model: FPTPreTrainedModel, dataset: Dataset, collator: SteadyCollator, epoch: int, for_training: bool
) -> list[str]:
    """Reasons in a few examples, made twice (in epoch `epoch` + 1, then `epoch`), why features cannot be cached."""
    rows = range(0, len(dataset), max(1, len(dataset) // SAMPLED))[:SAMPLED]
    set_epoch, passes = epoch_setter(dataset), []
    for number in (epoch + 1, epoch):
        if set_epoch is not None:
            set_epoch(number)
        passes.append(collator([dataset[row] for row in rows]))
    batch, again = passes
    if batch.keys() != again.keys() or not all(_same(batch[name], again[name]) for name in batch):
        return ["the data set or its collator draws examples anew each time (an augmentation)"]
    if "labels" not in batch:
        return ["the data set has no labels"]
    if not batch["steady"].all():
        return [DEPENDS]
    if not for_training:  # evaluations always run in evaluation mode, and on the same batches
        return []
    tried = {name: tensor[:TRIED] for name, tensor in batch.items()}
    return _obstacles_in_model(model, tried, [collator.collator([dataset[row]]) for row in rows[:TRIED]])


@torch.no_grad()
def _obstacles_in_model(
    model: FPTPreTrainedModel, batch: dict[str, Tensor], singles: Sequence[dict[str, Tensor]]
) -> list[str]:
    """Reasons if examples on their own in training mode get other features than in a batch in evaluation mode."""
    together = model.eval().head_inputs(**inputs_of(model, batch))
    for features, single in zip(together, singles, strict=True):
        inputs = inputs_of(model, single)
        if not _differ(model, model.train().head_inputs(**inputs)[0], features):
            continue
        if _differ(model, model.eval().head_inputs(**inputs)[0], features):
            return ["the backbone sees padding in spite of the mask"]
        return ["the backbone is random in training"]
    return []


def inputs_of(model: FPTPreTrainedModel, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    """The part of a collated batch that the model takes, on its device."""
    taken = inspect.signature(model.fpt_model.forward).parameters  # of other inputs, too, which the model refuses
    return {name: tensor.to(model.device) for name, tensor in batch.items() if name in taken}


def _differ(model: FPTPreTrainedModel, alone: Tensor, batched: Tensor) -> bool:
    """Whether features (hidden,) or (tokens, hidden) differ from those in a batch, where padding may follow."""
    batched = batched[: len(alone)]
    rounding = max(ROUNDING.get(parameter.dtype, 0) for parameter in model.parameters())
    return bool((alone - batched).float().norm() > rounding * batched.float().norm())


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors are equal; NaN, which may be under a mask, equals NaN."""
    return one.shape == other.shape and bool(((one == other) | (one != one) & (other != other)).all())
