"""Where transformers' Auto classes find this library's classes in the code that is saved with a model."""

from typing import Any

AUTO_MAP = {
    "AutoConfig": "configuration_fpt.FPTConfig",
    "AutoModel": "modeling_fpt.FPTModel",
    "AutoModelForSequenceClassification": "modeling_fpt.FPTForSequenceClassification",
    "AutoModelForTokenClassification": "modeling_fpt.FPTForTokenClassification",
}
OF_MODALITY = {
    "image": {"AutoModelForImageClassification": "modeling_fpt.FPTForImageClassification"},
    "audio": {"AutoModelForAudioClassification": "modeling_fpt.FPTForAudioClassification"},
}
FORECASTS = {"AutoModelForTimeSeriesPrediction": "modeling_fpt.FPTForTimeSeriesPrediction"}
PROCESSORS = {  # class named in preprocessor_config.json -> its auto_map
    "FPTImageProcessor": {"AutoImageProcessor": "image_processing_fpt.FPTImageProcessor"},
    "FPTAudioFeatureExtractor": {"AutoFeatureExtractor": "audio_feature_extraction_fpt.FPTAudioFeatureExtractor"},
    "FPTTableProcessor": {"AutoFeatureExtractor": "table_processing_fpt.FPTTableProcessor"},
    "FPTTimeSeriesProcessor": {"AutoFeatureExtractor": "time_series_processing_fpt.FPTTimeSeriesProcessor"},
    "FPTFeatureExtractor": {"AutoFeatureExtractor": "feature_extraction_fpt.FPTFeatureExtractor"},
}


def auto_map(config: Any) -> dict[str, str]:
    """The Auto classes of a model of `config`: those of images, sound and forecasts only where it may be one."""
    more = OF_MODALITY.get(config.input.modality, {})
    return AUTO_MAP | more | (FORECASTS if config.input_type == "windows" else {})
