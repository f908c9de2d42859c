"""Series: time series of several channels; each patch of steps is a token."""

from typing import TYPE_CHECKING, Any

from torch import Tensor
from torch.nn import functional as F
from transformers import PreTrainedConfig

from ..rules.wording import counted, thousands
from .encoded import Encoded
from .input_type import InputType, Loading
from .projection import Projection, check_sequences, check_stride, without_padding
from .values import numbers_usage

if TYPE_CHECKING:
    from .feature_extraction_fpt import FPTFeatureExtractor


class SeriesProjection(Projection):
    """Cuts `input_values` (batch, steps, channels), or (batch, steps) for one channel, into overlapping patches.

    The last patch is filled with zeros, so that no step is lost. `mask` (batch, steps) is 1 for real steps; a patch is
    real if it has a real step that no earlier patch has, so that padding a series adds no real patch.
    """

    def to_tokens(self, inputs: Tensor, mask: Tensor | None) -> Encoded:
        if inputs.ndim == 2 and self.config.num_channels == 1:
            inputs = inputs[..., None]  # (batch, steps, 1)
        check_sequences(inputs, "steps", "num_channels", self.config.num_channels)
        inputs = without_padding(inputs, mask)
        steps, length, stride = inputs.shape[1], self.config.patch_length, self.config.patch_stride
        if steps == 0:
            raise ValueError("The input has no steps: give at least one.")
        patches = _patches(steps, length, stride)
        fill = (patches - 1) * stride + length - steps
        if mask is not None:
            steps_of = F.pad(mask, (0, fill)).unfold(1, length, stride)  # (batch, tokens, length)
            mask = steps_of[:, :, length - stride :].amax(dim=-1)  # (batch, tokens)
            mask[:, 0] = steps_of[:, 0].amax(dim=-1)
        windows = F.pad(inputs, (0, 0, 0, fill)).unfold(1, length, stride)  # (batch, tokens, channels, length)
        return Encoded(windows.flatten(2), mask)


class SeriesInput(InputType):
    """Time series in patches of `patch_length` steps, `patch_stride` apart."""

    needs = ("series_length", "num_channels", "patch_length", "patch_stride")
    module = SeriesProjection
    columns = ("values", "series")

    def check(self, config: PreTrainedConfig) -> None:
        check_stride(config)

    def num_tokens(self, config: PreTrainedConfig) -> int:
        return _patches(config.series_length, config.patch_length, config.patch_stride)

    def token_size(self, config: PreTrainedConfig) -> int:
        return config.num_channels * config.patch_length

    def processor(self, config: PreTrainedConfig, **settings: Any) -> "FPTFeatureExtractor":
        from .feature_extraction_fpt import FPTFeatureExtractor  # a loaded model does not need it

        patches = {"patch_length": config.patch_length, "patch_stride": config.patch_stride}
        return FPTFeatureExtractor(config.num_channels, config.series_length, **patches, **settings)

    def prepare(self, processor: Any, rows: Any) -> Any:
        return processor(rows, truncation=True, return_tensors="pt")

    def describe(self, config: PreTrainedConfig) -> str:
        patches = counted(config.num_tokens, "patch", "patches")
        return (
            f"series of up to {counted(config.series_length, 'step')} and {counted(config.num_channels, 'channel')}, "
            f"as up to {patches} of {counted(config.patch_length, 'step')}, {thousands(config.patch_stride)} apart."
        )

    def example(self, config: PreTrainedConfig) -> str:
        return f"torch.zeros(1, {config.series_length}, {config.num_channels})"

    def usage(self, config: PreTrainedConfig, loading: Loading) -> str:
        return numbers_usage(loading, f"({config.series_length}, {config.num_channels})", "(steps, channels)")


def _patches(steps: int, length: int, stride: int) -> int:
    """The number of patches in `steps` steps, counting a last one that is filled up."""
    return -(-max(steps - length, 0) // stride) + 1
