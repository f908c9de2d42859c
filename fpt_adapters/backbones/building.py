"""Building a backbone: pretrained, random or statistics-only weights."""

import copy
import inspect
import os
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import (
    MODEL_FOR_TEXT_ENCODING_MAPPING,
    MODEL_MAPPING,
    PreTrainedConfig,
    PreTrainedModel,
)
from transformers import __version__ as VERSION
from transformers.utils import CONFIG_NAME

from ..rules.config_rules import build_config, refusing_unfit
from ..rules.limits import NoLargerThan
from ..rules.ranges import differing_integers, short
from ..rules.travelling import TRAVELS
from ..torch_utils.sharding import whole_in_each_process
from .baselines.modeling_identity import IdentityModel  # noqa: F401  registers itself with AutoModel
from .baselines.modeling_lstm import LSTMModel  # noqa: F401
from .cpu.activations import replace_gelu
from .cpu.attention import choose_attention
from .cpu.dropout import replace_dropout
from .device_maps import DeviceMap
from .fingerprints import fingerprints
from .images import IMAGE_FAMILIES
from .native import DRAWN, NOT_TEXT
from .precision import cast_frozen, take_fp32
from .stored_weights import NO_LIMIT, read_weights
from .structure import embedding_width, frozen_dtype

DROPOUT_FIELDS = (
    "activation_dropout",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_pdrop",
    "dropout",
    "dropout_rate",
    "embd_pdrop",
    "embedding_dropout",
    "feat_proj_dropout",
    "hidden_dropout",
    "hidden_dropout_prob",
    "mlp_dropout",
    "resid_pdrop",
)
BUILT_PER_STORED = 4  # tied weights are stored once and built twice, and half precision may be loaded as fp32
UNSTORED = 2**28  # bytes that no file holds: a pooler, masks and rotary tables


@whole_in_each_process()
def build_backbone(
    base_config: PreTrainedConfig,
    folder: Path | None,
    *,
    init: str,
    seed: int,
    scheme: str | None,
    layers: int | None = None,
    dropout: float | None,
    dtype: torch.dtype | None,
    attn_implementation: str | None,
    quantization: dict[str, Any] | None = None,
    device_map: DeviceMap | None = None,
    source: str | None = None,
    native: bool = False,
) -> tuple[PreTrainedModel, dict[str, str]]:
    """Build a backbone, frozen and in eval mode; returns it with its fingerprints, by kind.

    `folder` has the checkpoint that is read for `init` "pretrained" and "statistics"; messages call it `source`.
    `seed` and `scheme` are for "random" and "statistics". `layers`: build, and read, only this many first layers
    (None: all). `dtype`: the dtype of the frozen weights (None: as stored); norms and positions keep their stored
    values in fp32, which autocast needs. `quantization` (as `checked_quantization` returns it) and `device_map`:
    weights are quantised and go to their devices while they are loaded. `native`: the backbone reads raw inputs
    itself, and keeps what embeds them. The fingerprints are those of the stored weights, whatever `dtype` and
    `quantization` are: the files are mapped into memory, and a page or two of each tensor is read.

    Raises ValueError for a model that cannot be a backbone, or whose weights are incomplete.
    """
    config = _configured(base_config, layers, dropout, native)
    config._attn_implementation = attn_implementation
    model_class = backbone_class(config, native)
    if init == "random":
        from .random_weights import draw_random

        whole = draw_random(model_class, config, seed, scheme or default_init_scheme(config, init))
    else:
        whole = _pretrained(model_class, base_config, config, folder, source or os.fspath(folder))
        if init == "statistics":
            from .random_weights import draw_from_statistics

            draw_from_statistics(whole, seed)
    stored = backbone = _without_unused(whole, native)
    if not TRAVELS:
        _refuse_undrivable(type(backbone), backbone.config, native)
    embedding_width(backbone)
    found = fingerprints(backbone)
    if quantization is None and device_map is None:
        cast_frozen(backbone, dtype)
    else:
        from .device_maps import checkpoint_of, load_placed

        with checkpoint_of(folder if init == "pretrained" else whole) as checkpoint:
            dtype = dtype or frozen_dtype(stored)
            whole = load_placed(model_class, checkpoint, config, dtype, quantization, device_map)
        backbone = _without_unused(whole, native)
    take_fp32(backbone, stored)
    if attn_implementation is None:
        choose_attention(backbone)
    replace_dropout(backbone)
    replace_gelu(backbone)
    return backbone.requires_grad_(False).eval(), found


