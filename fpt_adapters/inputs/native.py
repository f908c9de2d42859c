"""Native input: the backbone reads what it was made for, by its own frozen embeddings. Nothing new stands before it.

Text for language models of every family, pictures, waves and spectrograms for those of `backbones/native.py`. What
the base's own tokenizer or processor gives goes to the base's own forward; its hidden states go to the head. It is the
control that the paper (arXiv 2103.05247) lacks: the frozen model on its own modality.

Without a word from the user the norms, the base's learned positions and the head train. The embeddings (`input`: token
and segment tables, patches, class tokens, the convolutions in front of a wave's layers) stay frozen, because there is
no new projection that would have to be learned: name `input` in `trainable` to train them, and they are in the delta.
A base without learned positions (Llama, ModernBERT) gets none.
"""

from collections.abc import Sequence
from typing import Any

from torch import Tensor
from transformers import PreTrainedConfig

from ..backbones.native import PICTURES, WAVES
from ..rules.policy_rules import PAPER_GROUPS
from ..rules.ranges import check_within, short
from ..rules.wording import counted, thousands
from .input_type import PICTURE_COLUMNS, SOUND_COLUMNS, InputType, Loading, picture_usage, text_usage
from .native_readers import MelReader, PictureReader, TextReader, WaveReader, WhisperReader, wave_tokens

MOST_SAMPLES = 2**24


class NativeInput(InputType):
    """What the backbone was made for; `of` says what that is. `trained` leaves `input` out: see above."""

    optional = ("sequence_length", "pad_token_id")
    native = True
    positions = "none"
    auto_class: str  # of transformers, that loads the base's tokenizer or processor
    processor_file: str  # by which a base is known to have one

    def of(self, config: PreTrainedConfig) -> InputType:
        return self if config.base_model_config is None else native_kind(config.base_model_config)

    def trained(self, config: PreTrainedConfig) -> Sequence[str] | None:
        if config.positions == "auto":
            return None
        left_out = ("input", "position") if config.positions == "none" else ("input",)
        return [group for group in PAPER_GROUPS if group not in left_out]

    def check(self, config: PreTrainedConfig) -> None:
        if config.positions == "new":
            raise ValueError("positions='new' is a table for projected inputs, and native ones are not: leave it out.")
        if config.input_dropout not in (0, type(config).input_dropout):
            raise ValueError(
                f"input_dropout={short(config.input_dropout)} is for what follows an input projection, and native "
                "input has none: leave it out, or write backbone_dropout."
            )
        config.input_dropout = 0
        if config.sequence_length is not None:
            check_within("sequence_length", config.sequence_length, 1, MOST_SAMPLES)

    def num_tokens(self, config: PreTrainedConfig) -> int:
        return config.sequence_length or 1

    def token_size(self, config: PreTrainedConfig) -> int:
        return 0

    def processor(self, config: PreTrainedConfig, **settings: Any) -> Any:
        """The base's own. Raises ValueError for a base without a Hub id."""
        if config.base_model is None:
            raise ValueError(f"The base has no Hub id: write {self.auto_class}.from_pretrained(FOLDER_OF_THE_BASE).")
        return self.load_processor(config.base_model, revision=config.base_model_revision, **settings)

    def load_processor(self, source: str, **settings: Any) -> Any:
        """What lies beside a base at `source`, a folder or a Hub id."""
        from transformers import AutoFeatureExtractor, AutoTokenizer
        from transformers.models.auto.image_processing_auto import AutoImageProcessor

        autos = {one.__name__: one for one in (AutoFeatureExtractor, AutoImageProcessor, AutoTokenizer)}
        return autos[self.auto_class].from_pretrained(source, trust_remote_code=False, **settings)


