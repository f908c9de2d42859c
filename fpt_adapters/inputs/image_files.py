"""Images of one's own, opened from wherever they are."""

import io
import os
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from .image_arrays import WIDE_MODES, channels_last, eight_bits, too_many_bits


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
            with Image.open(io.BytesIO(value) if isinstance(value, bytes) else Path(folder) / value) as image:
                image.load()
                return ImageOps.exif_transpose(image)  # as the processor does
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"the image in {what} cannot be decoded ({error}): drop its row.") from error


def in_colour(image: Any) -> Image.Image:
    """An image that is open, or an array of whole numbers 0..255, in RGB, as transformers' pipelines open files.

    Raises ValueError for other arrays, and for more than 8 bits a pixel.
    """
    if not isinstance(image, Image.Image):
        array = image.numpy(force=True) if isinstance(image, torch.Tensor) else np.asarray(image)
        image = Image.fromarray(eight_bits(channels_last(array, None)))
    if image.mode in WIDE_MODES:
        raise ValueError(too_many_bits(image))
    return (image.convert("RGBA") if "transparency" in image.info else image).convert("RGB")
