"""`FPTAudioFeatureExtractor`: sound as it comes -> the log-mel spectrogram, or wave, that a model was trained on.

This file imports no other of this library: it can be copied into a Hub repository and loaded from there.
"""

import io
import math
from collections.abc import Callable, Mapping, Sequence
from numbers import Integral, Real
from typing import Any

import numpy as np
import torch
from transformers import BatchFeature, SequenceFeatureExtractor
from transformers.audio_utils import mel_filter_bank

HUB_KEYS = {"auto_map", "feature_extractor_type", "processor_class"}
NO_FIELDS = "preprocessor_config.json of {} holds no fields by name, or is nested too deeply: fetch or save it again."
FIXED = {"padding_side": "right", "return_attention_mask": True, "padding_value": 0.0}  # what the models need
WHOLE = ("feature_size", "sampling_rate", "max_length", "patch_length", "patch_stride", "hop_length", "win_length")
FLOOR = 1e-6  # below which the power of a band is silence
FEWEST = 1024  # samples of a spectrum, filled up with zeros
LONGEST = 1024  # frames, or steps of a wave, that are read by default


class FPTAudioFeatureExtractor(SequenceFeatureExtractor):
    """Sound -> `input_values` (batch, steps, feature_size) and their `attention_mask`.

    Each clip is mixed to one channel, resampled to `sampling_rate`, and (`do_normalize`) scaled to mean 0 and variance
    1. With `feature_size` above 1 a step is a frame: the logarithms of the power in so many mel bands (HTK's scale),
    of windows of `win_length` samples, `hop_length` apart; each band is normalised by `mean` and
    `std`. With `feature_size` 1 a step is a sample. At most `max_length` steps are read.
    `patch_length` and `patch_stride` describe how the model cuts patches of steps; they change nothing here.

    Raises ValueError for values out of range, TypeError for a name that is no field.
    """

    model_input_names = ["input_values", "attention_mask"]

    def __init__(
        self,
        feature_size: int = 64,
        sampling_rate: int = 16_000,
        max_length: int = LONGEST,
        patch_length: int = 8,
        patch_stride: int = 4,
        hop_length: int | None = None,
        win_length: int | None = None,
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        do_normalize: bool = True,
        **kwargs,
    ):
        for name, value in kwargs.items():
            private = name.startswith("_") and not name.startswith("__")
            if name in FIXED and value != FIXED[name]:
                raise ValueError(f"{name} is {FIXED[name]!r} for these models, got {value!r:.200}: leave it out.")
            if name not in FIXED and name not in HUB_KEYS and not private:
                raise TypeError(
                    f"FPTAudioFeatureExtractor has no field {name!r:.200}; its fields are {', '.join(WHOLE)}, mean, "
                    "std, do_normalize."
                )
        kwargs = {
            name: value for name, value in kwargs.items() if name not in ("feature_extractor_type", "padding_value")
        }
        super().__init__(feature_size, sampling_rate, 0.0, **kwargs)
        self.max_length, self.patch_length, self.patch_stride = max_length, patch_length, patch_stride
        self.hop_length = sampling_rate // 100 or 1 if hop_length is None else hop_length  # 10 ms
        self.win_length = sampling_rate // 40 or 1 if win_length is None else win_length  # 25 ms
        for name in WHOLE:
            value = getattr(self, name)
            if isinstance(value, bool) or not isinstance(value, Integral) or not 1 <= value <= 2**24:
                raise ValueError(f"{name} is a whole number of at least 1, got {value!r:.200}.")
        if patch_stride > patch_length:
            raise ValueError(f"patch_stride is at most patch_length; got {patch_stride} and {patch_length}.")
        if self.win_length > 2**20 or feature_size > 2**12:
            raise ValueError(
                f"win_length is at most {2**20} and feature_size {2**12}; got {win_length}, {feature_size}."
            )
        self.do_normalize = bool(do_normalize)
        if (mean is None) != (std is None):
            raise ValueError(f"mean and std come together; got mean={mean!s:.200}, std={std!s:.200}.")
        self.mean, self.std = _numbers("mean", mean, feature_size), _numbers("std", std, feature_size)
        if self.std is not None and min(self.std) <= 0:
            raise ValueError(f"std lies above 0, got {min(self.std)}.")

    @classmethod
    def fit(
        cls,
        clips: Sequence[Any],
        sampling_rate: int | None = None,
        where: Callable[[int], str] = "clip {}".format,
        **fields,
    ) -> "FPTAudioFeatureExtractor":
        """Make the extractor whose rate, length, mean and std are those of these clips, each as `__call__` takes it.

        `sampling_rate`: what all are resampled to (None: the rate that most of them have). `where` names a clip in
        messages. `fields`: of the constructor, that are to be others. Raises ValueError for clips that are no sound.
        """
        waves = [read_wave(clip, where(number)) for number, clip in enumerate(clips)]
        rates = [rate for _, rate in waves if rate is not None]
        if sampling_rate is None:
            if not rates:
                raise ValueError("these clips do not say how many samples a second they have: write sampling_rate.")
            sampling_rate = max(set(rates), key=rates.count)
        extractor = cls(sampling_rate=sampling_rate, **fields)
        steps = [extractor.steps(wave, rate) for wave, rate in waves]
        longest = max(map(len, steps))
        found: dict[str, Any] = {"max_length": min(longest, LONGEST if extractor.feature_size > 1 else longest)}
        if extractor.feature_size > 1:
            every = np.concatenate(steps)  # (all steps, bands)
            found |= {"mean": every.mean(axis=0).tolist(), "std": np.maximum(every.std(axis=0), 1e-3).tolist()}
        elif "patch_length" not in fields:
            found |= {"patch_length": sampling_rate // 40 or 1, "patch_stride": sampling_rate // 50 or 1}
        return cls(sampling_rate=sampling_rate, **(found | fields))

    @property
    def config_fields(self) -> dict[str, Any]:
        """The fields of `FPTConfig` for a model of these inputs."""
        patches = {"patch_length": self.patch_length, "patch_stride": self.patch_stride}
        return {
            "input_type": "audio",
            "series_length": self.max_length,
            "num_channels": self.feature_size,
            **patches,
        }

    @classmethod
    def get_feature_extractor_dict(cls, pretrained_model_name_or_path: Any, **kwargs) -> tuple[dict, dict]:
        """As for every extractor. Raises ValueError for a file that holds no fields by name, or too deep ones."""
        try:
            fields, unused = super().get_feature_extractor_dict(pretrained_model_name_or_path, **kwargs)
        except (AttributeError, RecursionError, TypeError) as error:  # transformers' own, of what it read
            raise ValueError(NO_FIELDS.format(pretrained_model_name_or_path)) from error
        if not isinstance(fields, dict):
            raise ValueError(NO_FIELDS.format(pretrained_model_name_or_path))
        return fields, unused

    def __call__(
        self,
        raw_speech: Any,
        sampling_rate: int | None = None,
        truncation: bool = True,
        return_tensors: str | None = None,
        **_,
    ) -> BatchFeature:
        """One clip, or a list of them -> `input_values` and `attention_mask`, filled up to the longest with zeros.

        A clip is an array (samples,) or (channels, samples), bytes of a wav, flac or ogg file, the path of one, or a
        dict with "array" and "sampling_rate", or with "bytes" or "path", as `datasets` has them. `sampling_rate`: of
        arrays (None: this extractor's own). `truncation`: cut clips to their first `max_length` steps.

        Returns `input_values`, float32 (batch, longest, feature_size), and `attention_mask`, int64 (batch, longest);
        `return_tensors`: "pt" or "np" (also None: numpy). Raises ValueError for what is no sound, or too long.
        """
        several = isinstance(raw_speech, (list, tuple)) and not (raw_speech and isinstance(raw_speech[0], Real))
        clips = list(raw_speech) if several else [raw_speech]
        rows = []
        for number, clip in enumerate(clips):
            wave, rate = read_wave(clip, f"clip {number}")
            steps = self.steps(wave, sampling_rate if rate is None else rate)
            if len(steps) > self.max_length and not truncation:
                raise ValueError(
                    f"clip {number} has {len(steps)} steps, but the model takes at most {self.max_length}: shorten "
                    "it, or write truncation=True to keep its beginning."
                )
            steps = steps[: self.max_length]
            rows.append(steps if self.mean is None else (steps - np.float32(self.mean)) / np.float32(self.std))
        lengths = np.array([len(row) for row in rows])
        padded = np.zeros((len(rows), lengths.max(), self.feature_size), dtype=np.float32)
        for row, steps in zip(padded, rows, strict=True):
            row[: len(steps)] = steps
        mask = (np.arange(lengths.max()) < lengths[:, None]).astype(np.int64)
        return BatchFeature({"input_values": padded, "attention_mask": mask}, tensor_type=return_tensors)

    def steps(self, wave: np.ndarray, sampling_rate: int | None = None) -> np.ndarray:
        """A wave (samples,) -> (steps, feature_size): log-mel frames before `mean` and `std`, or its samples."""
        wave = resampled(wave, sampling_rate, self.sampling_rate)
        if self.do_normalize:
            wave = (wave - wave.mean()) / (wave.std() + 1e-7)
        if self.feature_size == 1:
            return wave[:, None]
        size = max(FEWEST, 2 ** math.ceil(math.log2(self.win_length)))  # so that no band lies between two frequencies
        samples = torch.from_numpy(np.pad(wave, (0, max(size - len(wave), 0))))
        window = torch.hann_window(self.win_length)
        parts = torch.stft(
            samples, size, self.hop_length, self.win_length, window, center=False, return_complex=True
        )  # (frequencies, frames)
        power = parts.abs().square().numpy().T  # (frames, frequencies)
        return np.log(power @ self._filters(size) + FLOOR).astype(np.float32)  # (frames, bands)

    def _filters(self, size: int) -> np.ndarray:
        """Mel filters for a spectrum of `size` samples: (frequencies, bands)."""
        highest = self.sampling_rate / 2
        return mel_filter_bank(size // 2 + 1, self.feature_size, 0.0, highest, self.sampling_rate)


def resampled(wave: np.ndarray, sampling_rate: int | None, wanted: int) -> np.ndarray:
    """A wave (samples,) as float32 with `wanted` samples a second, which it has where `sampling_rate` is None."""
    if sampling_rate not in (None, wanted):
        from scipy.signal import resample_poly  # which takes long to import

        common = math.gcd(sampling_rate, wanted)
        wave = resample_poly(wave, wanted // common, sampling_rate // common)
    return np.asarray(wave, dtype=np.float32)


def read_wave(clip: Any, name: str) -> tuple[np.ndarray, int | None]:
    """Read a clip, which messages call `name`: samples of one channel, and their rate where it is known.

    Raises ValueError for what is no sound, ImportError for a file where soundfile is missing.
    """
    if isinstance(clip, Mapping):
        if clip.get("array", clip.get("raw")) is not None:
            wave, _ = read_wave(clip.get("array", clip.get("raw")), name)
            return wave, clip.get("sampling_rate")
        clip = clip.get("bytes") if clip.get("bytes") is not None else clip.get("path")
    if isinstance(clip, (bytes, str)) or hasattr(clip, "__fspath__"):
        return _decoded(clip, name)
    if isinstance(clip, torch.Tensor):
        clip = clip.detach().cpu().numpy()
    try:
        wave = np.asarray(clip, dtype=np.float32)
    except (TypeError, ValueError):
        wave = np.empty((0, 0, 0))
    if wave.ndim == 2:
        wave = wave.mean(axis=0 if wave.shape[0] < wave.shape[1] else 1)  # the channels are fewer than the samples
    if wave.ndim != 1 or wave.size == 0:
        raise ValueError(
            f"a clip is an array (samples,), a sound file or its bytes, but {name} is {type(clip).__name__}."
        )
    if not np.isfinite(wave).all():
        raise ValueError(
            f"a clip holds finite numbers, but sample {int(np.argmin(np.isfinite(wave)))} of {name} is none."
        )
    return wave, None


def _decoded(clip: Any, name: str) -> tuple[np.ndarray, int]:
    try:
        import soundfile
    except ImportError as error:
        raise ImportError(
            "sound files are read with soundfile, which is missing here: pip install 'fpt_adapters[audio]'"
        ) from error
    try:
        samples, rate = soundfile.read(io.BytesIO(clip) if isinstance(clip, bytes) else clip, dtype="float32")
    except (soundfile.SoundFileError, OSError, TypeError) as error:
        raise ValueError(f"a clip is a wav, flac or ogg file, but {name} cannot be read as one ({error}).") from error
    if len(samples) == 0:
        raise ValueError(f"a clip holds at least one sample, but {name} is empty.")
    return (samples if samples.ndim == 1 else samples.mean(axis=1)), rate


def _numbers(name: str, values: Any, count: int) -> list[float] | None:
    if values is None:
        return None
    numbers = np.asarray(values, dtype=float) if isinstance(values, (list, tuple, np.ndarray)) else np.empty(0)
    if numbers.shape != (count,) or not np.isfinite(numbers).all():
        raise ValueError(f"{name} is a number for each of the {count} bands; got {values!r:.200}.")
    return numbers.tolist()
