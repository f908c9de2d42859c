"""Sound of one's own: a class, several labels or numbers for each clip."""

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import datasets
import numpy as np

from ..data.columns import find_column
from ..data.native import native_example, native_fields
from ..data.opening import SOUNDS
from ..data.prepared import PreparedRows
from ..data.sources import Source
from ..data.splits import Part, check_at_least
from ..inputs.audio_feature_extraction_fpt import FPTAudioFeatureExtractor, read_wave
from ..modeling_fpt import FPTForAudioClassification
from .native_rows import PatchesOrNative

logger = logging.getLogger(__name__)

BANDS = 64  # of a spectrogram, by default
FITTED = 1000  # clips, at most, that rate, length and normalisation are found in


@dataclass
class AudioClassification(PatchesOrNative):
    """Clips in class folders, in a zip of them, in parquet or csv (bytes, or paths beside it), or on the Hub."""

    name = "audio-classification"
    model_class = FPTForAudioClassification
    file_column, file_endings = "audio", SOUNDS
    modality, of_patches = "audio", ("mel_bands", "patch_length", "patch_stride")

    audio_column: str | None = field(
        default=None, metadata={"help": "Column with the sound: audio, or paths (default: audio, file or path)."}
    )
    sampling_rate: int | None = field(
        default=None, metadata={"help": "Samples a second that all clips are resampled to (default: as most have)."}
    )
    mel_bands: int | None = field(
        default=None,
        metadata={"help": "Bands of the log-mel spectrogram (default: 64); 1: patches of the wave itself."},
    )
    max_seconds: float | None = field(
        default=None, metadata={"help": "Sound that is read of each clip (default: as the longest, 10 s at most)."}
    )
    patch_length: int | None = field(default=None, metadata={"help": "Frames of a patch, which is a token."})
    patch_stride: int | None = field(default=None, metadata={"help": "Frames between the starts of two patches."})

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("sampling_rate", "mel_bands", "patch_length", "patch_stride"):
            if getattr(self, name) is not None:
                check_at_least(name, getattr(self, name), 1)
        if self.max_seconds is not None and self.max_seconds <= 0:
            raise ValueError(f"max_seconds lies above 0, got {self.max_seconds}.")
        if self.mel_bands is None:
            self.mel_bands = BANDS

    def fit(self, part: Part) -> tuple[Any, dict[str, Any], list[str]]:
        self.column = find_column(part.source, self.audio_column, ("audio", "file", "path"), _is_audio, "audio_column")
        rows = part.rows[:: -(-len(part.rows) // FITTED)].tolist()
        read = PreparedRows(Part(part.source, np.array(rows), part.labels), self._reader(part.source), "sound")
        clips = [{"array": clip["array"], "sampling_rate": int(clip["rate"])} for clip in read]
        if self.input_type:
            return self._fit_natively(clips)
        fields = {"patch_length": self.patch_length, "patch_stride": self.patch_stride}
        fields = {name: value for name, value in fields.items() if value is not None}
        if "patch_length" in fields:
            fields.setdefault("patch_stride", -(-fields["patch_length"] // 2))
        extractor = FPTAudioFeatureExtractor.fit(clips, self.sampling_rate, feature_size=self.mel_bands, **fields)
        if self.max_seconds is not None:
            each = extractor.hop_length if self.mel_bands > 1 else 1
            extractor.max_length = max(1, round(self.max_seconds * extractor.sampling_rate / each))
        what = f"log-mel spectrograms of {self.mel_bands} bands" if self.mel_bands > 1 else "waves"
        found = [
            f"column {self.column!r}: sound at {extractor.sampling_rate:,} Hz, as {what} of up to "
            f"{extractor.max_length:,} steps, in patches of {extractor.patch_length}, {extractor.patch_stride} apart"
        ]
        return extractor, extractor.config_fields, found

    def _fit_natively(self, clips: Sequence[dict[str, Any]]) -> tuple[Any, dict[str, Any], list[str]]:
        extractor = self.load_native()
        rate = extractor.sampling_rate
        if self.sampling_rate not in (None, rate):
            raise ValueError(
                f"the base reads sound at {rate} Hz, got --sampling_rate {self.sampling_rate}: leave it out."
            )
        if self.max_seconds is not None and not self.native.needs:
            raise ValueError(f"{self.base_config.model_type} reads clips of one length: leave --max_seconds out.")
        longest = max(len(clip["array"]) / clip["sampling_rate"] for clip in clips)
        fields = native_fields(self.native, extractor, longest, self.max_seconds)
        read = f", up to {fields['sequence_length']:,} samples" if self.native.needs else ""
        found = f"column {self.column!r}: sound of up to {longest:.2f} s at {rate:,} Hz{read}, as the base reads it"
        return extractor, fields, [found]

    def inputs(self, part: Part) -> Sequence[dict[str, Any]]:
        read, extractor = self._reader(part.source), self.processor()

        def make(row: int) -> dict[str, np.ndarray]:
            clip = read(row)
            if self.input_type:
                clip = {"array": clip["array"], "sampling_rate": int(clip["rate"])}
                return native_example(self.native, self.base_config, extractor, clip)
            values = extractor(clip["array"], sampling_rate=int(clip["rate"]))["input_values"]
            return {"input_values": values[0]}

        return PreparedRows(part, make, "spectrograms" if self.mel_bands > 1 else "waves")

    def _reader(self, source: Source) -> Callable[[int], dict[str, np.ndarray]]:
        """A function that decodes the sound of a row: `array` (samples,) and `rate`, 0 where nothing tells."""
        column = find_column(source, self.column, (), _is_audio, "audio_column")
        data = source.data.select_columns([column])
        if isinstance(data.features[column], datasets.Audio):
            data = data.cast_column(column, datasets.Audio(decode=False))

        def read(row: int) -> dict[str, np.ndarray]:
            clip = data[row][column]
            if clip is None:
                raise ValueError(f"column {column!r} has no sound: drop the row.")
            if isinstance(clip, str):
                clip = Path(source.folder) / clip  # as it is where it is absolute
            wave, rate = read_wave(clip, f"column {column!r}")
            if rate is None and self.sampling_rate is None:
                raise ValueError(f"column {column!r} does not say how many samples a second: write --sampling_rate.")
            return {"array": wave, "rate": np.array(rate or self.sampling_rate)}

        return read


def _is_audio(feature: Any) -> bool:
    return isinstance(feature, datasets.Audio)
