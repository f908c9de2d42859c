"""`FPTImageProcessor`: raw images -> the `pixel_values` that a model was trained on.

This file and those that it imports need no other of this library: they can be copied into a Hub repository and loaded
from there.
"""

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any, TypedDict

import numpy as np
import torch
from PIL import Image, ImageOps
from transformers import BaseImageProcessor, BatchFeature

from .image_arrays import MODES, SIXTEEN_BITS, WIDE_MODES, channels_last, eight_bits, too_many_bits

MOST_PIXELS = 2**13  # of a side: a stranger may have written the file, and each image takes that memory
MORE_KEYS = {"auto_map", "image_processor_type", "processor_class"}  # that transformers adds to the file
MORE_KEYS |= {"patch_size"}  # which is there if it is known
NO_FIELDS = "preprocessor_config.json of {} holds no fields by name, or is nested too deeply: fetch or save it again."


class ImageFields(TypedDict, total=False):
    """The fields of an `FPTImageProcessor`, as preprocessor_config.json holds them."""

    size: dict[str, int]
    num_channels: int
    do_resize: bool
    resample: int
    do_rescale: bool
    rescale_factor: float
    do_normalize: bool
    image_mean: list[float]
    image_std: list[float]


class FPTImageProcessor(BaseImageProcessor):
    """Images -> `pixel_values`: converted to grey or RGB, resized, scaled and normalised.

    `size`: pixels of one side, (height, width), or {"height": ..., "width": ...}; images of other sizes are resized to
    it, without keeping their proportions, or refused (`do_resize=False`). Photographs are turned upright by their EXIF
    orientation, as in transformers' pipelines. `num_channels`: 1 (grey: Pillow's mode L, ITU-R 601-2) or 3 (RGB);
    transparency is dropped. `resample`: Pillow's number of the filter (2: bilinear). Pixels 0..255 are multiplied by
    `rescale_factor`, then normalised with `image_mean` and `image_std`, one number or one for each channel.
    `patch_size` describes how the model cuts patches, where it is known; it changes nothing here.

    Raises ValueError for values out of range, TypeError for a name that is no field.
    """

    model_input_names = ["pixel_values"]
    valid_kwargs = ImageFields  # what `from_pretrained` may change
    patch_size: int | None = None

    def __init__(
        self,
        size: int | Sequence[int] | dict[str, int],
        num_channels: int,
        do_resize: bool = True,
        resample: int = Image.Resampling.BILINEAR,
        do_rescale: bool = True,
        rescale_factor: float = 1 / 255,
        do_normalize: bool = True,
        image_mean: float | Sequence[float] = 0.0,
        image_std: float | Sequence[float] = 1.0,
        **kwargs,
    ):
        for name in kwargs:
            if name not in MORE_KEYS and (not name.startswith("_") or name.startswith("__")):
                fields = ", ".join(ImageFields.__annotations__)
                raise TypeError(f"FPTImageProcessor has no field {name!r:.200}; its fields are {fields}.")
        kwargs.pop("image_processor_type", None)
        super().__init__(**kwargs)
        if num_channels not in list(MODES):
            raise ValueError(f"num_channels is 1 (grey) or 3 (RGB), got {num_channels!r:.200}.")
        if resample not in list(Image.Resampling):
            choices = ", ".join(f"{filter.value} ({filter.name.lower()})" for filter in Image.Resampling)
            raise ValueError(f"resample is one of Pillow's filters {choices}; got {resample!r:.200}.")
        self.size = _height_width(size)
        self.num_channels = int(num_channels)
        self.do_resize = do_resize
        self.resample = int(resample)
        self.do_rescale = do_rescale
        self.rescale_factor = _above_zero("rescale_factor", _per_channel("rescale_factor", rescale_factor, 1))[0]
        self.do_normalize = do_normalize
        self.image_mean = _per_channel("image_mean", image_mean, num_channels)
        self.image_std = _above_zero("image_std", _per_channel("image_std", image_std, num_channels))
        with np.errstate(all="ignore"):
            scale, shift = self.scale_and_shift()
            brightest = 255 * scale + shift
        if not np.isfinite([scale, shift, brightest]).all():
            raise ValueError(
                f"rescale_factor, image_mean and image_std give numbers beyond float32: got {self.rescale_factor}, "
                f"{self.image_mean} and {self.image_std}."
            )

    @classmethod
    def fit(
        cls,
        images: Sequence[Any],
        image_size: int | None = None,
        num_channels: int | None = None,
        patch_size: int | None = None,
        **fields,
    ) -> "FPTImageProcessor":
        """Make the processor whose size, channels, mean and std are those of these images, each as a call takes it.

        Images of one size keep it, others become squares of their median shorter side, 224 at most; both are brought
        to a multiple of the patch. Patches are at least 4 pixels wide, and as large as makes 256 tokens or fewer. One
        channel where all images are grey. `fields`: those of the constructor that are to be others.
        """
        from .image_fitting import found_sizes

        sizes = found_sizes(images, image_size, num_channels, patch_size)
        plain = cls(**sizes)
        pixels = (plain.preprocess(image)["pixel_values"][0].astype(float) for image in images)
        moments = np.mean([[(values**power).mean(axis=(1, 2)) for power in (1, 2)] for values in pixels], axis=0)
        mean, std = moments[0], np.sqrt(np.maximum(moments[1] - moments[0] ** 2, 1e-6))  # (channels,)
        return cls(**{**sizes, "image_mean": mean.tolist(), "image_std": std.tolist(), **fields})

    @property
    def config_fields(self) -> dict[str, Any]:
        """The fields of `FPTConfig` for a model of these inputs. Raises ValueError where `patch_size` is not known."""
        if self.patch_size is None:
            raise ValueError("this processor knows of no patches: write patch_size, or make it with fit.")
        height, width = self.size.values()
        size = height if height == width else [height, width]
        return {
            "input_type": "images",
            "image_size": size,
            "num_channels": self.num_channels,
            "patch_size": self.patch_size,
        }

    @classmethod
    def get_image_processor_dict(cls, pretrained_model_name_or_path: Any, **kwargs) -> tuple[dict, dict]:
        """Read the file as every processor does. Raises ValueError for one without named fields, or too deep."""
        try:
            fields, unused = super().get_image_processor_dict(pretrained_model_name_or_path, **kwargs)
        except (AttributeError, RecursionError, TypeError) as error:  # raised by transformers for what it read
            raise ValueError(NO_FIELDS.format(pretrained_model_name_or_path)) from error
        if not isinstance(fields, dict):
            raise ValueError(NO_FIELDS.format(pretrained_model_name_or_path))
        return fields, unused

    def preprocess(
        self,
        images: Any,
        return_tensors: str | None = None,
        input_data_format: str | None = None,
        **fields,
    ) -> BatchFeature:
        """One image or a list of images -> `pixel_values`, float32 (batch, channels, height, width).

        An image is a PIL image of any mode, or a numpy array or torch tensor of whole numbers 0..255: (height, width),
        (channels, height, width) or (height, width, channels), with one more axis for a batch. `input_data_format`
        ("channels_first" or "channels_last") is needed if a shape could be either. With `do_rescale=False`, an array
        may also hold floats of any range, of the model's own size and channels.

        `return_tensors`: "pt", or "np" or None for numpy. `fields` replace this processor's own for one call.
        Raises ValueError for anything that is no such image.
        """
        if fields:
            own = {name: getattr(self, name) for name in ImageFields.__annotations__}
            return type(self)(**(own | fields)).preprocess(images, return_tensors, input_data_format)
        pixels = np.stack([self._read(image, input_data_format) for image in _as_list(images)])
        scale, shift = self.scale_and_shift()
        return BatchFeature({"pixel_values": pixels * scale + shift}, tensor_type=return_tensors)

    def scale_and_shift(self) -> tuple[np.ndarray, np.ndarray]:
        """The factor for pixels and the number added afterwards: float32 (channels, 1, 1) each."""
        mean, std = np.array(self.image_mean), np.array(self.image_std)
        if not self.do_normalize:
            mean, std = np.zeros_like(mean), np.ones_like(std)
        scale = (self.rescale_factor if self.do_rescale else 1.0) / std
        return scale.astype(np.float32)[:, None, None], (-mean / std).astype(np.float32)[:, None, None]

    def _read(self, image: Any, layout: str | None) -> np.ndarray:
        """Read one image: float32 (channels, height, width), not yet scaled."""
        if isinstance(image, Image.Image):
            image = ImageOps.exif_transpose(image)
            if image.mode in SIXTEEN_BITS:
                raise ValueError(too_many_bits(image))
            if image.mode in WIDE_MODES:
                image = np.asarray(image)
        if isinstance(image, torch.Tensor):
            image = image.detach().cpu()
            image = (image.float() if image.is_floating_point() else image).numpy()  # numpy has no bfloat16
        if isinstance(image, np.ndarray):
            array = channels_last(image, layout)  # (height, width, channels)
            if not self.do_rescale and np.issubdtype(array.dtype, np.floating):
                return self._read_floats(array)
            image = Image.fromarray(eight_bits(array))
        if not isinstance(image, Image.Image):
            raise ValueError(
                f"an image is a PIL image, a numpy array or a torch tensor, got {type(image).__name__}: open files "
                "with PIL.Image.open, turn lists of numbers into arrays."
            )
        pixels = np.asarray(self._fitting(image), dtype=np.float32)
        return pixels.reshape(*self.size.values(), self.num_channels).transpose(2, 0, 1)

    def _read_floats(self, array: np.ndarray) -> np.ndarray:
        expected = (*self.size.values(), self.num_channels)
        if array.shape != expected:
            raise ValueError(
                f"with do_rescale=False, floats have the model's own height, width and channels {expected}, but one "
                f"image has {array.shape}: give whole numbers 0..255 to have it resized or its colours changed."
            )
        if not np.isfinite(array).all():
            raise ValueError("pixel values are finite, but an image has NaN or infinity.")
        return array.astype(np.float32).transpose(2, 0, 1)

    def _fitting(self, image: Image.Image) -> Image.Image:
        """Convert an image of 8 bits a pixel to the model's mode and size."""
        mode = MODES[self.num_channels]
        if image.mode != mode:
            if "transparency" in image.info:  # in a palette: Pillow warns if one step drops it
                image = image.convert("RGBA")
            image = image.convert("RGB").convert(mode)  # through RGB, as pipelines open files
        height, width = self.size.values()
        if image.size != (width, height):
            if not self.do_resize or 0 in image.size:
                raise ValueError(
                    f"images here are {width} x {height} pixels (width x height), but one has "
                    f"{image.width} x {image.height}: resize it, or write do_resize=True."
                )
            image = image.resize((width, height), Image.Resampling(self.resample))
        return image


