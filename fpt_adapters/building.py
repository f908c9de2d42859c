"""Building a backbone: pretrained, random or statistics-only weights."""

import copy
import inspect
import math
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
from transformers.utils import CONFIG_NAME, find_adapter_config_file

from .activations import replace_gelu
from .attention import choose_attention
from .backbones import embedding_width, frozen_dtype, is_causal, position_parameters
from .configuration_fpt import FPTConfig
from .depth import first_layers
from .dropout import replace_dropout
from .fetching import fetch_base
from .fingerprints import fingerprint
from .image_backbones import IMAGE_FAMILIES, ImageEncoder
from .isolation import DefaultDtype, DrawsFrom
from .limits import MEMORY, NoLargerThan
from .modeling_identity import IdentityModel  # noqa: F401  registers itself with AutoModel
from .modeling_lstm import LSTMModel  # noqa: F401
from .placing import DeviceMap, checkpoint_of, load_placed, refuse_meta
from .precision import cast_frozen, take_fp32
from .sharding import whole_in_each_process
from .stored_weights import INITIALISING, read_weights
from .untrusted import build_config, differing_integers, short

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
DROPOUT_FIELDS = (
    "activation_dropout",
    "attention_dropout",
    "attention_probs_dropout_prob",
    "attn_pdrop",
    "dropout",
    "dropout_rate",
    "embd_pdrop",
    "embedding_dropout",
    "hidden_dropout",
    "hidden_dropout_prob",
    "mlp_dropout",
    "resid_pdrop",
)
BUILT_PER_STORED = 4  # tied weights are stored once and built twice, and half precision may be asked for as fp32
UNSTORED = 2**28  # bytes beside that: a pooler, masks and rotary tables


def build_from_config(
    config: FPTConfig,
    source: str | None,
    dtype,
    attn_implementation,
    hub_kwargs,
    device_map: DeviceMap | None = None,
    peft_config=None,
) -> PreTrainedModel:
    """Build the backbone and write what was found of it (fingerprint, scheme, dtype, defaults) into `config`.

    `attn_implementation`: which attention runs in it (None: the one that `config` names, as its caller may have it do,
    or else the fastest); afterwards `config` names the one that does.
    `peft_config`: the adapter to put on it, in any form that `from_backbone` takes (None: the config's, if any).
    Raises ValueError for another dtype, a config without a backbone's, new modules larger than the memory, and what
    `build_backbone` and `add_adapter` refuse; OSError as `build_backbone`; RuntimeError on the meta device.
    """
    refuse_meta()
    dtype = config.dtype if dtype in (None, "auto") else DTYPES.get(dtype, dtype)
    if dtype is not None and dtype not in DTYPES.values():
        raise ValueError(f"dtype is one of {', '.join(DTYPES)}; got {dtype!r}.")
    base_config = config.base_model_config
    if base_config is None:
        raise ValueError("FPTConfig needs base_model_config, the backbone's own configuration.")
    if attn_implementation is not None:
        config._attn_implementation = attn_implementation
    scheme = config.backbone_init_scheme or default_init_scheme(base_config, config.backbone_init)
    backbone, config.base_model_fingerprint = build_backbone(
        base_config,
        source,
        init=config.backbone_init,
        seed=config.backbone_init_seed,
        scheme=scheme,
        layers=config.backbone_layers,
        dropout=config.backbone_dropout,
        dtype=dtype,
        attn_implementation=base_config._attn_implementation or config._attn_implementation,
        hub_kwargs=hub_kwargs,
        quantization=config.base_quantization,
        device_map=device_map,
    )
    peft_config = config.peft_config if peft_config is None else peft_config
    if peft_config is not None:
        from .adapters import add_adapter  # importing peft takes long

        config.peft_config = add_adapter(backbone, peft_config)
        config.check()
    config.backbone_init_scheme = scheme
    config._attn_implementation = backbone.config._attn_implementation
    config.dtype = frozen_dtype(backbone) if config.base_quantization is None else backbone.config.dtype
    new = config.token_size + config.num_tokens + config.labels_per_token * (config.num_labels or 1)
    if 4 * new * embedding_width(backbone) > MEMORY:
        raise ValueError("The new modules are larger than this machine's memory: write smaller sizes or fewer labels.")
    if config.positions == "auto":
        config.positions = "backbone" if position_parameters(backbone) else "new"
    if config.pooling == "auto":
        with DefaultDtype(torch.float32):  # in which frozen weights and new ones may meet
            config.pooling = "last" if is_causal(backbone) else "mean"
    return backbone