def _configured(
    base_config: PreTrainedConfig, layers: int | None, dropout: float | None, native: bool = False
) -> PreTrainedConfig:
    """A copy of the base's configuration; `layers` keeps only the first layers, `dropout` replaces every dropout."""
    config = copy.deepcopy(base_config)
    if layers is not None:
        from ..rules.depth import first_layers

        config = first_layers(base_config, layers)
    if "use_cache" in config:
        config.use_cache = False
    for field in DROPOUT_FIELDS if dropout is not None else ():
        if field in config:
            setattr(config, field, dropout)
    for field, value in DRAWN.items() if native else ():
        if field in config:
            setattr(config, field, value)
    return config


def backbone_without_weights(
    base_config: PreTrainedConfig, layers: int | None, dropout: float | None, native: bool = False
) -> nn.Module:
    """The modules that `build_backbone` would build, without values (on the meta device)."""
    config = _configured(base_config, layers, dropout, native)
    with torch.device("meta"):
        backbone = _without_unused(backbone_class(config, native)(config), native)
    replace_dropout(backbone)
    return backbone


def backbone_class(config: PreTrainedConfig, native: bool = False) -> type[PreTrainedModel]:
    """The class that AutoModel chooses for `config`; for a T5-like model, the class of its encoder.

    Raises ValueError for a model that cannot be a backbone; `native`: one that reads raw inputs itself.
    """
    mapping = MODEL_MAPPING
    if config.is_encoder_decoder and type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING:
        mapping = MODEL_FOR_TEXT_ENCODING_MAPPING
    if type(config) not in mapping:
        raise ValueError(f"A backbone is a transformers AutoModel; model_type {config.model_type!r} has none.")
    found = mapping[type(config)]
    model_class = found[0] if isinstance(found, tuple) else found
    if not TRAVELS:
        _refuse_undrivable(model_class, config, native)
    return model_class


def default_init_scheme(config: PreTrainedConfig, init: str) -> str | None:
    """The name of the default random initialisation for `config`'s family; None unless `init` is "random".

    GPT-2's is "gpt2-scaled-residual": residual projections with std 0.02/sqrt(2 layers). The paper's runs are older
    than that: "gpt2-flat" has 0.02 everywhere. Other families: "transformers".
    """
    if init != "random":
        return None
    return "gpt2-scaled-residual" if config.model_type == "gpt2" else "transformers"


def _pretrained(
    model_class: type[PreTrainedModel],
    base_config: PreTrainedConfig,
    config: PreTrainedConfig,
    folder: Path,
    source: str,
) -> PreTrainedModel:
    """Read the weights in `folder`. `base_config`: of the whole base; `config`: of the part to build."""
    limit = NO_LIMIT
    if not TRAVELS:
        own, _ = PreTrainedConfig.get_config_dict(folder / CONFIG_NAME)
        own = build_config(own.get(config.base_config_key, own), type(config))
        check_same_architecture(base_config, own, source)
        stored = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
        limit = NoLargerThan(BUILT_PER_STORED * stored + UNSTORED, "its weights can be")
    with refusing_unfit(model_class):
        backbone, info = read_weights(model_class, folder, config, "auto", limit, output_loading_info=True)
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if "masked_spec_embed" in missing:  # which fine-tuned checkpoints of waves lack, and nothing here reads
        missing.remove("masked_spec_embed")
        nn.init.zeros_(backbone.masked_spec_embed)
    if missing or info["mismatched_keys"]:
        what = missing or sorted(str(key) for key in info["mismatched_keys"])
        raise ValueError(
            f"The weights of {source!r} cannot fill a {type(backbone).__name__}: {len(what)} tensors missing "
            f"or misshapen, the first is {what[0]}. Give the checkpoint that base_model_config belongs to."
        )
    return backbone


