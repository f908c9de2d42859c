"""Pictures of one's own: a class, several labels or numbers for each, of any size, grey or in colour."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import datasets
import numpy as np
from PIL import Image

from ..data.columns import find_column
from ..data.native import native_example
from ..data.opening import PICTURES
from ..data.prepared import PreparedRows
from ..data.sources import Source
from ..data.splits import Part, check_at_least
from ..inputs.image_files import open_image
from ..inputs.image_processing_fpt import FPTImageProcessor
from ..modeling_fpt import FPTForImageClassification
from .native_rows import PatchesOrNative

COLUMNS = ("image", "img", "file", "path")
FITTED = 1000  # images, at most, that size, channels and normalisation are found in


@dataclass
class ImageClassification(PatchesOrNative):
    """Pictures in class folders, in a zip of them, in parquet or csv (images, or paths beside it), or on the Hub."""

    name = "image-classification"
    model_class = FPTForImageClassification
    file_column, file_endings = "image", PICTURES
    modality, of_patches = "image", ("num_channels", "patch_size")

    image_column: str | None = field(
        default=None, metadata={"help": f"Column with the images, or paths (default: {', '.join(COLUMNS)})."}
    )
    image_size: int | None = field(
        default=None, metadata={"help": "Pixels of a side that images are resized to (default: as they are)."}
    )
    num_channels: int | None = field(
        default=None, metadata={"help": "1: grey, 3: colour (default: grey where all images are)."}
    )
    patch_size: int | None = field(
        default=None, metadata={"help": "Side of a square patch in pixels (default: for 256 tokens or fewer)."}
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("image_size", "patch_size"):
            if getattr(self, name) is not None:
                check_at_least(name, getattr(self, name), 1)
        if self.num_channels not in (None, 1, 3):
            raise ValueError(f"num_channels is 1 (grey) or 3 (colour), got {self.num_channels}.")

    def fit(self, part: Part) -> tuple[Any, dict[str, Any], list[str]]:
        self.column = find_column(part.source, self.image_column, COLUMNS, _is_image, "image_column")
        read = self._reader(part.source)
        images = []
        rows = part.rows[:1] if self.input_type else part.rows[:: -(-len(part.rows) // FITTED)]
        for row in rows.tolist():
            try:
                images.append(read(row))
            except ValueError as error:
                raise ValueError(f"{part.source.where(row)}: {error}") from error
        if self.input_type:
            return self._fit_natively(images[0])
        processor = FPTImageProcessor.fit(images, self.image_size, self.num_channels, self.patch_size)
        size, patch = " x ".join(map(str, processor.size.values())), processor.patch_size
        colour = "in colour" if processor.num_channels == 3 else "in grey"
        found = [f"column {self.column!r}: images of {size} pixels {colour}, in patches of {patch} x {patch}"]
        return processor, processor.config_fields, found

    def _fit_natively(self, image: Image.Image) -> tuple[Any, dict[str, Any], list[str]]:
        processor = self.load_native()
        _, height, width = native_example(self.native, self.base_config, processor, image)["pixel_values"].shape
        if self.image_size is not None and {height, width} != {self.image_size}:
            raise ValueError(
                f"the base's own processor makes images of {height} x {width} pixels, got --image_size "
                f"{self.image_size}: leave it out, or --input_type native."
            )
        found = (
            f"column {self.column!r}: images of {height} x {width} pixels, as {type(processor).__name__} makes them"
        )
        return processor, {"input_type": "native"}, [found]

    def inputs(self, part: Part) -> Sequence[dict[str, Any]]:
        read, processor = self._reader(part.source), self.processor()

        def make(row: int) -> dict[str, np.ndarray]:
            if self.input_type:
                return native_example(self.native, self.base_config, processor, read(row))
            return {"pixel_values": processor.preprocess(read(row))["pixel_values"][0]}

        return PreparedRows(part, make, "images")

    def _reader(self, source: Source) -> Callable[[int], Image.Image]:
        """A function that decodes the image of a row."""
        column = find_column(source, self.column, (), _is_image, "image_column")
        data = source.data.select_columns([column])
        if _is_image(data.features[column]):
            data = data.cast_column(column, datasets.Image(decode=False))

        return lambda row: open_image(data[row][column], f"column {column!r}", source.folder)


def _is_image(feature: Any) -> bool:
    return isinstance(feature, datasets.Image)
