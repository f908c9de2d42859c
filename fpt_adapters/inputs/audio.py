"""Audio: the frames of a spectrogram, or the samples of a wave, in patches; to the model, a series."""

from typing import TYPE_CHECKING, Any

from transformers import PreTrainedConfig

from ..rules.wording import counted
from .input_type import SOUND_COLUMNS, Loading
from .series import SeriesInput

if TYPE_CHECKING:
    from .audio_feature_extraction_fpt import FPTAudioFeatureExtractor


class AudioInput(SeriesInput):
    """Clips of up to `series_length` steps: frames with `num_channels` mel bands, or samples with 1."""

    modality = "audio"
    columns = SOUND_COLUMNS

    def processor(self, config: PreTrainedConfig, **settings: Any) -> "FPTAudioFeatureExtractor":
        from .audio_feature_extraction_fpt import FPTAudioFeatureExtractor  # which a loaded model does not need

        patches = {"patch_length": config.patch_length, "patch_stride": config.patch_stride}
        sizes = {"feature_size": config.num_channels, "max_length": config.series_length}
        return FPTAudioFeatureExtractor(**sizes, **patches, **settings)

    def describe(self, config: PreTrainedConfig) -> str:
        what = "samples of a wave"
        if config.num_channels > 1:
            what = f"frames of a log-mel spectrogram ({counted(config.num_channels, 'band')})"
        patches = counted(config.num_tokens, "patch", "patches")
        return f"sound: up to {config.series_length:,} {what}, as up to {patches} of {config.patch_length}."

    def usage(self, config: PreTrainedConfig, loading: Loading) -> str | None:
        if loading.pipeline_tag is None:
            return None
        return f"""\
From sound to labels:

```python
import fpt_adapters
import numpy as np
from transformers import pipeline

classify = pipeline("{loading.pipeline_tag}", model="{loading.repo_id}"{loading.pipeline_arguments})
wave = np.zeros(classify.feature_extractor.sampling_rate, dtype=np.float32)  # yours: (samples,), or a file's path
print(classify(wave))
```"""
