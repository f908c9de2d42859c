"""Random crop, flip and rotation of image batches, as the paper's code augments CIFAR-10.

What happens to an example depends only on (seed, epoch, example), not on its batch, process or worker, or on earlier
draws, so a resumed run augments exactly like an uninterrupted one.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from .draws import random_words


@dataclass(frozen=True)
class Augmentation:
    """Pad with black and crop, then flip left to right, then rotate about the centre, in this order.

    One look-up of the nearest pixels does all three. The result is that of torchvision's `RandomCrop(padding)`,
    `RandomHorizontalFlip` and `RandomRotation(degrees)` in turn: pixels that a step moves out of the image are lost,
    and black comes in.
    """

    padding: int  # pixels on each side; the crop starts anywhere in 0..2 x padding
    flip: bool  # whether half of the examples are mirrored
    degrees: float  # the angle lies in -degrees..degrees

    def draw(self, seed: int, epoch: int, examples: Sequence[int]) -> tuple[Tensor, Tensor, Tensor]:
        """Draw crops, int64 (batch, 2), down and right in -padding..padding; flips, bool (batch,); angles (batch,)."""
        addresses = [(epoch << 32) + example for example in examples]
        words = random_words(seed, "train", addresses, 4)
        choices = np.uint64(2 * self.padding + 1)
        crops = torch.from_numpy((words[:, :2] % choices).astype(np.int64)) - self.padding
        flips = torch.from_numpy((words[:, 2] >> np.uint64(63) == 1) & self.flip)
        shares = torch.from_numpy((words[:, 3] >> np.uint64(11)) * 2.0**-53)  # float64 in 0..1, 1 excluded
        return crops, flips, self.degrees * (2 * shares - 1)

    def __call__(self, pixels: Tensor, seed: int, epoch: int, examples: Sequence[int]) -> Tensor:
        """Augment `pixels` (batch, channels, height, width) of the given `examples` -> the same shape and type."""
        return crop_flip_rotate(pixels, *self.draw(seed, epoch, examples))


def crop_flip_rotate(pixels: Tensor, crops: Tensor, flips: Tensor, angles: Tensor) -> Tensor:
    """Crop, flip and rotate each image, taking the nearest pixel, or black (0) outside -> the same shape and type.

    `pixels`: (batch, channels, height, width) of any type; `crops`: int64 (batch, 2), how far down and right the crop
    starts; `flips`: bool (batch,); `angles`: (batch,) in degrees, counter-clockwise.
    """
    batch, channels, height, width = pixels.shape
    radians = angles.double() * (math.pi / 180)
    cosine, sine = radians.cos()[:, None, None], radians.sin()[:, None, None]
    down = torch.arange(height, dtype=torch.float64)[:, None] - (height - 1) / 2  # (height, 1)
    right = torch.arange(width, dtype=torch.float64)[None, :] - (width - 1) / 2  # (1, width)

    # For each pixel that is written, find the one that is read: (batch, height, width) each.
    rows = (cosine * down + sine * right + (height - 1) / 2).round().long()
    columns = (cosine * right - sine * down + (width - 1) / 2).round().long()
    inside = _inside(rows, height) & _inside(columns, width)
    columns = torch.where(flips[:, None, None], width - 1 - columns, columns)
    rows = rows + crops[:, 0, None, None]
    columns = columns + crops[:, 1, None, None]
    inside &= _inside(rows, height) & _inside(columns, width)

    places = (rows * width + columns).where(inside, 0).view(batch, 1, -1).expand(-1, channels, -1)
    read = pixels.reshape(batch, channels, -1).gather(2, places).view_as(pixels)
    return read * inside[:, None]


def _inside(positions: Tensor, size: int) -> Tensor:
    return (positions >= 0) & (positions < size)
