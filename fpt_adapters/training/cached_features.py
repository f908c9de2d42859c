"""Cached features: if only the head trains, its inputs are the same in every epoch, and can be computed once.

The paper's linear probe (arXiv 2103.05247, "output layer only") trains on such features. One pass over the data
computes them; batches are then rows of one tensor, and the backbone does not run again.
"""

import contextlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import DataLoader, Dataset
from tqdm.auto import tqdm
from transformers import default_data_collator

from ..heads.problems import IGNORED_LABEL
from ..models.pretrained import FPTPreTrainedModel
from ..rules.limits import MEMORY
from .batch_checks import CheckedCollator, naming_the_row
from .cache_obstacles import DEPENDS, SteadyCollator, inputs_of, obstacles_in_sample, obstacles_in_settings
from .label_checks import LabelRule
from .random_state import random_state_kept

MOST_BYTES = MEMORY // 4


class CachedFeatures(Dataset):
    """A data set of the head's inputs and the labels, for training only the head.

    Each example has what `forward` takes in place of raw inputs: "head_inputs" (hidden,) and "labels"; for a head per
    token (tokens, hidden) and (tokens, ...), padded with zeros and the label -100. transformers' default collator
    makes batches of them.

    `tensors`: "head_inputs" (examples, hidden) and "labels" (examples, ...); for a head per token (examples, tokens,
    hidden) and (examples, tokens, ...), with `lengths` (examples,), the number of tokens of each example.
    """

    def __init__(self, tensors: dict[str, Tensor], lengths: Tensor | None = None):
        self.tensors = tensors
        self.lengths = lengths

    def __len__(self) -> int:
        return len(self.tensors["labels"])

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {name: tensor[index] for name, tensor in self.tensors.items()}

    def batch(self, indices: Sequence[int]) -> dict[str, Tensor]:
        """The batch of the examples `indices`; tokens are cut to the longest of them."""
        rows = torch.as_tensor(indices)
        if self.lengths is None:
            return {name: tensor[rows] for name, tensor in self.tensors.items()}
        longest = int(self.lengths[rows].max())
        return {name: tensor[rows, :longest] for name, tensor in self.tensors.items()}

    @property
    def labels(self) -> Tensor:
        """The labels of all examples: (examples, ...)."""
        return self.tensors["labels"]

    @property
    def nbytes(self) -> int:
        """The size of all tensors in bytes."""
        return sum(tensor.nbytes for tensor in self.tensors.values())


class NotCacheableError(ValueError):
    """The features of a data set cannot be cached, for the given `reasons`."""

    def __init__(self, reasons: Sequence[str]):
        self.reasons = list(reasons)
        super().__init__(f"The features of this data set cannot be kept: {'; '.join(self.reasons)}.")


