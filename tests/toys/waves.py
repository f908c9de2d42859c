"""An input in one file: signals, each brought to mean 0 and spread 1, and cut into waves of some steps."""

from torch import Tensor

from fpt_adapters import FPTFeatureExtractor
from fpt_adapters.inputs.encoded import Encoded
from fpt_adapters.inputs.input_type import InputType
from fpt_adapters.inputs.projection import Projection, check_sequences, without_padding
from fpt_adapters.inputs.values import numbers_usage

SMALLEST = 1e-6  # spread of a signal that is divided by it


class WavesProjection(Projection):
    """`input_values` (batch, steps, 1), whole waves; a wave is real if its first step is."""

    def to_tokens(self, inputs: Tensor, mask: Tensor | None) -> Encoded:
        check_sequences(inputs, "steps", "channels", 1)
        steps = without_padding(inputs, mask)[..., 0]  # (batch, steps)
        real = steps.new_ones(steps.shape) if mask is None else mask.to(steps.dtype)
        mean = (steps * real).sum(dim=1, keepdim=True) / real.sum(dim=1, keepdim=True)  # (batch, 1)
        centred = (steps - mean) * real
        scale = (centred.square().sum(dim=1, keepdim=True) / real.sum(dim=1, keepdim=True)).sqrt() + SMALLEST
        waves = (centred / scale).unflatten(1, (-1, self.config.wave_length))  # (batch, waves, steps of a wave)
        return Encoded(waves, None if mask is None else mask[:, :: self.config.wave_length], mean, scale)


class WavesInput(InputType):
    needs = ("num_waves", "wave_length")
    optional = ("wave_unit",)
    module = WavesProjection

    def check(self, config):
        if config.wave_unit not in (None, "mV", "dB"):
            raise ValueError(f"wave_unit is 'mV' or 'dB', got {config.wave_unit!r:.60}: leave it out.")

    def num_tokens(self, config):
        return config.num_waves

    def token_size(self, config):
        return config.wave_length

    def processor(self, config, **settings):
        return FPTFeatureExtractor(1, config.num_waves * config.wave_length, **settings)

    def describe(self, config):
        return f"up to {config.num_waves} waves of {config.wave_length} steps."

    def example(self, config):
        return f"torch.zeros(1, {config.num_waves * config.wave_length}, 1)"

    def usage(self, config, loading):
        return numbers_usage(loading, f"({config.num_waves * config.wave_length}, 1)", "(steps, 1)")
