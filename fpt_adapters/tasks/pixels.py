"""Reading and checking a column of images: uint8 pixels (channels, height, width), cached for later runs."""

import io
import json
import warnings
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np
import torch
from PIL import Image, ImageOps

from ..data.sources import Source
from ..inputs.image_arrays import MODES, WIDE_MODES, is_scaled, too_many_bits


class _BadImage(Exception):
    """Carries the index of an unusable image and the reason out of `datasets.map`."""

    def __init__(self, index: int, problem: str):
        super().__init__(problem)
        self.index = index


@dataclass(frozen=True)
class PixelFormat:
    """The size and mode of a task's images. `to_grey`: convert RGB to grey, for `channels` = 1."""

    height: int
    width: int
    channels: int
    to_grey: bool

    def read(self, source: Source, column: str, rows: np.ndarray) -> torch.Tensor:
        """Read the images in `rows`: uint8 (rows, channels, height, width).

        An image is an encoded file (the `datasets` feature `Image`, or a struct of `bytes` and `path`), turned upright
        by its EXIF orientation, or a nested list of pixel values 0..255, [height][width] or
        [height][width][channels]; in csv, such a list is JSON. `datasets` caches the pixels. Raises ValueError, naming
        the row, for an image that is missing, broken, or of another size or mode, and for pixel values that are not
        whole numbers in 0..255.
        """
        data = source.data.select_columns([column])
        if isinstance(data.features[column], datasets.Image):
            data = data.cast_column(column, datasets.Image(decode=False))
        if len(rows) < len(data):
            data = data.select(rows)
        size = self.channels * self.height * self.width
        try:
            pixels = data.map(
                _read_upright_batch,
                with_indices=True,
                batched=True,
                fn_kwargs={"column": column, "pixel_format": self},
                remove_columns=[column],
                features=datasets.Features({"pixels": datasets.List(datasets.Value("uint8"), length=size)}),
                desc=f"Reading the images of {source.name}",
            )
        except _BadImage as error:
            raise ValueError(f"{error} This is column {column!r}, {source.where(rows[error.index])}.") from error
        chunks = pixels.with_format("arrow")[:].column("pixels").chunks
        flat = np.concatenate([chunk.flatten().to_numpy() for chunk in chunks])
        return torch.from_numpy(flat).view(-1, self.channels, self.height, self.width)

    def read_one(self, value: Any) -> np.ndarray:
        """Read one image: uint8 (channels, height, width). Raises ValueError that says what is wrong with it."""
        if value is None:
            raise ValueError("an image is missing: drop its row.")
        if isinstance(value, bytes):
            image = _open(value, None)
        elif isinstance(value, dict):
            image = _open(value.get("bytes"), value.get("path"))
        else:
            image = _from_numbers(value)
        return np.asarray(self._fitting(image)).reshape(self.height, self.width, self.channels).transpose(2, 0, 1)

    def _fitting(self, image: Image.Image) -> Image.Image:
        if image.size != (self.width, self.height):
            raise ValueError(
                f"images here are {self.width} x {self.height} pixels (width x height), but one has "
                f"{image.width} x {image.height}: resize it."
            )
        if image.mode in WIDE_MODES:
            raise ValueError(too_many_bits(image))
        mode = MODES[self.channels]
        allowed = (mode, "RGB") if self.to_grey else (mode,)
        if image.mode not in allowed:
            raise ValueError(
                f"images here have mode {' or '.join(allowed)} ({self.channels} channels for the model), but one has "
                f"mode {image.mode}: convert it with Pillow's image.convert({mode!r})."
            )
        return image.convert(mode)


def _read_upright_batch(  # `datasets` finds cached pixels by this name: rename it if the pixels change
    batch: dict[str, list], indices: list[int], *, column: str, pixel_format: PixelFormat
) -> dict[str, np.ndarray]:
    images = []
    for index, value in zip(indices, batch[column], strict=True):
        try:
            images.append(pixel_format.read_one(value).reshape(-1))
        except ValueError as error:
            raise _BadImage(index, str(error)) from error
    return {"pixels": np.stack(images)}


def _open(content: bytes | None, path: str | None) -> Image.Image:
    if content is None and path is None:
        raise ValueError("an image is missing, it has neither bytes nor path: drop its row.")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = Image.open(path if content is None else io.BytesIO(content))
            image.load()
            image = ImageOps.exif_transpose(image)  # like the processor
    except (OSError, SyntaxError, ValueError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise ValueError(f"an image cannot be decoded ({error}): replace it or drop its row.") from error
    return image


def _from_numbers(value: Any) -> Image.Image:
    """Make a grey or RGB image from nested lists, or from the JSON text of such lists."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except json.JSONDecodeError:
            raise ValueError(
                f"text that holds an image is JSON, such as [[0, 255], [255, 0]], but one is {value[:40]!r}: of paths "
                "make parquet, with datasets.Dataset.from_csv(file).cast_column(column, datasets.Image()).to_parquet."
            ) from None
    try:
        scaled = is_scaled(np.asarray(value))
        numbers = np.asarray(value, dtype=np.float64)
    except (TypeError, ValueError):
        raise ValueError("an image's rows need one length and numbers only, but one has others.") from None
    if numbers.ndim not in (2, 3) or numbers.shape[2:] not in ((), (1,), (3,)):
        raise ValueError(
            "lists of pixels are [height][width] or [height][width][1 or 3 channels], but one has the shape "
            f"{list(numbers.shape)}."
        )
    if scaled:
        raise ValueError(
            "pixel values are whole numbers in 0..255, but an image of floats ends at 1 or below, and would be read "
            "as black: write (image * 255).round().astype('uint8') (only astype, if its values are 0..255)."
        )
    wrong = ~((numbers >= 0) & (numbers <= 255) & (numbers == np.floor(numbers)))
    if wrong.any():
        raise ValueError(
            f"pixel values are whole numbers in 0..255, but one is {numbers[wrong][0]:g}: "
            "scale the images to 0..255 by the range of their values, and round them, before they are written."
        )
    numbers = numbers[..., 0] if numbers.shape[2:] == (1,) else numbers
    return Image.fromarray(numbers.astype(np.uint8))
