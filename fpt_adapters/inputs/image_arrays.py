"""Arrays of pixels: where their channels are, and whether they are whole numbers 0..255.

This file imports no other of this library: it goes along where `image_processing_fpt.py` is copied to.
"""

import numpy as np
from PIL import Image

MODES = {1: "L", 3: "RGB"}  # number of channels -> Pillow's mode
ARRAY_CHANNELS = (1, 3, 4)  # sizes of an array's channel axis: grey, RGB, RGB with transparency
SIXTEEN_BITS = ("I;16", "I;16B", "I;16L", "I;16N")
WIDE_MODES = ("F", "I", *SIXTEEN_BITS)  # more than 8 bits a pixel


def channels_last(array: np.ndarray, layout: str | None) -> np.ndarray:
    """Transpose an array of any layout to (height, width, channels)."""
    if layout not in (None, "channels_first", "channels_last"):
        raise ValueError(f"input_data_format is 'channels_first' or 'channels_last', got {layout!r}.")
    if array.ndim == 2:
        return array[..., None]  # (height, width, 1)
    first, last = (array.ndim == 3 and array.shape[axis] in ARRAY_CHANNELS for axis in (0, -1))
    if layout is None and first and last:
        raise ValueError(
            f"an image of shape {array.shape} may have its channels first or last: write "
            "input_data_format='channels_first' or 'channels_last'."
        )
    if layout is None:
        layout = "channels_first" if first else "channels_last"
    if not (first if layout == "channels_first" else last):
        raise ValueError(
            "an image's array is (height, width), (channels, height, width) or (height, width, channels) with 1, 3 or "
            f"4 channels; got {array.shape}, read as {layout}."
        )
    return array.transpose(1, 2, 0) if layout == "channels_first" else array


def too_many_bits(image: Image.Image) -> str:
    """The message for an image in one of `WIDE_MODES`: how to make it 8 bits, because Pillow's `convert` saturates."""
    return (
        f"images have 8 bits a pixel, but one has mode {image.mode}: convert it by the range of your values, as in "
        "Image.fromarray((np.asarray(image) / 65535 * 255).round().astype('uint8')), with your largest value in place "
        "of 65535."
    )


def is_scaled(array: np.ndarray) -> bool:
    """Whether an array holds floats in 0..1 that are not all 0 (0 is black in 0..255 too)."""
    return np.issubdtype(array.dtype, np.floating) and array.size > 0 and array.min() >= 0 and 0 < array.max() <= 1


def eight_bits(array: np.ndarray) -> np.ndarray:
    """Convert whole numbers 0..255 to uint8 (height, width[, channels]). Raises ValueError for other numbers."""
    if not (np.issubdtype(array.dtype, np.integer) or np.issubdtype(array.dtype, np.floating)):
        raise ValueError(f"an image's array holds whole numbers in 0..255, got {array.dtype}: convert it.")
    if is_scaled(array):
        raise ValueError(
            "pixel values are whole numbers in 0..255, but an image of floats ends at 1 or below, and would be read "
            "as black: write (image * 255).round().astype('uint8'), or do_rescale=False for one scaled already "
            "(image.astype('uint8'), if its values are 0..255 and it is nearly black)."
        )
    wrong = ~((array >= 0) & (array <= 255) & (array == np.floor(array)))
    if wrong.any():
        raise ValueError(
            f"pixel values are whole numbers in 0..255, but one is {array[wrong][0]:g}: scale the image to 0..255 by "
            "the range of your values, and round it, or write do_rescale=False for one that is scaled already."
        )
    return array.astype(np.uint8)[..., 0] if array.shape[2] == 1 else array.astype(np.uint8)
