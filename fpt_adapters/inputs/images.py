"""Images: each square patch is a token. A patch holds its pixels row by row, with the channels innermost."""

from typing import TYPE_CHECKING, Any

from torch import Tensor
from transformers import PreTrainedConfig

from ..rules.ranges import short
from ..rules.wording import counted
from .encoded import Encoded
from .input_type import PICTURE_COLUMNS, InputType, Loading, picture_usage
from .projection import Projection

if TYPE_CHECKING:
    from .image_processing_fpt import FPTImageProcessor


def height_width(config: PreTrainedConfig) -> tuple[int, int]:
    """Height and width of an image in pixels; the configuration has one number for a square."""
    if isinstance(config.image_size, int):
        return config.image_size, config.image_size
    height, width = config.image_size
    return height, width


class ImagesProjection(Projection):
    """Cuts `pixel_values` (batch, channels, height, width) into square patches, row by row."""

    input_name = "pixel_values"

    def to_tokens(self, inputs: Tensor, mask: Tensor | None) -> Encoded:
        expected = (self.config.num_channels, *height_width(self.config))
        if tuple(inputs.shape[1:]) != expected:
            height_width_channels = (*expected[1:], expected[0])
            advice = "resize the images, or build the model for their size"
            if tuple(inputs.shape[1:]) == height_width_channels:
                advice = "the channels come last here: write pixel_values.permute(0, 3, 1, 2)"
            raise ValueError(
                f"pixel_values has shape (batch, channels, height, width) = (batch, {', '.join(map(str, expected))}), "
                f"got {tuple(inputs.shape)}: {advice}."
            )
        batch, channels, height, width = inputs.shape
        p = self.config.patch_size
        patches = inputs.reshape(batch, channels, height // p, p, width // p, p)
        patches = patches.permute(0, 2, 4, 3, 5, 1)  # (batch, rows, columns, p, p, channels)
        return Encoded(patches.reshape(batch, -1, p * p * channels), mask)  # (batch, tokens, numbers)


class ImagesInput(InputType):
    """Images of one size, in patches of `patch_size` x `patch_size` pixels."""

    needs = ("image_size", "num_channels", "patch_size")
    module = ImagesProjection
    modality = "image"
    columns = PICTURE_COLUMNS

    def check(self, config: PreTrainedConfig) -> None:
        if isinstance(config.image_size, list) and len(config.image_size) != 2:
            raise ValueError(f"image_size is one number or [height, width], got {short(config.image_size)}.")
        for side in height_width(config):
            if side % config.patch_size:
                raise ValueError(
                    f"image_size must be a multiple of patch_size: {side} pixels do not divide into patches of "
                    f"{config.patch_size}."
                )

    def num_tokens(self, config: PreTrainedConfig) -> int:
        height, width = height_width(config)
        return (height // config.patch_size) * (width // config.patch_size)

    def token_size(self, config: PreTrainedConfig) -> int:
        return config.num_channels * config.patch_size**2

    def processor(self, config: PreTrainedConfig, **settings: Any) -> "FPTImageProcessor":
        from .image_processing_fpt import FPTImageProcessor  # a loaded model does not need it

        return FPTImageProcessor(config.image_size, config.num_channels, **settings)

    def prepare(self, processor: Any, rows: Any) -> Any:
        from .image_files import open_image

        return processor([open_image(row, f"image {number}") for number, row in enumerate(rows)], return_tensors="pt")

    def describe(self, config: PreTrainedConfig) -> str:
        height, width = height_width(config)
        return (
            f"images of {height} x {width} pixels and {counted(config.num_channels, 'channel')}, as "
            f"{counted(config.num_tokens, 'patch', 'patches')} of {config.patch_size} x {config.patch_size}."
        )

    def example(self, config: PreTrainedConfig) -> str:
        height, width = height_width(config)
        return f"torch.zeros(1, {config.num_channels}, {height}, {width})"

    def usage(self, config: PreTrainedConfig, loading: Loading) -> str | None:
        """As for every input; also None for a number of channels that Pillow has no mode for."""
        from .image_arrays import MODES

        if loading.pipeline_tag is None or config.num_channels not in MODES:
            return None
        height, width = height_width(config)
        return picture_usage(loading, MODES[config.num_channels], width, height)
