"""Frozen pretrained transformers for transformers: train a delta of a few hundred kB, share it, load it anywhere.

Importing this package registers `FPTConfig` and the models with transformers' Auto classes. The training part is
imported on first use: transformers' Trainer imports `datasets`, which a loaded model does not need.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoModel,
    AutoModelForAudioClassification,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTimeSeriesPrediction,
    AutoModelForTokenClassification,
)
from transformers.models.auto.image_processing_auto import AutoImageProcessor  # 5.5: the top name needs torchvision
from transformers.models.auto.video_processing_auto import AutoVideoProcessor

from .backbones.baselines.configuration_identity import IdentityConfig
from .backbones.baselines.configuration_lstm import LSTMConfig
from .backbones.baselines.modeling_identity import IdentityModel
from .backbones.baselines.modeling_lstm import LSTMModel
from .backbones.counting import GroupCount, format_table
from .configuration_fpt import FPTConfig
from .deltas.errors import DeltaError
from .deltas.writing import update_config
from .hub.card import FPTCard
from .hub.finding import DeltaSummary, find_deltas, format_deltas
from .inputs.audio_feature_extraction_fpt import FPTAudioFeatureExtractor
from .inputs.feature_extraction_fpt import FPTFeatureExtractor
from .inputs.image_processing_fpt import FPTImageProcessor
from .inputs.table_processing_fpt import FPTTableProcessor
from .inputs.time_series_processing_fpt import FPTTimeSeriesProcessor
from .modeling_fpt import (
    FPTForAudioClassification,
    FPTForImageClassification,
    FPTForSequenceClassification,
    FPTForTimeSeriesPrediction,
    FPTForTokenClassification,
    FPTModel,
)
from .models.frozen_base import FrozenBase
from .models.pretrained import FPTPreTrainedModel
from .rules.policy_rules import PAPER_GROUPS, PARAMETER_GROUPS
from .version import __version__

if TYPE_CHECKING:
    from .data.tokenizers import native_tokenizer
    from .estimators.classifier import FPTClassifier
    from .estimators.forecaster import FPTForecaster
    from .estimators.regressor import FPTRegressor
    from .inference.pipeline import FPTPipeline, pipeline
    from .inputs.vocabulary import symbol_tokenizer
    from .training.cached_features import cache_features
    from .training.guards import TrainingError
    from .training.trainer import FPTTrainer

AutoConfig.register("fpt", FPTConfig, exist_ok=True)
AutoModel.register(FPTConfig, FPTModel, exist_ok=True)
AutoModelForAudioClassification.register(FPTConfig, FPTForAudioClassification, exist_ok=True)
AutoModelForImageClassification.register(FPTConfig, FPTForImageClassification, exist_ok=True)
AutoModelForSequenceClassification.register(FPTConfig, FPTForSequenceClassification, exist_ok=True)
AutoModelForTimeSeriesPrediction.register(FPTConfig, FPTForTimeSeriesPrediction, exist_ok=True)
AutoModelForTokenClassification.register(FPTConfig, FPTForTokenClassification, exist_ok=True)
AutoFeatureExtractor.register(FPTConfig, FPTFeatureExtractor, exist_ok=True)
# A config class has one; any other is found by the name in its file, so that what it is registered for is never asked.
AutoFeatureExtractor.register(FPTAudioFeatureExtractor, FPTAudioFeatureExtractor, exist_ok=True)
AutoFeatureExtractor.register(FPTTableProcessor, FPTTableProcessor, exist_ok=True)
AutoFeatureExtractor.register(FPTTimeSeriesProcessor, FPTTimeSeriesProcessor, exist_ok=True)
# As both backends: transformers asks for torchvision's where that is installed, and warns where there is none.
AutoImageProcessor.register(
    FPTConfig, image_processor_classes={"pil": FPTImageProcessor, "torchvision": FPTImageProcessor}, exist_ok=True
)


class FPTVideoProcessor:
    """A placeholder: FPT models have no video processor. transformers looks this name up beside `FPTImageProcessor`.

    Without it, an image pipeline takes the code in a model's repo for a video processor's, and asks whether to run it.
    """

    @classmethod
    def from_pretrained(cls, pretrained_model_name_or_path: str, *args: Any, **kwargs: Any) -> None:
        """Always raise ValueError."""
        raise ValueError(f"{pretrained_model_name_or_path} takes no videos: load its AutoImageProcessor.")


AutoVideoProcessor.register(FPTConfig, FPTVideoProcessor, exist_ok=True)

__all__ = [
    "PAPER_GROUPS",
    "PARAMETER_GROUPS",
    "DeltaError",
    "DeltaSummary",
    "FPTAudioFeatureExtractor",
    "FPTCard",
    "FPTClassifier",
    "FPTConfig",
    "FPTFeatureExtractor",
    "FPTForAudioClassification",
    "FPTForImageClassification",
    "FPTForSequenceClassification",
    "FPTForTimeSeriesPrediction",
    "FPTForTokenClassification",
    "FPTForecaster",
    "FPTImageProcessor",
    "FPTModel",
    "FPTPipeline",
    "FPTPreTrainedModel",
    "FPTRegressor",
    "FPTTableProcessor",
    "FPTTimeSeriesProcessor",
    "FPTTrainer",
    "FrozenBase",
    "GroupCount",
    "IdentityConfig",
    "IdentityModel",
    "LSTMConfig",
    "LSTMModel",
    "TrainingError",
    "__version__",
    "cache_features",
    "find_deltas",
    "format_deltas",
    "format_table",
    "native_tokenizer",
    "pipeline",
    "symbol_tokenizer",
    "update_config",
]

_LATER = {  # where each is that is imported when it is first asked for
    "FPTClassifier": "estimators.classifier",
    "FPTPipeline": "inference.pipeline",
    "FPTForecaster": "estimators.forecaster",
    "FPTRegressor": "estimators.regressor",
    "pipeline": "inference.pipeline",
    "native_tokenizer": "data.tokenizers",
    "symbol_tokenizer": "inputs.vocabulary",
    "FPTTrainer": "training.trainer",
    "TrainingError": "training.guards",
    "cache_features": "training.cached_features",
}


def __getattr__(name: str) -> Any:
    if name not in _LATER:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_LATER[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LATER})