def cache_features(
    model: FPTPreTrainedModel,
    dataset: Dataset,
    data_collator: Callable[[Sequence[Any]], dict[str, Tensor]] = default_data_collator,
    batch_size: int = 32,
    *,
    for_training: bool = True,
    num_workers: int = 0,
    most_bytes: int = MOST_BYTES,
    epoch: int = 0,
    accelerator: Accelerator | None = None,
    progress: bool = True,
    called: str = "the data set",
) -> CachedFeatures:
    """Run the frozen part of `model` once over `dataset`, and return the head's inputs and the labels of each example.

    FPTTrainer or the stock Trainer trains the head on the result as on `dataset`, up to rounding; the trained model
    takes raw inputs as before. Examples and `data_collator` are those for Trainer, with labels.

    The features are held in memory, at most `most_bytes`: 4 * examples * hidden bytes, for a head per token * tokens.
    `for_training=False`: for data that is only evaluated, where the model may have dropout. A data set with
    `set_epoch` is left in `epoch`. `accelerator`: divides the work among its processes, which must all call this, and
    sets the precision. `called`: the data set's name in messages.

    Raises ValueError for a model that trains more than the head; if an example would not have the same features each
    time (dropout, an augmentation, padding without a mask), with all reasons; and for wrong inputs and labels, naming
    the row. A sample is tested first; whether an example depends on its batch is checked for every one.
    """
    if model.headless or not trains_head_only(model):
        raise ValueError("cache_features needs a model of which only the head trains: write trainable=['output'].")
    agreed = gather_object if accelerator is not None else list  # the same reasons in all processes
    num_processes = 1 if accelerator is None else accelerator.num_processes
    if found := agreed(obstacles_in_settings(model, dataset, most_bytes, num_processes, for_training)):
        raise NotCacheableError(dict.fromkeys(found))
    if not isinstance(data_collator, CheckedCollator):
        data_collator = CheckedCollator(data_collator, model.config, LabelRule.of(model))
    input_name = model.fpt_model.input_projection.input_name
    collator = SteadyCollator(data_collator, input_name, model.config.pad_token_id)
    loader = DataLoader(dataset, batch_size=batch_size, collate_fn=collator, num_workers=num_workers)
    training = model.training
    try:
        with random_state_kept(model.device), naming_the_row(called, lambda: loader):
            if found := agreed(obstacles_in_sample(model, dataset, collator, epoch, for_training)):
                raise NotCacheableError(dict.fromkeys(found))
            batches = loader if accelerator is None else accelerator.prepare(loader)
            bar = tqdm(batches, "features", disable=not progress)
            features = compute_features(model.eval(), bar, len(dataset), accelerator)
    finally:
        model.train(training)
    if features is None:
        raise NotCacheableError([DEPENDS])
    return features


def trains_head_only(model: FPTPreTrainedModel) -> bool:
    """Whether nothing in front of the head trains."""
    return not any(parameter.requires_grad for parameter in model.fpt_model.parameters())


def check_features(model: FPTPreTrainedModel) -> None:
    """Raise ValueError if `model` trains more than its head, so that cached features would not stay true."""
    if not trains_head_only(model):
        raise ValueError(
            "Cached features are for a model of which only the head trains, and this one trains more: write "
            "trainable=['output'], or give the raw data."
        )


@torch.no_grad()
def compute_features(
    model: FPTPreTrainedModel,
    batches: Iterable[dict[str, Tensor]],
    examples: int,
    accelerator: Accelerator | None = None,
) -> CachedFeatures | None:
    """Run `model` over the `batches` of a `SteadyCollator`, in the data set's order, divided among processes.

    Returns None, in every process, if an example is not steady. Raises RuntimeError if some are missing.
    """
    tokens = model.config.num_tokens if model.per_token else None
    tensors: dict[str, Tensor] = {}
    start, steady = 0, True
    for batch in batches:  # to the end even if unsteady, so that accelerate's state is reset
        if not steady:
            continue
        found = {name: batch[name].to(model.device) for name in ("labels", *SteadyCollator.added)}
        with contextlib.nullcontext() if accelerator is None else accelerator.autocast():
            found["head_inputs"] = model.head_inputs(**inputs_of(model, batch))
        if tokens is not None:
            found["head_inputs"] = _pad(found["head_inputs"], tokens, 0)
            found["labels"] = _pad(found["labels"], tokens, IGNORED_LABEL)
        if accelerator is not None:
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
        raise RuntimeError(
            f"The data set has {examples} examples, but {start} came: correct its __len__, or write "
            "FPTTrainer(cache_features=False)."
        )
    lengths = tensors.pop("lengths")
    return CachedFeatures(tensors, None if tokens is None else lengths)


def _pad(tensor: Tensor, tokens: int, value: int) -> Tensor:
    """(batch, shorter, ...) -> (batch, tokens, ...)."""
    return F.pad(tensor, (0, 0) * (tensor.ndim - 2) + (0, tokens - tensor.shape[1]), value=value)
