"""Answers in the data's words: columns of labels, scores and numbers, out of logits."""

from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedConfig

from ..heads.problems import Classes, Numbers, SeveralLabels


def answers_of(logits: Tensor, config: PreTrainedConfig, lengths: Tensor | None = None) -> dict[str, list[Any]]:
    """Logits (batch, num_labels), or (batch, tokens, num_labels) with `lengths` (batch,) -> columns of answers.

    Classes are "label" and "score", its probability; several labels are "labels", those above one half, and "scores";
    numbers have a column each, in their own units. For tokens each answer is a list.
    """
    problem, names = config.problem_type or Classes.name, [config.id2label[i] for i in range(config.num_labels)]
    if problem == Numbers.name:
        names = [f"number_{i}" if name == f"LABEL_{i}" else name for i, name in enumerate(names)]
        return {name: logits[..., number].tolist() for number, name in enumerate(names)}
    if problem == SeveralLabels.name:
        scores = logits.float().sigmoid()  # (batch, num_labels)
        labels = [[name for name, score in zip(names, row, strict=True) if score > 0.5] for row in scores.tolist()]
        return {"labels": labels, "scores": [dict(zip(names, row, strict=True)) for row in scores.tolist()]}
    scores, classes = logits.float().softmax(dim=-1).max(dim=-1)  # (batch,) or (batch, tokens)
    if logits.ndim == 2:
        return {"label": [names[number] for number in classes.tolist()], "score": scores.tolist()}
    lengths = torch.full((len(logits),), logits.shape[1]) if lengths is None else lengths
    rows = list(zip(classes.tolist(), scores.tolist(), lengths.tolist(), strict=True))
    return {
        "label": [[names[number] for number in row[:length]] for row, _, length in rows],
        "score": [row[:length] for _, row, length in rows],
    }