@whole_in_each_process()
def build_backbone(
    base_config: PreTrainedConfig,
    name_or_path: str | None,
    *,
    init: str,
    seed: int,
    scheme: str | None,
    layers: int | None = None,
    dropout: float | None,
    dtype: torch.dtype | None,
    attn_implementation: str | None,
    hub_kwargs: dict[str, Any],
    quantization: dict[str, Any] | None = None,
    device_map: DeviceMap | None = None,
) -> tuple[PreTrainedModel, str]:
    """Build a backbone, frozen and in eval mode, and its fingerprint.

    `name_or_path` and `hub_kwargs` (revision, token, cache_dir ...) are read for `init` "pretrained" and
    "statistics"; `seed` and `scheme` for "random" and "statistics". `layers`: build the first ones alone (None: all);
    of a checkpoint, only their weights are read. `dtype` is the dtype to keep the frozen weights in (None: as
    stored); norms and positions keep their stored values, in fp32, as autocast wants them. `quantization` (settings as
    `checked_settings` returns them) and `device_map`: weights go to their devices, and are quantised, as they are
    loaded. The fingerprint is that of the weights as stored, so that one serves them all: their files are mapped into
    memory, and taking it reads a page or two of each tensor.

    Raises ValueError for a backbone that cannot serve, or whose weights are incomplete; OSError where transformers
    cannot find it.
    """
    config = copy.deepcopy(base_config) if layers is None else first_layers(base_config, layers)
    if "use_cache" in config:
        config.use_cache = False
    if dropout is not None:
        for field in DROPOUT_FIELDS:
            if field in config:
                setattr(config, field, dropout)
    config._attn_implementation = attn_implementation
    model_class = _model_class(config)
    _refuse_undrivable(model_class, config)
    folder = None if init == "random" else _fetch_base(name_or_path, hub_kwargs)
    if init == "random":
        with torch.device("meta"), NoLargerThan(MEMORY, "this machine's memory"):
            model_class(copy.deepcopy(config))
        whole = _random(model_class, config, seed, scheme)
    else:
        whole = _pretrained(model_class, base_config, config, folder, name_or_path)
        if init == "statistics":
            _draw_from_statistics(whole, seed)
    stored = backbone = _without_unused(whole)
    _refuse_undrivable(type(backbone), backbone.config)
    embedding_width(backbone)
    digest = fingerprint(backbone)
    if quantization is None and device_map is None:
        cast_frozen(backbone, dtype)
    else:
        with checkpoint_of(folder if init == "pretrained" else whole) as source:
            dtype = dtype or frozen_dtype(stored)
            whole = load_placed(model_class, source, config, dtype, quantization, device_map)
        backbone = _without_unused(whole)
    take_fp32(backbone, stored)
    if attn_implementation is None:
        choose_attention(backbone)
    replace_dropout(backbone)
    replace_gelu(backbone)
    return backbone.requires_grad_(False).eval(), digest


def _model_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The class that AutoModel chooses for `config`; of a T5-like model, the encoder's own."""
    mapping = MODEL_MAPPING
    if config.is_encoder_decoder and type(config) in MODEL_FOR_TEXT_ENCODING_MAPPING:
        mapping = MODEL_FOR_TEXT_ENCODING_MAPPING
    if type(config) not in mapping:
        raise ValueError(f"A backbone is a transformers AutoModel; model_type {config.model_type!r} has none.")
    found = mapping[type(config)]
    return found[0] if isinstance(found, tuple) else found


def _random(
    model_class: type[PreTrainedModel], config: PreTrainedConfig, seed: int, scheme: str | None
) -> PreTrainedModel:
    scheme, config = scheme or default_init_scheme(config, "random"), copy.deepcopy(config)
    config.dtype = torch.float32
    with torch.device("cpu"), DrawsFrom(seed), DefaultDtype(torch.float32), INITIALISING:  # whose numbers others get
        backbone = model_class(config)
        if scheme in ("gpt2-scaled-residual", "gpt2-flat"):  # not left to transformers, whose versions differ
            std = config.initializer_range
            if scheme == "gpt2-scaled-residual":
                std /= math.sqrt(2 * config.n_layer)
            for block in backbone.h:
                for projection in (block.attn.c_proj, block.mlp.c_proj):
                    nn.init.normal_(projection.weight, std=std)
    return backbone


def default_init_scheme(config: PreTrainedConfig, init: str) -> str | None:
    """The name of the random initialisation that `config`'s model class draws from; None for pretrained weights.

    GPT-2's is "gpt2-scaled-residual": residual projections with std 0.02/sqrt(2 layers). The paper's runs predate
    it: "gpt2-flat" has 0.02 everywhere. Other families: "transformers".
    """
    if init != "random":
        return None
    return "gpt2-scaled-residual" if config.model_type == "gpt2" else "transformers"


