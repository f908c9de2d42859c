"""Sizes that fit images of one's own: of an image, of its patches, and how many channels.

As `image_arrays.py`, this file goes along where `image_processing_fpt.py` is copied to.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image

from .image_arrays import channels_last

MOST_TOKENS = 256  # patches of an image by default
SMALLEST_PATCH = 4
LARGEST_SIDE = 224  # pixels, by default


def found_sizes(
    images: Sequence[Any], image_size: int | None, num_channels: int | None, patch_size: int | None
) -> dict[str, Any]:
    """What is not given, found in `images`: the `size`, `num_channels` and `patch_size` of `FPTImageProcessor.fit`."""
    shapes = [_shape(image) for image in images]
    if num_channels is None:
        num_channels = 1 if all(channels == 1 for *_, channels in shapes) else 3
    if image_size is None:
        sizes = Counter((height, width) for height, width, _ in shapes)
        sides = list(next(iter(sizes)))
        if len(sizes) > 1 or max(sides) > LARGEST_SIDE:
            sides = [min(int(np.median([min(height, width) for height, width, _ in shapes])), LARGEST_SIDE)] * 2
    else:
        sides = [image_size, image_size]
    if patch_size is None:
        patch_size = SMALLEST_PATCH
        while -(-sides[0] // patch_size) * -(-sides[1] // patch_size) > MOST_TOKENS:
            patch_size += 1
    sides = [max(1, round(side / patch_size)) * patch_size for side in sides]
    return {"size": sides, "num_channels": num_channels, "patch_size": patch_size}


def _shape(image: Any) -> tuple[int, int, int]:
    """Height, width and channels of an image, a picture of Pillow's or an array."""
    if isinstance(image, Image.Image):
        return image.height, image.width, 1 if image.mode in ("1", "L", "LA") else 3
    array = image.numpy(force=True) if isinstance(image, torch.Tensor) else np.asarray(image)
    return channels_last(array, None).shape
