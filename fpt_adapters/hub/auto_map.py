"""Where transformers' Auto classes find the classes of this library, in the code that travels with a model."""

AUTO_MAP = {
    "AutoConfig": "configuration_fpt.FPTConfig",
    "AutoModel": "modeling_fpt.FPTModel",
    "AutoModelForImageClassification": "modeling_fpt.FPTForImageClassification",
    "AutoModelForSequenceClassification": "modeling_fpt.FPTForSequenceClassification",
    "AutoModelForTokenClassification": "modeling_fpt.FPTForTokenClassification",
}
PROCESSORS = {  # by the class that a preprocessor_config.json names
    "FPTImageProcessor": {"AutoImageProcessor": "image_processing_fpt.FPTImageProcessor"},
    "FPTTableProcessor": {"AutoFeatureExtractor": "table_processing_fpt.FPTTableProcessor"},
    "FPTFeatureExtractor": {"AutoFeatureExtractor": "feature_extraction_fpt.FPTFeatureExtractor"},
}
