"""Frozen features, computed once: where the head alone trains, what enters it is the same in every epoch.

The paper's linear probe (arXiv 2103.05247, "output layer only") trains on such features. Here a pass over the data
computes them in order; batches of them are then indexed out of one tensor, instead of running the backbone again.

They are the same only if an example gives the same features whenever it is seen and whatever it is batched with.
`SteadyCollator` looks at every example in its batch; `two_passes`, `differs_in_training` and `differs_alone` try some.
"""

import contextlib
import copy
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import Dataset, Subset
from transformers import PreTrainedConfig

from ..heads.problems import IGNORED_LABEL
from ..models.pretrained import FPTPreTrainedModel

FILLER = {"attention_mask": 0, "labels": IGNORED_LABEL}  # what a collator fills short examples up with
ROUNDING = {torch.float32: 1e-3, torch.bfloat16: 2e-2, torch.float16: 2e-2}  # of the norm; any dropout changes more
TRAINING_PASSES = 3  # that `differs_in_training` compares: a layer that is rarely dropped may survive one


class CachedFeatures(Dataset):
    """What enters the head for each example of a data set, and its labels; a batch is made at once, ready collated.

    `tensors`: "head_inputs" (examples, hidden) and "labels" (examples, ...); for a head per token (examples, tokens,
    hidden) and (examples, tokens, ...), with `lengths` (examples,), the tokens that each example has.
    """

    def __init__(self, tensors: dict[str, Tensor], lengths: Tensor | None = None):
        self.tensors = tensors
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.tensors["labels"])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return self.__getitems__([index])

    def __getitems__(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """Make the batch of the examples `indices`; tokens are cut to the longest of them."""
        rows = torch.as_tensor(indices)
        if self.lengths is None:
            return {name: tensor[rows] for name, tensor in self.tensors.items()}
        longest = int(self.lengths[rows].max())
        return {name: tensor[rows, :longest] for name, tensor in self.tensors.items()}

    @property
    def nbytes(self) -> int:
        """Bytes that it holds."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


@dataclass
class SteadyCollator:
    """A collator that also tells of each example whether the batch left it as it is alone.

    It adds, each (batch,): `steady`, bool; `widths`, the length of each example's input alone; `lengths`, that of its
    labels (0: one label). Padding behind an example leaves it as it is if the mask hides it from the model and the
    label from the loss. `pad_token_id`: the id that hides itself where no mask is given.
    """

    added = ("steady", "widths", "lengths")

    collator: Callable[[Sequence[Any]], dict[str, Tensor]]
    input_name: str
    pad_token_id: int | None

    def __call__(self, examples: Sequence[Any]) -> dict[str, Tensor]:
        """Collate and compare."""
        batch = dict(self.collator([copy.copy(example) for example in examples]))  # some collators empty what they get
        singles = [self.collator([example]) for example in examples]
        steady = [self._is_row(single, batch, row) for row, single in enumerate(singles)]
        widths = [single[self.input_name].shape[1] if self.input_name in single else 0 for single in singles]
        labels = [single["labels"] for single in singles if "labels" in single]
        lengths = [tensor.shape[1] if tensor.ndim > 1 else 0 for tensor in labels]
        values = (torch.tensor(value) for value in (steady, widths, lengths))
        return batch | dict(zip(self.added, values, strict=True))

    def _is_row(self, single: dict[str, Tensor], batch: dict[str, Tensor], row: int) -> bool:
        names = [name for name in (self.input_name, *FILLER) if name in batch]
        return all(name in single and self._continues(name, single[name][0], batch, row) for name in names)

    def _continues(self, name: str, alone: Tensor, batch: dict[str, Tensor], row: int) -> bool:
        """Whether `batch[name][row]` is `alone`, or `alone` and filler behind it."""
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


@torch.no_grad()
def compute_features(
    model: FPTPreTrainedModel, batches: Iterable[dict[str, Tensor]], accelerator: Accelerator, examples: int
) -> CachedFeatures | None:
    """Run `model` over the `batches` of a `SteadyCollator`, in the data set's order, shared out over processes.

    Returns None, the same in every process, if an example is not steady. Raises RuntimeError if some are missing.
    """
    tokens = model.config.num_tokens if model.per_token else None
    tensors: dict[str, Tensor] = {}
    start, steady = 0, True
    for batch in batches:  # to the end even if unsteady, which puts accelerate's state back
        if not steady:
            continue
        del batch["widths"]
        found = {name: batch.pop(name) for name in ("labels", "steady", "lengths")}
        with accelerator.autocast():
            found["head_inputs"] = model.head_inputs(**batch)
        if tokens is not None:
            found["head_inputs"] = _pad(found["head_inputs"], tokens, 0)
            found["labels"] = _pad(found["labels"], tokens, IGNORED_LABEL)
        found = accelerator.gather_for_metrics(found)
        steady = bool(found.pop("steady").all())
        for name, rows in found.items():
            if name not in tensors:
                tensors[name] = torch.empty((examples, *rows.shape[1:]), dtype=rows.dtype)
            tensors[name][start : start + len(rows)] = rows.cpu()
        start += len(rows)
    if not steady:
        return None
    if start != examples:
        raise RuntimeError(f"The data set has {examples} examples, but {start} came: write cache_features=False.")
    lengths = tensors.pop("lengths")
    return CachedFeatures(tensors, None if tokens is None else lengths)


def _pad(tensor: Tensor, tokens: int, value: int) -> Tensor:
    """(batch, shorter, ...) -> (batch, tokens, ...)."""
    return F.pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, tokens - tensor.shape[1]), value=value)


def two_passes(
    batches: Iterable[dict[str, Tensor]], dataset: Dataset, epoch: int
) -> tuple[list[dict[str, Tensor]], list[dict[str, Tensor]]]:
    """Go twice over the `batches` of `dataset`; where it knows epochs, in that after `epoch` and in `epoch` itself."""
    set_epoch = getattr(innermost(dataset), "set_epoch", None)
    passes = []
    for number in (epoch + 1, epoch):
        if callable(set_epoch):
            set_epoch(number)
        passes.append([dict(batch) for batch in batches])
    return passes[0], passes[1]


def same_batches(first: list[dict[str, Tensor]], second: list[dict[str, Tensor]]) -> bool:
    """Whether two lists of batches hold the same, bit by bit."""
    return all(
        one.keys() == other.keys() and all(_same(one[name], other[name]) for name in one)
        for one, other in zip(first, second, strict=True)
    )


def _same(one: Tensor, other: Tensor) -> bool:
    """Whether two tensors hold the same, bit by bit; NaN, which may lie under a mask, is NaN."""
    return one.shape == other.shape and bool(((one == other) | (one != one) & (other != other)).all())


@torch.no_grad()
def differs_in_training(model: FPTPreTrainedModel, inputs: dict[str, Tensor]) -> bool:
    """Whether what enters the head is random in training mode, or another than in evaluation mode."""
    expected = model.eval().head_inputs(**inputs)
    model.train()
    return any(_differ(model, model.head_inputs(**inputs), expected) for _ in range(TRAINING_PASSES))


@torch.no_grad()
def differs_alone(model: FPTPreTrainedModel, inputs: dict[str, Tensor], widths: Tensor) -> bool:
    """Whether padded examples give other features in their batch than alone: ConvBERT looks behind the mask."""
    longest = max((tensor.shape[1] for tensor in inputs.values()), default=0)
    padded = [(row, width) for row, width in enumerate(widths.tolist()) if width < longest]
    if not padded:
        return False
    together = model.eval().head_inputs(**inputs)
    for row, width in padded:
        alone = model.head_inputs(**{name: tensor[row : row + 1, :width] for name, tensor in inputs.items()})[0]
        if _differ(model, together[row, : len(alone)], alone):
            return True
    return False


def _differ(model: FPTPreTrainedModel, one: Tensor, other: Tensor) -> bool:
    rounding = max(ROUNDING.get(parameter.dtype, 0) for parameter in model.parameters())
    return bool((one - other).float().norm() > rounding * other.float().norm())


def random_fields(config: PreTrainedConfig, names: Iterable[str]) -> list[str]:
    """Those of the `names` that a backbone's configuration sets above 0."""
    values = {name: getattr(config, name, None) for name in names}
    return [name for name, value in values.items() if isinstance(value, float) and value > 0]


def innermost(dataset: Dataset) -> Dataset:
    """The data set under any number of torch's `Subset`."""
    while isinstance(dataset, Subset):
        dataset = dataset.dataset
    return dataset


@contextlib.contextmanager
def random_state_kept(device: torch.device) -> Iterator[None]:
    """Leave the global random states of Python, NumPy and torch as they were."""
    python_state, numpy_state = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
        try:
            yield
        finally:
            random.setstate(python_state)
            np.random.set_state(numpy_state)
