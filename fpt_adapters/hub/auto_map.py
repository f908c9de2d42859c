"""Where transformers' Auto classes find this library's classes in the code that is saved with a model."""

AUTO_MAP = {
    "AutoConfig": "configuration_fpt.FPTConfig",
    "AutoModel": "modeling_fpt.FPTModel",
    "AutoModelForAudioClassification": "modeling_fpt.FPTForAudioClassification",
    "AutoModelForImageClassification": "modeling_fpt.FPTForImageClassification",
    "AutoModelForSequenceClassification": "modeling_fpt.FPTForSequenceClassification",
    "AutoModelForTimeSeriesPrediction": "modeling_fpt.FPTForTimeSeriesPrediction",
    "AutoModelForTokenClassification": "modeling_fpt.FPTForTokenClassification",
}
PROCESSORS = {  # class named in preprocessor_config.json -> its auto_map
    "FPTImageProcessor": {"AutoImageProcessor": "image_processing_fpt.FPTImageProcessor"},
    "FPTAudioFeatureExtractor": {"AutoFeatureExtractor": "audio_feature_extraction_fpt.FPTAudioFeatureExtractor"},
    "FPTTableProcessor": {"AutoFeatureExtractor": "table_processing_fpt.FPTTableProcessor"},
    "FPTTimeSeriesProcessor": {"AutoFeatureExtractor": "time_series_processing_fpt.FPTTimeSeriesProcessor"},
    "FPTFeatureExtractor": {"AutoFeatureExtractor": "feature_extraction_fpt.FPTFeatureExtractor"},
}
