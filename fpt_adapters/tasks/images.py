"""Image classification: MNIST, CIFAR-10 and CIFAR-10-LRA of the paper (arXiv 2103.05247).

Pixels are scaled to 0..1 and normalised with the constants of the paper's code, which are not always the statistics of
the data: MNIST stays in 0..1, grey CIFAR-10 goes to -1..1, and CIFAR-10's standard deviations are averages over single
images. That code scores the test split while it trains; here, validation is held out from train.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import datasets
import numpy as np
import torch
from torch.utils.data import Dataset

from ..data.columns import find_column
from ..data.labels import label_fields
from ..data.splits import SPLITS, Part
from ..data.streams import ExampleStream
from ..inputs.image_processing_fpt import FPTImageProcessor
from ..modeling_fpt import FPTForImageClassification
from .augmentation import Augmentation
from .files import FileArguments, split_labels
from .image_rows import ImageReader
from .metrics import majority_floor
from .pixels import PixelFormat
from .streaming import open_stream
from .task import Task, TaskData

IMAGE_COLUMNS = ("image", "img", "pixels", "pixel_values")
CROP_FLIP_ROTATE = Augmentation(padding=4, flip=True, degrees=20)


class ImageSplit(Dataset):
    """One split: example i is `{"pixel_values": float32 (channels, height, width), "labels": int}`.

    `pixels`: uint8 (images, channels, height, width), which splits may share; `rows` and `labels`, both (examples,):
    an example's place in `pixels` and its class. A whole batch of indices is made at once. Each epoch has new
    augmentation: see `set_epoch`.
    """

    def __init__(
        self,
        pixels: torch.Tensor,
        rows: np.ndarray,
        labels: np.ndarray,
        task: "ImageTask",
        augmentation: Augmentation | None = None,
        seed: int = 0,
    ):
        self.pixels = pixels
        self.rows = torch.from_numpy(np.asarray(rows, dtype=np.int64))
        self.labels = np.asarray(labels, dtype=np.int64)
        self.augmentation = augmentation
        self.seed = seed
        self._epoch = torch.zeros((), dtype=torch.int64).share_memory_()  # persistent workers see it change
        self._scale, self._shift = map(torch.from_numpy, task.processor().scale_and_shift())

    def __len__(self) -> int:
        return len(self.labels)

    @property
    def epoch(self) -> int:
        """The number of the epoch, which decides the augmentation."""
        return int(self._epoch)

    def set_epoch(self, epoch: int) -> None:
        """Use the augmentation of another epoch (from 0), in all workers of this process.

        The stock Trainer's data loader calls this in most cases, but not with several processes, after a resume within
        an epoch, or through a `Subset`; FPTTrainer's `SetEpoch` calls it in these cases too.
        """
        self._epoch.fill_(epoch)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.__getitems__([index])[0]

    def __getitems__(self, indices: Sequence[int]) -> list[dict[str, Any]]:
        """Make the examples `indices`. Raises IndexError outside 0..len-1."""
        for index in indices:
            if not 0 <= index < len(self):
                raise IndexError(f"the split has examples 0..{len(self) - 1}, got {index}.")
        pixels = self.pixels[self.rows[indices]]  # (batch, channels, height, width)
        if self.augmentation is not None:
            pixels = self.augmentation(pixels, self.seed, self.epoch, indices)
        values = pixels.float().mul_(self._scale).add_(self._shift)
        return [
            {"pixel_values": value, "labels": label}
            for value, label in zip(values.unbind(), self.labels[indices].tolist(), strict=True)
        ]


@dataclass
class ImageTask(Task):
    """The base class of image tasks: square images of one size, each with one class, cut into patches by the model."""

    model_class = FPTForImageClassification
    image_size: ClassVar[int]  # pixels, width and height
    num_channels: ClassVar[int]
    mean: ClassVar[tuple[float, ...]]  # per channel, of pixels scaled to 0..1
    std: ClassVar[tuple[float, ...]]
    num_labels: ClassVar[int] = 10

    patch_size: int = field(default=4, metadata={"help": "Side of a square patch in pixels; one patch is one token."})

    @property
    def train_augmentation(self) -> Augmentation | None:
        """The augmentation of the training images (None: none); validation and test images never have any."""
        return None

    @abstractmethod
    def load(self, seed: int = 0, max_samples: dict[str, int] | None = None) -> TaskData:
        """Load the splits as `ImageSplit`; see `Task.load`."""

    def processor(self) -> FPTImageProcessor:
        """Make a processor that scales and normalises like the splits, and resizes images of other sizes."""
        return FPTImageProcessor(self.image_size, self.num_channels, image_mean=self.mean, image_std=self.std)

    def floor(self, split: Dataset) -> float:
        """The share of the largest class in `split`."""
        return majority_floor(split_labels(split))

    def task_data(
        self, images: dict[str, tuple[torch.Tensor, np.ndarray, np.ndarray]], names: Sequence[str], seed: int
    ) -> TaskData:
        """Make the splits from `images`, which has pixels, rows and labels of each (see `ImageSplit`)."""
        augmentations = {"train": self.train_augmentation}
        splits = {name: ImageSplit(*images[name], self, augmentations.get(name), seed) for name in SPLITS}
        return TaskData(**splits, config=self.model_fields(names))

    def model_fields(self, names: Sequence[str]) -> dict[str, Any]:
        """The config fields of a model for these images; `names`: of the classes."""
        return {
            "input_type": "images",
            "image_size": self.image_size,
            "num_channels": self.num_channels,
            "patch_size": self.patch_size,
            **label_fields(names),
        }


@dataclass
class FileImageTask(FileArguments, ImageTask):
    """An image task that reads files or the Hub."""

    to_grey: ClassVar[bool] = False

    image_column: str | None = field(
        default=None, metadata={"help": "Column with the images (default: image, img, or the only one of images)."}
    )

    def load(self, seed: int = 0, max_samples: dict[str, int] | None = None) -> TaskData:
        """Read and decode the images: see `FileArguments.read_parts` for the splits, `PixelFormat.read` for images.

        Only rows that `max_samples` keeps are decoded, and no row twice: splits from one file share its pixels. Raises
        ValueError for files, columns, labels and images that do not fit.
        """
        parts, names = self.read_parts(seed, max_samples, self.num_labels)
        column = find_column(parts["train"].source, self.image_column, IMAGE_COLUMNS, _is_image, "image_column")
        return self.task_data(self._read_images(parts, column), names, seed)

    def stream(
        self,
        seed: int = 0,
        max_samples: dict[str, int] | None = None,
        *,
        buffer_size: int | None = 10_000,
        label_names: Sequence[str] | None = None,
    ) -> TaskData:
        """Stream the training images, and read the others; see `Task.stream` and `open_stream`."""
        streamed = open_stream(self, seed, max_samples, self.num_labels, label_names)
        source, names = streamed.train, streamed.names
        column = find_column(source, self.image_column, IMAGE_COLUMNS, _is_image, "image_column")
        to_example = ImageReader(
            source.name,
            column,
            streamed.label_column,
            names,
            self.pixel_format,
            self.processor().scale_and_shift(),
            self.train_augmentation,
            seed,
        )
        rows = source.data.select_columns([column, streamed.label_column])
        train = ExampleStream(rows, to_example, buffer_size=buffer_size, seed=seed, held_out=streamed.held_out)
        images = self._read_images(streamed.parts, column)
        splits = {split: ImageSplit(*images[split], self) for split in images}
        return TaskData(train=train, **splits, config=self.model_fields(names.names))

    @property
    def pixel_format(self) -> PixelFormat:
        """The size and mode that every image must have."""
        return PixelFormat(self.image_size, self.image_size, self.num_channels, self.to_grey)

    def _read_images(
        self, parts: dict[str, Part], column: str
    ) -> dict[str, tuple[torch.Tensor, np.ndarray, np.ndarray]]:
        """Read pixels, rows and labels of each part; parts of one source share its pixels."""
        images = {}
        for source in {id(part.source): part.source for part in parts.values()}.values():
            find_column(source, column, (), _is_image, "image_column")
            mine = {split: part for split, part in parts.items() if part.source is source}
            rows = np.unique(np.concatenate([part.rows for part in mine.values()]))
            pixels = self.pixel_format.read(source, column, rows)
            for split, part in mine.items():
                images[split] = (pixels, np.searchsorted(rows, part.rows), part.labels)
        return images


def _is_image(feature: datasets.features.features.FeatureType) -> bool:
    return isinstance(feature, datasets.Image)


@dataclass
class Mnist(FileImageTask):
    """Handwritten digits: 28 x 28 grey pixels, 49 patches of 4 x 4, not augmented."""

    name = "mnist"
    data_source = "MNIST: handwritten digits"
    limits = ("It reads one centred white digit on black, 28 x 28 pixels, as MNIST prepares them, and nothing else.",)
    image_size = 28
    num_channels = 1
    mean, std = (0.0,), (1.0,)

    dataset_name: str | None = field(
        default="ylecun/mnist", metadata={"help": "Data set on the Hub; read only where no train_file is given."}
    )


@dataclass
class Cifar10(FileImageTask):
    """Photographs of ten kinds of things: 32 x 32 RGB pixels, 64 patches of 4 x 4, augmented."""

    name = "cifar10"
    data_source = "CIFAR-10: photographs of ten kinds of things"
    limits = ("It gives one of ten classes to any picture, and convolutional networks are far better at that.",)
    image_size = 32
    num_channels = 3
    mean, std = (0.4914, 0.4822, 0.4465), (0.2023, 0.1994, 0.2010)

    dataset_name: str | None = field(
        default="uoft-cs/cifar10", metadata={"help": "Data set on the Hub; read only where no train_file is given."}
    )
    augment: bool = field(
        default=True, metadata={"help": "Crop, flip and rotate the training images anew in every epoch."}
    )

    @property
    def train_augmentation(self) -> Augmentation | None:
        return CROP_FLIP_ROTATE if self.augment else None


@dataclass
class Cifar10Lra(Cifar10):
    """CIFAR-10 pixel by pixel, as in the Long Range Arena: grey, 1024 patches of 1 x 1, augmented.

    RGB becomes grey with the ITU-R 601-2 weights (Pillow's mode L).
    """

    name = "cifar10-lra"
    data_source = "CIFAR-10 in grey, pixel by pixel"
    num_channels = 1
    to_grey = True
    mean, std = (0.5,), (0.5,)

    patch_size: int = field(default=1, metadata={"help": "Side of a square patch in pixels; one patch is one token."})