class NativeText(NativeInput):
    """Ids of the base's own vocabulary."""

    needs, optional, module = ("sequence_length",), ("pad_token_id",), TextReader
    modality, step_is_token, columns = "text", True, ("text", "sentence")
    auto_class, processor_file = "AutoTokenizer", "tokenizer_config.json"

    def check(self, config: PreTrainedConfig) -> None:
        super().check(config)
        if config.pad_token_id is not None and not 0 <= config.pad_token_id < self.num_ids(config):
            raise ValueError(f"pad_token_id is an id of the base's {self.num_ids(config)}; got {config.pad_token_id}.")

    def num_ids(self, config: PreTrainedConfig) -> int:
        """The size of the base's own vocabulary."""
        return config.base_model_config.vocab_size

    def wrong_ids(self, config: PreTrainedConfig, inputs: Tensor) -> tuple[Tensor, str] | None:
        count = self.num_ids(config)
        wrong = (inputs < 0) | (inputs >= count)
        if not wrong.any():
            return None
        return wrong, f"input_ids must lie in 0..{count - 1} (vocab_size={count}), got {inputs[wrong][0].item()}"

    def prepare(self, processor: Any, rows: Any) -> Any:
        return processor(list(rows), padding=True, truncation=True, return_tensors="pt")

    def describe(self, config: PreTrainedConfig) -> str:
        ids = thousands(self.num_ids(config))
        return f"text, as up to {counted(config.num_tokens, 'token')} of the base's own vocabulary of {ids}."

    def example(self, config: PreTrainedConfig) -> str:
        return f"torch.ones(1, {config.sequence_length}, dtype=torch.long)"

    def usage(self, config: PreTrainedConfig, loading: Loading) -> str | None:
        return text_usage(loading)


