"""Turning the rows of a stream into image examples, as `ImageSplit` does for images that are held."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from ..data.labels import LabelNames
from ..data.streams import Place
from .augmentation import Augmentation
from .pixels import PixelFormat


@dataclass(frozen=True)
class ImageReader:
    """Makes an example from a row: `{"pixel_values": float32 (channels, height, width), "labels": int}`.

    `source`: the stream's name in messages. `scale_and_shift`, each (channels, 1, 1), are applied to pixels 0..255.
    """

    source: str
    column: str
    label_column: str
    names: LabelNames
    pixel_format: PixelFormat
    scale_and_shift: tuple[np.ndarray, np.ndarray]
    augmentation: Augmentation | None
    seed: int

    def __call__(self, row: dict[str, Any], place: Place) -> dict[str, Any]:
        """Read and augment the image, by its place. Raises ValueError, naming the row, for a wrong image or label."""
        where = place.describe(self.source)
        try:
            image = self.pixel_format.read_one(row[self.column])
        except ValueError as error:
            raise ValueError(f"{error} This is column {self.column!r}, {where}.") from error
        pixels = torch.tensor(image)[None]  # (1, channels, height, width)
        if self.augmentation is not None:
            pixels = self.augmentation(pixels, self.seed, place.epoch, [place.number])
        scale, shift = map(torch.from_numpy, self.scale_and_shift)
        values = pixels[0].float().mul_(scale).add_(shift)
        return {"pixel_values": values, "labels": self.names.number(row[self.label_column], where)}
