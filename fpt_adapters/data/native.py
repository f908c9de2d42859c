"""Rows that a base reads natively, by its own image processor or feature extractor, and its own embeddings."""

from typing import Any

from transformers import ASTFeatureExtractor, PreTrainedConfig, Wav2Vec2FeatureExtractor, WhisperFeatureExtractor

from ..backbones.native import NOT_TEXT, WAVES
from ..hub.download import has_file
from ..inputs.image_processing_fpt import FPTImageProcessor
from ..inputs.native import NativeInput, native_kind, picture_sizes
from ..inputs.native_readers import wave_tokens

ANY_SIZE = ("dinov2", "dinov2_with_registers")  # which stretch their positions over pictures of other sizes
SECONDS = 10  # of a wave, at most, that are read by default
WORDS = {"image": "pictures", "audio": "sound"}


def native_input(base: PreTrainedConfig, modality: str) -> NativeInput:
    """The native input of a base that was made for "image" or "audio". Raises ValueError for another base."""
    kind = native_kind(base)
    if kind.modality != modality:
        families = [name for name in NOT_TEXT if native_kind(PreTrainedConfig(model_type=name)).modality == modality]
        raise ValueError(
            f"input_type='native' reads {WORDS[modality]} by a base that was made for {WORDS[modality]} "
            f"({', '.join(families)}), and {base.model_type} is none: name such a base, or leave input_type out."
        )
    return kind


def native_processor(kind: NativeInput, base: PreTrainedConfig, source: str | None, **hub_kwargs: Any) -> Any:
    """What lies beside a base at `source`; without one, for random weights, what its configuration asks for.

    Raises ValueError for a base that lies there without its processor.
    """
    if source is None:
        return _new_processor(base)
    if not has_file(source, kind.processor_file, **hub_kwargs):
        raise ValueError(
            f"{source!r} has no {kind.processor_file} beside its weights, by which it reads {WORDS[kind.modality]}: "
            "copy it there, or leave input_type='native' out."
        )
    return kind.load_processor(source, **hub_kwargs)


def _new_processor(base: PreTrainedConfig) -> Any:
    if base.model_type in WAVES:
        return Wav2Vec2FeatureExtractor(return_attention_mask=base.feat_extract_norm == "layer")
    if base.model_type == "audio-spectrogram-transformer":
        return ASTFeatureExtractor(num_mel_bins=base.num_mel_bins, max_length=base.max_length)
    if base.model_type == "whisper":
        seconds = max(1, round(base.max_source_positions / 50))
        hop = seconds * 16_000 // (2 * base.max_source_positions)  # samples of a frame, of which two are a token
        return WhisperFeatureExtractor(base.num_mel_bins, chunk_length=seconds, hop_length=hop)
    sides, _ = picture_sizes(base)
    return FPTImageProcessor(sides, base.num_channels, image_mean=0.5, image_std=0.5)


def native_example(kind: NativeInput, base: PreTrainedConfig, processor: Any, row: Any) -> dict[str, Any]:
    """What the processor makes of a row: arrays by name, without the batch's axis.

    Raises ValueError for a row that it cannot read, and for what the base cannot.
    """
    example = {name: tensor[0].numpy() for name, tensor in kind.prepare(processor, [row]).items()}
    values = example[kind.argument]
    if kind.modality == "image":
        sides, patch = picture_sizes(base)
        fits = values.shape[1:] == sides
        if base.model_type in ANY_SIZE:
            fits = not any(side % one for side, one in zip(values.shape[1:], patch, strict=True))
        if not fits or values.shape[0] != base.num_channels:
            raise ValueError(
                f"the base reads pictures (channels, height, width) of {(base.num_channels, *sides)}, but its image "
                f"processor gives {values.shape}: mend its {kind.processor_file}."
            )
    elif kind.needs and wave_tokens(len(values), base) < 1:
        raise ValueError(f"a wave of {len(values):,} samples makes no token of {base.model_type}: drop its row.")
    return example


def native_fields(
    kind: NativeInput, processor: Any, longest: float, max_seconds: float | None = None
) -> dict[str, Any]:
    """The fields of `FPTConfig`; waves are cut to `max_seconds`, or as the longest of the rows, in seconds.

    The processor remembers where it cuts them.
    """
    fields = {"input_type": "native"}
    if kind.needs:
        seconds = min(longest, SECONDS) if max_seconds is None else max_seconds
        processor.max_length = fields["sequence_length"] = max(1, round(seconds * processor.sampling_rate))
    return fields
