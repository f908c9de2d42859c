"""Heads: hidden states -> one vector per sequence, and logits -> loss."""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

IGNORED_LABEL = -100  # the label value that transformers' losses leave out


def pool(hidden: Tensor, mask: Tensor | None, pooling: str) -> Tensor:
    """Hidden states (batch, tokens, hidden) and mask (batch, tokens) or None -> (batch, hidden).

    "last" and "first" read the last and the first real token, wherever the padding is; "mean" averages real tokens.
    """
    if mask is None:
        return hidden.mean(dim=1) if pooling == "mean" else hidden[:, -1 if pooling == "last" else 0]
    if pooling == "mean":
        mask = mask.to(hidden.dtype)  # (batch, tokens)
        weights = mask / mask.sum(dim=1, keepdim=True).clamp(min=1)
        return torch.einsum("bth,bt->bh", hidden, weights)
    order = torch.arange(1, mask.shape[1] + 1, device=mask.device)  # 1 .. tokens
    index = (mask.to(torch.long) * (order if pooling == "last" else order.flip(0))).argmax(dim=1)  # (batch,)
    return hidden[torch.arange(hidden.shape[0], device=hidden.device), index]


class TokenClassifier(nn.Module):
    """Hidden states (batch, tokens, hidden) -> logits of one or several labels per token.

    (batch, tokens, num_labels) for one label per token, else (batch, tokens, labels_per_token, num_labels).
    """

    def __init__(self, hidden_size: int, num_labels: int, labels_per_token: int):
        super().__init__()
        self.out_proj = nn.Linear(hidden_size, labels_per_token * num_labels)  # PyTorch's default, as in the paper
        self.shape = (labels_per_token, num_labels) if labels_per_token > 1 else (num_labels,)

    def forward(self, hidden: Tensor) -> Tensor:
        """As the class says."""
        return self.out_proj(hidden).unflatten(-1, self.shape)


def problem_type_of(problem_type: str | None, num_labels: int, labels: Tensor) -> str:
    """The problem that `labels` pose: the `problem_type` that was given, else as every transformers model finds it.

    One number is regressed; whole numbers (or bools) are classes; floats, one for each label, are several labels at
    once.
    """
    if problem_type is not None:
        return problem_type
    if num_labels == 1:
        return "regression"
    return "multi_label_classification" if labels.is_floating_point() else "single_label_classification"


def classification_loss(
    logits: Tensor, labels: Tensor, problem_type: str | None, num_items_in_batch: Tensor | int | None = None
) -> Tensor:
    """Loss in fp32, averaged over what is labelled; over nothing it is 0. The label -100 is left out everywhere.

    `problem_type` is transformers': "single_label_classification" (`labels` (...), whole numbers or bools),
    "multi_label_classification" (`labels` shaped as the logits, in 0..1), "regression" (`labels` shaped as the
    logits); None: see `problem_type_of`. Where the logits' last dimension is 1, `labels` may lack it.
    `num_items_in_batch` is what Trainer counts over all accumulated batches and processes, the labels that are not
    -100: dividing by it makes any split of a batch give the same gradient. Raises ValueError for labels of another
    shape, and for classes that are floats.
    """
    logits, labels = logits.float(), labels.to(logits.device)
    problem_type = problem_type_of(problem_type, logits.shape[-1], labels)
    if problem_type == "single_label_classification":
        if labels.is_floating_point():
            raise ValueError(f"Classes are whole numbers, but these labels are {labels.dtype}: write labels.long().")
        labels = _shaped(labels, logits.shape[:-1], logits.shape, problem_type).long()
        flat = logits.reshape(-1, logits.shape[-1])  # (items, num_labels)
        loss = F.cross_entropy(flat, labels.reshape(-1), ignore_index=IGNORED_LABEL, reduction="sum")
    else:
        labels = _shaped(labels, logits.shape, logits.shape, problem_type).float()
        ignored = labels == IGNORED_LABEL
        each = F.mse_loss if problem_type == "regression" else F.binary_cross_entropy_with_logits
        loss = each(logits, labels.masked_fill(ignored, 0), reduction="none").masked_fill(ignored, 0).sum()
    items = (labels != IGNORED_LABEL).sum() if num_items_in_batch is None else num_items_in_batch
    return loss / torch.as_tensor(items).clamp(min=1)


def _shaped(labels: Tensor, expected: torch.Size, logits: torch.Size, problem_type: str) -> Tensor:
    """`labels` in the `expected` shape, where they differ by a last dimension of 1 alone."""
    if labels.shape in (expected, (*expected, 1)) or (*labels.shape, 1) == tuple(expected):
        return labels.reshape(expected)
    raise ValueError(
        f"Labels for {problem_type} have shape {tuple(expected)} beside logits of {tuple(logits)}, but these have "
        f"{tuple(labels.shape)} ({labels.dtype}). The config's problem_type says which labels a model takes: whole "
        "numbers, one for each answer (single_label_classification), 0 or 1 for each label "
        "(multi_label_classification), or numbers (regression)."
    )
