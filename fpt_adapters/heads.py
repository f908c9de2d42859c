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


def classification_loss(
    logits: Tensor, labels: Tensor, problem_type: str | None, num_items_in_batch: Tensor | int | None = None
) -> Tensor:
    """Loss in fp32, averaged over the labelled items; 0, with gradients of 0, where nothing is labelled.

    `problem_type` is transformers': None or "single_label_classification" (labels (...), -100 left out),
    "multi_label_classification" (labels (..., num_labels) in 0..1) or "regression" (labels shaped as the logits, or
    without their last dimension of 1). `num_items_in_batch` is what Trainer counts over all accumulated batches and
    processes: dividing by it makes any split of a batch give the same gradient.
    """
    logits = logits.float()
    reduction = "mean" if num_items_in_batch is None else "sum"
    if problem_type == "regression":
        loss = F.mse_loss(logits.squeeze(-1), labels.float().reshape(logits.squeeze(-1).shape), reduction=reduction)
    elif problem_type == "multi_label_classification":
        loss = F.binary_cross_entropy_with_logits(logits, labels.float(), reduction=reduction)
    else:
        flat, labels = logits.reshape(-1, logits.shape[-1]), labels.reshape(-1)  # (items, num_labels), (items,)
        loss = F.cross_entropy(flat, labels, ignore_index=IGNORED_LABEL, reduction="sum")
        if num_items_in_batch is None:
            num_items_in_batch = (labels != IGNORED_LABEL).sum()
    return loss if num_items_in_batch is None else loss / torch.as_tensor(num_items_in_batch).clamp(min=1)