def check_same_architecture(nested: PreTrainedConfig, own: PreTrainedConfig, source: str) -> None:
    """Raise ValueError if an integer in `nested` differs from `own`, the configuration beside the base's weights.

    Integers are sizes, and numbers of heads, which change what the same weights compute.
    """
    for name, one, other in differing_integers(nested.to_dict(), own.to_dict()):
        raise ValueError(
            f"base_model_config has {name}={short(one)}, but the {CONFIG_NAME} of the base {source!r} has "
            f"{short(other)}: it belongs to another base, or was altered. "
            "Give the base of the delta, which base_model in its config.json names if it was on the Hub; or, to build "
            "on this one, leave base_model_config out."
        )


def _without_unused(backbone: PreTrainedModel, native: bool) -> PreTrainedModel:
    """Keep what makes hidden states: an encoder-decoder's encoder, no pooler; of pictures' models, the layers alone.

    `native`: of raw inputs, which a pictures' model embeds itself.
    """
    if backbone.config.model_type in IMAGE_FAMILIES and not native:
        from .images import ImageEncoder

        return ImageEncoder(backbone)
    if backbone.config.is_encoder_decoder and "decoder_input_ids" in inspect.signature(backbone.forward).parameters:
        backbone = backbone.get_encoder()
    if isinstance(getattr(backbone, "pooler", None), nn.Module):
        backbone.pooler = None
    return backbone


def _natively(config: PreTrainedConfig) -> str:
    return "; or write input_type='native', for what it was made to read" if config.model_type in NOT_TEXT else ""


def _refuse_undrivable(model_class: type, config: PreTrainedConfig, native: bool) -> None:
    accepted = inspect.signature(model_class.forward).parameters
    if native:
        if config.model_type not in NOT_TEXT and not {"input_ids", "inputs_embeds"} <= accepted.keys():
            raise ValueError(
                f"{model_class.__name__} ({config.model_type}) cannot read its own inputs here: input_type='native' "
                f"is for text models such as GPT-2 or BERT, and for {', '.join(NOT_TEXT)}. Choose one of these."
            )
        if getattr(config, "add_adapter", False):
            raise ValueError(
                f"{model_class.__name__} ({config.model_type}) has layers behind its transformer (add_adapter), which "
                "shorten its hidden states: choose a base without them."
            )
    elif config.model_type in IMAGE_FAMILIES:
        if "attention_mask" not in accepted:
            raise ValueError(
                f"{model_class.__name__} ({config.model_type}) cannot be a backbone with transformers {VERSION}: its "
                "layers take no mask for padding before 5.9 (DINOv2: 5.18). Upgrade transformers."
            )
    elif "inputs_embeds" not in accepted:
        raise ValueError(
            f"{model_class.__name__} ({config.model_type}) cannot be a backbone: its forward takes no inputs_embeds, "
            "so projected inputs cannot enter it. Choose a text model such as GPT-2 or BERT, or of image models "
            f"{', '.join(IMAGE_FAMILIES)}{_natively(config)}."
        )
    if not isinstance(getattr(config, "hidden_size", None), int):
        raise ValueError(
            f"{model_class.__name__} ({config.model_type}) cannot be a backbone: its configuration has no hidden_size "
            "of its own, as where several models are in one. Save its text model (AutoModel.from_pretrained(...)"
            ".language_model.save_pretrained(folder)), and give that folder."
        )