def _as_list(images: Any) -> list:
    if isinstance(images, (np.ndarray, torch.Tensor)) and images.ndim == 4:
        images = list(images)
    images = list(images) if isinstance(images, (list, tuple)) else [images]
    if not images:
        raise ValueError("at least one image is needed, got none.")
    return images


def _height_width(size: int | Sequence[int] | dict[str, int]) -> dict[str, int]:
    if isinstance(size, dict):
        sides = [size.get("height"), size.get("width")] if set(size) == {"height", "width"} else []
    else:
        sides = list(size) if isinstance(size, Iterable) else [size, size]
    if len(sides) != 2 or any(isinstance(side, bool) or not isinstance(side, Integral) or side < 1 for side in sides):
        raise ValueError(
            f"size is one number of pixels, (height, width) or {{'height': ..., 'width': ...}}, each at least 1; got "
            f"{size!r:.200}."
        )
    if max(sides) > MOST_PIXELS:
        raise ValueError(f"size is at most {MOST_PIXELS} pixels a side, got {size!r:.200}.")
    return dict(zip(("height", "width"), map(int, sides), strict=True))


def _per_channel(name: str, values: float | Sequence[float], channels: int) -> list[float]:
    """Turn `values`, one number or one per channel (also NumPy's or torch's), into a list of floats."""
    several = isinstance(values, (list, tuple))
    try:
        numbers = np.asarray([_plain(value) for value in values] if several else _plain(values))
    except ValueError:  # lists of several lengths
        numbers = np.empty(0)
    if numbers.dtype.kind not in "iuf" or numbers.shape not in ((), (channels,)) or not np.isfinite(numbers).all():
        raise ValueError(f"{name} is one number, or one for each of the {channels} channels; got {values!r:.200}.")
    return np.broadcast_to(numbers, channels).astype(float).tolist()


def _above_zero(name: str, numbers: list[float]) -> list[float]:
    for number in numbers:
        if not 0 < number < float("inf"):
            raise ValueError(f"{name} lies above 0, got {number!r}.")
    return numbers


def _plain(value: Any) -> Any:
    """The values of a tensor as Python numbers; anything else unchanged."""
    return value.tolist() if isinstance(value, torch.Tensor) else value
