"""Frozen pretrained transformers for transformers: train a delta of a few hundred kB, share it, load it anywhere.

Importing this package registers `FPTConfig` and the models with transformers' Auto classes.
"""

from transformers import (
    AutoConfig,
    AutoFeatureExtractor,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

from .configuration_fpt import PAPER_GROUPS, PARAMETER_GROUPS, FPTConfig
from .delta import DeltaError
from .feature_extraction_fpt import FPTFeatureExtractor
from .freezing import GroupCount, format_table
from .image_processing_fpt import FPTImageProcessor
from .modeling_fpt import (
    FPTForImageClassification,
    FPTForSequenceClassification,
    FPTForTokenClassification,
    FPTModel,
)
from .pretrained import FPTPreTrainedModel
from .training import FPTTrainer, TrainingError
from .version import __version__

AutoConfig.register("fpt", FPTConfig, exist_ok=True)
AutoModel.register(FPTConfig, FPTModel, exist_ok=True)
AutoModelForImageClassification.register(FPTConfig, FPTForImageClassification, exist_ok=True)
AutoModelForSequenceClassification.register(FPTConfig, FPTForSequenceClassification, exist_ok=True)
AutoModelForTokenClassification.register(FPTConfig, FPTForTokenClassification, exist_ok=True)
AutoFeatureExtractor.register(FPTConfig, FPTFeatureExtractor, exist_ok=True)
# As both backends: transformers asks for torchvision's where that is installed, and warns where there is none.
image_processors = {"pil": FPTImageProcessor, "torchvision": FPTImageProcessor}
AutoImageProcessor.register(FPTConfig, image_processor_classes=image_processors, exist_ok=True)

__all__ = [
    "PAPER_GROUPS",
    "PARAMETER_GROUPS",
    "DeltaError",
    "FPTConfig",
    "FPTFeatureExtractor",
    "FPTForImageClassification",
    "FPTForSequenceClassification",
    "FPTForTokenClassification",
    "FPTImageProcessor",
    "FPTModel",
    "FPTPreTrainedModel",
    "FPTTrainer",
    "GroupCount",
    "TrainingError",
    "__version__",
    "format_table",
]
