"""The kinds of labels (`problem_type`): classes, several labels at once, or numbers. Each has its loss and words."""

import torch
from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedConfig

from ..rules.wording import counted, plain, thousands

IGNORED_LABEL = -100  # the label value that transformers' losses leave out
LABELS_SHOWN = 20


class Problem:
    """One kind of labels, whether a sequence or each of its tokens has them."""

    name: str  # transformers' `problem_type`

    def shape_of_labels(self, logits: torch.Size) -> torch.Size:
        """The shape of the labels that belong to logits of shape `logits`."""
        return logits

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        """The summed loss of fp32 logits (..., num_labels) for labels of `shape_of_labels`."""
        raise NotImplementedError

    def describe(self, config: PreTrainedConfig, each: str = "") -> str:
        """The answers in words; `each`: a prefix that says what has an answer, if not the whole example."""
        raise NotImplementedError


class Classes(Problem):
    """One of `num_labels` classes, given as a whole number."""

    name = "single_label_classification"

    def shape_of_labels(self, logits: torch.Size) -> torch.Size:
        return logits[:-1]

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        flat = logits.reshape(-1, logits.shape[-1])  # (items, num_labels)
        return F.cross_entropy(flat, labels.long().reshape(-1), ignore_index=IGNORED_LABEL, reduction="sum")

    def describe(self, config: PreTrainedConfig, each: str = "") -> str:
        return f"{each}one of {_labels(config)}."


class SeveralLabels(Problem):
    """Any of `num_labels` labels at once, each a number in 0..1."""

    name = "multi_label_classification"

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return _elementwise(F.binary_cross_entropy_with_logits, logits, labels)

    def describe(self, config: PreTrainedConfig, each: str = "") -> str:
        return f"{each}any of {_labels(config)}."


class Numbers(Problem):
    """`num_labels` numbers, regressed."""

    name = "regression"

    def loss(self, logits: Tensor, labels: Tensor) -> Tensor:
        return _elementwise(F.mse_loss, logits, labels)

    def describe(self, config: PreTrainedConfig, each: str = "") -> str:
        return f"{counted(config.num_labels, 'number')} (regression)."


PROBLEMS: dict[str, Problem] = {problem.name: problem for problem in (Numbers(), Classes(), SeveralLabels())}


def problem_type_of(problem_type: str | None, num_labels: int, labels: Tensor) -> str:
    """The problem type for `labels`: the given one, else the one that every transformers model would choose.

    With one label it is regression; whole numbers (or bools) are classes; floats, one per label, are several labels at
    once.
    """
    if problem_type is not None:
        return problem_type
    if num_labels == 1:
        return Numbers.name
    return SeveralLabels.name if labels.is_floating_point() else Classes.name


def classification_loss(
    logits: Tensor,
    labels: Tensor,
    problem_type: str | None,
    num_items_in_batch: Tensor | int | None = None,
    scale: tuple[Tensor, Tensor] | None = None,
) -> Tensor:
    """The loss of `logits` (..., num_labels) in fp32, averaged over the labels that are not -100; 0 if all are.

    `problem_type` is transformers': "single_label_classification" (`labels` (...), whole numbers or bools),
    "multi_label_classification" (`labels` shaped as the logits, in 0..1), "regression" (`labels` shaped as the
    logits); None: see `problem_type_of`. Where the logits' last dimension is 1, `labels` may lack it.
    `num_items_in_batch` is what Trainer counts over all accumulated batches and processes, the labels that are not
    -100: dividing by it makes any split of a batch give the same gradient. `scale`: mean and standard deviation
    (num_labels,) that numbers are standardised by, as the logits are. Raises ValueError for labels of another
    shape, and for classes that are floats.
    """
    logits, labels = logits.float(), labels.to(logits.device)
    problem = PROBLEMS[problem_type_of(problem_type, logits.shape[-1], labels)]
    if problem.name == Classes.name and labels.is_floating_point():
        raise ValueError(f"Classes are whole numbers, but these labels are {labels.dtype}: write labels.long().")
    labels = _shaped(labels, problem.shape_of_labels(logits.shape), logits.shape, problem.name)
    if scale is not None:
        labels = torch.where(labels == IGNORED_LABEL, labels, (labels - scale[0]) / scale[1])
    loss = problem.loss(logits, labels)
    items = (labels != IGNORED_LABEL).sum() if num_items_in_batch is None else num_items_in_batch
    return loss / torch.as_tensor(items).clamp(min=1)


def _elementwise(loss, logits: Tensor, labels: Tensor) -> Tensor:
    """The sum of an elementwise loss over all labels that are not -100."""
    labels = labels.float()
    ignored = labels == IGNORED_LABEL
    return loss(logits, labels.masked_fill(ignored, 0), reduction="none").masked_fill(ignored, 0).sum()


def _shaped(labels: Tensor, expected: torch.Size, logits: torch.Size, problem_type: str) -> Tensor:
    """Reshape `labels` to the `expected` shape, if they differ only by a last dimension of 1. Raises ValueError."""
    if labels.shape in (expected, (*expected, 1)) or (*labels.shape, 1) == tuple(expected):
        return labels.reshape(expected)
    raise ValueError(
        f"Labels for {problem_type} have shape {tuple(expected)} beside logits of {tuple(logits)}, but these have "
        f"{tuple(labels.shape)} ({labels.dtype}). The config's problem_type says which labels a model takes: whole "
        "numbers, one for each answer (single_label_classification), 0 or 1 for each label "
        "(multi_label_classification), or numbers (regression)."
    )


def _labels(config: PreTrainedConfig) -> str:
    """The number of labels in words, with their names if they have any of their own."""
    text = counted(config.num_labels, "label")
    names = [str(config.id2label[index]) for index in range(config.num_labels)]
    if names == [f"LABEL_{index}" for index in range(config.num_labels)]:
        return text
    more = f" and {thousands(len(names) - LABELS_SHOWN)} more" if len(names) > LABELS_SHOWN else ""
    return f"{text}: {', '.join(plain(name) for name in names[:LABELS_SHOWN])}{more}"
