"""Examples of several lengths in one batch."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

PADDING = {"input_values": 0.0, "attention_mask": 0}  # what fills up a short example


def collate_padded(
    features: Sequence[Mapping[str, Any]], padding: Mapping[str, float] = PADDING
) -> dict[str, torch.Tensor]:
    """Stack examples; those named in `padding` are filled up with its value to the longest along their first axis.

    `attention_mask` (batch, longest), 1 for what is real, is added where lengths differ and the examples have none.
    """
    batch = {}
    for name in features[0]:
        values = [torch.as_tensor(example[name]) for example in features]
        if name in padding and len({len(value) for value in values}) > 1:
            lengths = torch.tensor([len(value) for value in values])
            batch[name] = torch.nn.utils.rnn.pad_sequence(values, True, padding[name])
            if "attention_mask" not in features[0]:
                batch["attention_mask"] = (torch.arange(int(lengths.max())) < lengths[:, None]).long()
        else:
            batch[name] = torch.stack(values)
    return batch


def without_padding(batch: Mapping[str, torch.Tensor]) -> list[dict[str, torch.Tensor]]:
    """The examples of a batch that is filled up on the right: each ends where its `attention_mask` does."""
    count = len(next(iter(batch.values())))
    mask = batch.get("attention_mask")
    if mask is None or any(tensor.shape[1] != mask.shape[1] for tensor in batch.values()):  # of one size
        return [{name: tensor[row] for name, tensor in batch.items()} for row in range(count)]
    lengths = mask.sum(dim=1).tolist()
    return [{name: tensor[row, :length] for name, tensor in batch.items()} for row, length in enumerate(lengths)]