class NativePictures(NativeInput):
    """Pictures of the base's own size, in its own patches."""

    optional, module = (), PictureReader
    modality, columns = "image", PICTURE_COLUMNS
    auto_class, processor_file = "AutoImageProcessor", "preprocessor_config.json"

    def num_tokens(self, config: PreTrainedConfig) -> int:
        (height, width), (rows, columns) = picture_sizes(config.base_model_config)
        base = config.base_model_config
        special = PICTURES[base.model_type] + getattr(base, "num_register_tokens", 0)
        return (height // rows) * (width // columns) + special

    def describe(self, config: PreTrainedConfig) -> str:
        (height, width), (rows, columns) = picture_sizes(config.base_model_config)
        channels = counted(config.base_model_config.num_channels, "channel")
        return (
            f"pictures of {height} x {width} pixels and {channels}, as {counted(config.num_tokens, 'token')} of the "
            f"base's own: patches of {rows} x {columns}, and what stands for the whole."
        )

    def example(self, config: PreTrainedConfig) -> str:
        (height, width), _ = picture_sizes(config.base_model_config)
        return f"torch.zeros(1, {config.base_model_config.num_channels}, {height}, {width})"

    def usage(self, config: PreTrainedConfig, loading: Loading) -> str | None:
        (height, width), _ = picture_sizes(config.base_model_config)
        if loading.pipeline_tag is None or config.base_model_config.num_channels != 3:
            return None
        return picture_usage(loading, "RGB", width, height)

    def prepare(self, processor: Any, rows: Any) -> Any:
        from .image_files import in_colour, open_image

        images = [in_colour(open_image(row, f"image {number}")) for number, row in enumerate(rows)]
        return processor(images, return_tensors="pt")


class NativeSound(NativeInput):
    """Sound; which extractor and which shape it has is up to the base."""

    modality, columns = "audio", SOUND_COLUMNS
    auto_class, processor_file = "AutoFeatureExtractor", "preprocessor_config.json"

    def prepare(self, processor: Any, rows: Any) -> Any:
        """Of clips as `FPTAudioFeatureExtractor` takes them, resampled; arrays have the base's own rate."""
        waves = self._waves(processor, rows)
        return processor(waves, sampling_rate=processor.sampling_rate, return_tensors="pt")

    @staticmethod
    def _waves(processor: Any, rows: Any) -> list[Any]:
        from .audio_feature_extraction_fpt import read_wave, resampled

        clips = [read_wave(row, f"clip {number}") for number, row in enumerate(rows)]
        return [resampled(wave, rate, processor.sampling_rate) for wave, rate in clips]

    def usage(self, config: PreTrainedConfig, loading: Loading) -> str:
        samples = config.sequence_length or "extractor.sampling_rate"
        return f"""\
From a wave to answers:

```python
import fpt_adapters
import numpy as np
import torch
from transformers import AutoFeatureExtractor, {loading.auto_class}

model = {loading.auto_class}.from_pretrained("{loading.repo_id}"{loading.base_argument})
extractor = AutoFeatureExtractor.from_pretrained("{loading.repo_id}")
wave = np.zeros({samples}, dtype=np.float32)  # yours: (samples,), as many a second as extractor.sampling_rate
inputs = extractor(wave, sampling_rate=extractor.sampling_rate, return_tensors="pt")
with torch.no_grad():
    print(model(**inputs).{loading.output_name})
```"""


class NativeWaves(NativeSound):
    """Waves of up to `sequence_length` samples."""

    needs, optional, module = ("sequence_length",), (), WaveReader

    def check(self, config: PreTrainedConfig) -> None:
        super().check(config)
        if self.num_tokens(config) < 1:
            raise ValueError(
                f"sequence_length counts samples of a wave, and {config.sequence_length} make no token of "
                f"{config.base_model_config.model_type}: write that of a second or more, such as 16000."
            )

    def prepare(self, processor: Any, rows: Any) -> Any:
        """Of clips; their first `max_length` samples, where the processor tells that."""
        waves = [wave[: getattr(processor, "max_length", None)] for wave in self._waves(processor, rows)]
        settings = {"padding": True, "return_attention_mask": True, "return_tensors": "pt"}
        return processor(waves, sampling_rate=processor.sampling_rate, **settings)

    def num_tokens(self, config: PreTrainedConfig) -> int:
        return wave_tokens(config.sequence_length, config.base_model_config)

    def describe(self, config: PreTrainedConfig) -> str:
        samples = counted(config.sequence_length, "sample")
        return f"waves of up to {samples}, as up to {counted(config.num_tokens, 'token')} of the base's own."

    def example(self, config: PreTrainedConfig) -> str:
        return f"torch.zeros(1, {config.sequence_length})"


class NativeMels(NativeSound):
    """Spectrograms of AST's own size."""

    optional, module = (), MelReader

    def num_tokens(self, config: PreTrainedConfig) -> int:
        base = config.base_model_config
        mels = (base.num_mel_bins - base.patch_size) // base.frequency_stride + 1
        return mels * ((base.max_length - base.patch_size) // base.time_stride + 1) + 2

    def describe(self, config: PreTrainedConfig) -> str:
        return f"log-mel spectrograms, as {counted(config.num_tokens, 'token')} of the base's own."

    def example(self, config: PreTrainedConfig) -> str:
        return f"torch.zeros(1, {config.base_model_config.max_length}, {config.base_model_config.num_mel_bins})"


class NativeWhisper(NativeMels):
    """Spectrograms of Whisper's own size."""

    module = WhisperReader

    def num_tokens(self, config: PreTrainedConfig) -> int:
        return config.base_model_config.max_source_positions

    def example(self, config: PreTrainedConfig) -> str:
        return f"torch.zeros(1, {config.base_model_config.num_mel_bins}, {2 * config.num_tokens})"


TEXT = NativeText()
KINDS: dict[str, NativeInput] = {
    **dict.fromkeys(PICTURES, NativePictures()),
    **dict.fromkeys(WAVES, NativeWaves()),
    "audio-spectrogram-transformer": NativeMels(),
    "whisper": NativeWhisper(),
}


def native_kind(base_config: PreTrainedConfig) -> NativeInput:
    """What a backbone reads."""
    return KINDS.get(base_config.model_type, TEXT)


def picture_sizes(base: PreTrainedConfig) -> list[tuple[int, int]]:
    """Height and width of a picture and of a patch; one number is that of a square."""
    sizes = [[size] * 2 if isinstance(size, int) else size for size in (base.image_size, base.patch_size)]
    return [(height, width) for height, width in sizes]
