"""Cut a configuration to its first layers, for a backbone that keeps only those."""

from dataclasses import fields

from transformers import PreTrainedConfig

from .config_rules import build_config

# Fields that are lists with one entry per layer.
PER_LAYER_FIELDS = (
    "attention_layers",
    "attention_window",
    "indexer_types",
    "layer_rope_theta",
    "layer_types",
    "layers_block_type",
    "mlp_layer_types",
    "no_rope_layers",
)
# Fields that a configuration computes from its number of layers; some families also save them.
DERIVED_FIELDS = ("out_features", "out_indices", "stage_names")


def first_layers(config: PreTrainedConfig, count: int) -> PreTrainedConfig:
    """Return a copy of `config` for a backbone of only its first `count` layers.

    Raises ValueError where there are fewer layers, or where the first `count` are no backbone of the same kind.
    """
    field = config.attribute_map.get("num_hidden_layers", "num_hidden_layers")
    if field not in {known.name for known in fields(config)}:
        raise ValueError(
            f"backbone_layers={count} keeps the first layers of a backbone, but the configuration of "
            f"{config.model_type} counts none in num_hidden_layers: leave backbone_layers out."
        )
    total = config.num_hidden_layers
    if count > total:
        raise ValueError(f"backbone_layers={count}, but this {config.model_type} has {total} layers: keep fewer.")
    if getattr(config, "num_hidden_groups", 1) > 1:
        raise ValueError(
            f"backbone_layers={count}, but this {config.model_type} spreads num_hidden_groups="
            f"{config.num_hidden_groups} sets of weights over all its layers, so that only the first ones would be "
            "others: leave backbone_layers out."
        )
    values = {name: value for name, value in config.to_dict().items() if name not in DERIVED_FIELDS}
    for name in PER_LAYER_FIELDS:
        if isinstance(values.get(name), list) and len(values[name]) == total:
            values[name] = values[name][:count]
    values[field] = count
    return build_config(values, type(config))
