"""Images of one's own: opened from wherever they are, and the processor and the model's fields that fit them."""

import io
import os
import warnings
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageOps

from .image_processing_fpt import FPTImageProcessor

MOST_TOKENS = 256  # patches of an image by default
SMALLEST_PATCH = 4
LARGEST_SIDE = 224  # pixels, by default


def fit_images(
    images: Sequence[Image.Image],
    image_size: int | None = None,
    num_channels: int | None = None,
    patch_size: int | None = None,
) -> tuple[FPTImageProcessor, dict[str, Any]]:
    """Find what is not given in `images`; returns the processor, and the fields of `FPTConfig`.

    Images of one size keep it, others become squares of their median shorter side, 224 at most; both are brought to a
    multiple of the patch. Patches are at least 4 pixels wide, and as large as makes 256 tokens or fewer. One channel
    where all images are grey. Pixels are normalised by the mean and deviation of each channel.
    """
    if num_channels is None:
        num_channels = 1 if all(image.mode in ("1", "L", "LA") for image in images) else 3
    if image_size is None:
        sizes = Counter((image.height, image.width) for image in images)
        sides = list(next(iter(sizes)))
        if len(sizes) > 1 or max(sides) > LARGEST_SIDE:
            sides = [min(int(np.median([min(image.size) for image in images])), LARGEST_SIDE)] * 2
    else:
        sides = [image_size, image_size]
    if patch_size is None:
        patch_size = SMALLEST_PATCH
        while -(-sides[0] // patch_size) * -(-sides[1] // patch_size) > MOST_TOKENS:
            patch_size += 1
    sides = [max(1, round(side / patch_size)) * patch_size for side in sides]
    plain = FPTImageProcessor(sides, num_channels)
    pixels = np.stack([plain.preprocess(image)["pixel_values"][0] for image in images])  # (images, channels, h, w)
    mean, std = pixels.mean(axis=(0, 2, 3)), np.maximum(pixels.std(axis=(0, 2, 3)), 1e-3)
    processor = FPTImageProcessor(sides, num_channels, image_mean=mean.tolist(), image_std=std.tolist())
    size = sides[0] if sides[0] == sides[1] else sides
    fields = {"image_size": size, "num_channels": num_channels, "patch_size": patch_size}
    return processor, {"input_type": "images"} | fields


def open_image(value: Any, what: str, folder: str | os.PathLike = ".") -> Any:
    """Open an image, which messages call `what`: bytes, a path (in `folder`), or a dict with "bytes" or "path".

    An image that is open, or an array, is returned as it is. Raises ValueError for what cannot be decoded.
    """
    if isinstance(value, Mapping):
        value = value.get("bytes") if value.get("bytes") is not None else value.get("path")
    if value is None:
        raise ValueError(f"{what} has no image, nor the path of one: drop the row.")
    if not isinstance(value, (bytes, str, os.PathLike)):
        return value
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(io.BytesIO(value) if isinstance(value, bytes) else Path(folder) / value)
            image.load()
            return ImageOps.exif_transpose(image)  # as the processor does
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"the image in {what} cannot be decoded ({error}): drop its row.") from error