def _fetch_base(name_or_path: str, hub_kwargs: dict[str, Any]) -> Path:
    """As `fetch_base`. Raises ValueError for a source that holds a peft adapter too, which changes its weights."""
    adapter = find_adapter_config_file(name_or_path, **hub_kwargs)
    if adapter is not None:
        raise ValueError(
            f"{name_or_path!r} holds a peft adapter ({os.path.basename(adapter)}), and a backbone is the weights of "
            "one model: merge it (PeftModel.merge_and_unload) and give what save_pretrained writes then, or give the "
            "adapter's base."
        )
    return fetch_base(name_or_path, **hub_kwargs)


def _pretrained(
    model_class: type[PreTrainedModel],
    base_config: PreTrainedConfig,
    config: PreTrainedConfig,
    folder: Path,
    name_or_path: str,
) -> PreTrainedModel:
    """`base_config` is the whole base's, `config` that of what is built of it; `name_or_path`: for messages."""
    own, _ = PreTrainedConfig.get_config_dict(folder / CONFIG_NAME)
    own = build_config(own.get(config.base_config_key, own), type(config))
    check_same_architecture(base_config, own, name_or_path)

    stored = sum(file.stat().st_size for file in folder.rglob("*.safetensors"))
    limit = NoLargerThan(BUILT_PER_STORED * stored + UNSTORED, "its weights can be")
    backbone, info = read_weights(model_class, folder, config, "auto", limit, output_loading_info=True)
    missing = sorted(key for key in info["missing_keys"] if not key.startswith("pooler."))
    if missing or info["mismatched_keys"]:
        what = missing or sorted(str(key) for key in info["mismatched_keys"])
        raise ValueError(
            f"The weights of {name_or_path!r} cannot fill a {type(backbone).__name__}: {len(what)} tensors missing "
            f"or misshapen, the first is {what[0]}. Give the checkpoint that base_model_config belongs to."
        )
    return backbone


def check_same_architecture(nested: PreTrainedConfig, own: PreTrainedConfig, source: str) -> None:
    """Raise ValueError where an integer of `nested` is not that of `own`, the configuration beside the base's weights.

    Sizes are integers, and so are numbers of heads, which change what the same weights compute.
    """
    for name, one, other in differing_integers(nested.to_dict(), own.to_dict()):
        raise ValueError(
            f"base_model_config has {name}={short(one)}, but the {CONFIG_NAME} of the base {source!r} has "
            f"{short(other)}: it belongs to another base, or was altered. "
            "Give the base of the delta, which base_model in its config.json names if it was on the Hub; or, to build "
            "on this one, leave base_model_config out."
        )


@torch.no_grad()
def _draw_from_statistics(backbone: nn.Module, seed: int) -> None:
    """Replace every tensor by normal draws with its own mean and standard deviation (the paper's statistics-only)."""
    generator = torch.Generator().manual_seed(seed)
    for parameter in backbone.parameters():
        values = parameter.cpu().float()  # another device sums in another order
        mean, std = values.mean().item(), values.std(unbiased=False).item()
        drawn = torch.empty(values.shape, dtype=torch.float32, device="cpu").normal_(mean, std, generator=generator)
        parameter.copy_(drawn)


def _without_unused(backbone: PreTrainedModel) -> PreTrainedModel:
    """Keep what turns embeddings into hidden states: an encoder-decoder's encoder, an image model's, no pooler."""
    if backbone.config.model_type in IMAGE_FAMILIES:
        return ImageEncoder(backbone)
    if backbone.config.is_encoder_decoder and "decoder_input_ids" in inspect.signature(backbone.forward).parameters:
        backbone = backbone.get_encoder()
    if isinstance(getattr(backbone, "pooler", None), nn.Module):
        backbone.pooler = None
    return backbone


def _refuse_undrivable(model_class: type, config: PreTrainedConfig) -> None:
    accepted = inspect.signature(model_class.forward).parameters
    if config.model_type in IMAGE_FAMILIES:
        if "attention_mask" not in accepted:
            raise ValueError(
                f"{model_class.__name__} ({config.model_type}) cannot be a backbone with transformers {VERSION}: its "
                "layers take no mask for padding before 5.9 (DINOv2: 5.18). Upgrade transformers."
            )
    elif "inputs_embeds" not in accepted:
        raise ValueError(
            f"{model_class.__name__} ({config.model_type}) cannot be a backbone: its forward takes no inputs_embeds, "
            "so projected inputs cannot enter it. Choose a text model such as GPT-2 or BERT, or of image models "
            f"{', '.join(IMAGE_FAMILIES)}."
        )
