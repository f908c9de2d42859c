"""The structure of backbones: finding norms and positions, and running a backbone on embeddings.

Norms are found by module class and positions by a table of paths, never by a substring of a parameter's name: the
original code's `'ln' in name` finds no norm in BERT, Llama or ViT.

Unverified: families beyond those that the tests run (GPT-2, openai-gpt, BERT, RoBERTa, DistilBERT, ALBERT, T5,
Longformer, OPT, GPT-NeoX, Llama, Qwen3, Gemma, ModernBERT, and the image families of images.py) follow the same rules
but may differ.
"""

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput

from ..torch_utils.plain_names import named_modules, named_parameters
from .images import IMAGE_FAMILIES
from .native import NOT_TEXT, OWN_POSITIONS
from .places import layer_lists


@dataclass(frozen=True)
class PositionTable:
    """Where a family keeps its learned absolute positions: the module's path, and the row of the first token."""

    path: str
    first_row: int | Literal["after padding"] = 0  # "after padding": rows up to the padding index are no positions
    explicit_ids: bool = False  # whether the backbone must be told the positions (Longformer pads its input)


POSITION_TABLES = {
    "albert": PositionTable("embeddings.position_embeddings"),
    "bart": PositionTable("embed_positions", first_row=2),
    "bert": PositionTable("embeddings.position_embeddings"),
    "camembert": PositionTable("embeddings.position_embeddings", first_row="after padding"),
    "distilbert": PositionTable("embeddings.position_embeddings"),
    "electra": PositionTable("embeddings.position_embeddings"),
    "gpt2": PositionTable("wpe"),
    "gpt_bigcode": PositionTable("wpe"),
    "gpt_neo": PositionTable("wpe"),
    "longformer": PositionTable("embeddings.position_embeddings", first_row="after padding", explicit_ids=True),
    "openai-gpt": PositionTable("positions_embed"),
    "opt": PositionTable("decoder.embed_positions", first_row=2),
    "roberta": PositionTable("embeddings.position_embeddings", first_row="after padding"),
    "xlm-roberta": PositionTable("embeddings.position_embeddings", first_row="after padding"),
}
RELATIVE_POSITIONS = ("mt5", "t5", "umt5")  # learned biases by distance: trained whole, never cut
RELATIVE_POSITIONS_NAME = "relative_attention_bias"
UNUSED_MODULES = {  # no token attends globally here, and sinusoids are not learned
    "longformer": ("query_global", "key_global", "value_global"),
    "whisper": ("embed_positions",),
}
UNUSED_PARAMETERS = ("mask_token", "masked_spec_embed")  # stand for what is hidden from a model in its own pretraining
QK_NORM_NAMES = ("q_norm", "k_norm", "q_layernorm", "k_layernorm", "query_norm", "key_norm")
EIGHT_BITS, FOUR_BITS = "Int8Params", "Params4bit"  # classes of bitsandbytes, which need not be installed
HALF_PRECISION = (torch.bfloat16, torch.float16)
# No token embedding: inputs have the hidden size.
WITHOUT_TOKENS = ("fpt_identity", "fpt_lstm", *IMAGE_FAMILIES, *NOT_TEXT)


def embedding_width(backbone: PreTrainedModel) -> int:
    """Width of the embeddings that the backbone takes (in ALBERT, ELECTRA and OPT it may not be the hidden size).

    Raises ValueError for a backbone that has no token embedding.
    """
    if backbone.config.model_type in WITHOUT_TOKENS:
        return backbone.config.hidden_size
    try:
        embeddings = backbone.get_input_embeddings()
    except NotImplementedError:
        embeddings = None
    if not isinstance(embeddings, nn.Embedding):
        raise ValueError(
            f"{type(backbone).__name__} ({backbone.config.model_type}) cannot be a backbone: it has no token "
            "embedding whose place a projected input could take."
        )
    return embeddings.embedding_dim


def embedding_scale(backbone: PreTrainedModel) -> float:
    """The factor that the family's embedding module applies to a token (Gemma: sqrt(width)); 1.0 for most."""
    if backbone.config.model_type in WITHOUT_TOKENS:
        return 1.0
    return float(getattr(backbone.get_input_embeddings(), "embed_scale", 1.0))


def frozen_dtype(backbone: PreTrainedModel) -> torch.dtype:
    """The dtype of the frozen weights, not counting norms and what trains (fp32); fp32 if there are none."""
    if backbone.config.model_type not in WITHOUT_TOKENS:
        table = backbone.get_input_embeddings().weight
        if not table.requires_grad:  # natively it may train
            return table.dtype
    dtypes = [tensor.dtype for tensor in weights(backbone)]
    return next((dtype for dtype in HALF_PRECISION if dtype in dtypes), torch.float32)


def weights(module: nn.Module) -> Iterator[Tensor]:
    """A module's weights, also in a replica made by `nn.DataParallel`, where they are no parameters."""
    for part in module.modules():
        yield from part.parameters(recurse=False)
        yield from (value for value in vars(part).values() if isinstance(value, Tensor))


def device_of(backbone: PreTrainedModel) -> torch.device:
    """The device of inputs and outputs: the first of several; the CPU for a backbone without parameters."""
    devices = (parameter.device for parameter in backbone.parameters())
    return min(devices, key=lambda device: device.index or 0, default=torch.device("cpu"))


def output_width(config: PreTrainedConfig) -> int:
    """Width of the last hidden states (OPT may project them to another width)."""
    return config.word_embed_proj_dim if config.model_type == "opt" else config.hidden_size


def layer_classes(backbone: PreTrainedModel) -> set[str]:
    """Names of the classes that sharding wraps: those that the family names, else the classes of repeated layers."""
    named = {type(module).__name__ for module in backbone.modules()}.intersection(backbone._no_split_modules or ())
    if named:
        return named
    lists = list(layer_lists(backbone).values())
    inner = {id(module) for outer in lists for layer in outer for module in layer.modules()}
    return {type(layer).__name__ for outer in lists if id(outer) not in inner for layer in outer}


def is_norm(module: nn.Module) -> bool:
    """Whether a module is, by its class, a layer norm or an RMS norm with parameters."""
    name = type(module).__name__
    by_class = isinstance(module, (nn.LayerNorm, nn.RMSNorm)) or "LayerNorm" in name or "RMSNorm" in name
    return by_class and any(True for _ in module.parameters(recurse=False))


def is_quantized(parameter: nn.Parameter) -> bool:
    """Whether a parameter holds a quantised weight."""
    return type(parameter).__name__ in (EIGHT_BITS, FOUR_BITS)


def norm_parameters(backbone: nn.Module, qk_norms: bool) -> list[nn.Parameter]:
    """Parameters of all norms; norms of queries and keys only if `qk_norms`."""
    return [
        parameter
        for name, module in named_modules(backbone).items()
        if is_norm(module) and (qk_norms or name.rpartition(".")[2] not in QK_NORM_NAMES)
        for parameter in module.parameters(recurse=False)
    ]


def position_parameters(backbone: PreTrainedModel) -> list[nn.Parameter]:
    """The backbone's own learned positions: its table or its relative biases; empty if it has none."""
    table = POSITION_TABLES.get(backbone.config.model_type)
    if table is not None:
        return [backbone.get_submodule(table.path).weight]
    if backbone.config.model_type in OWN_POSITIONS:  # there where the backbone reads pictures itself
        name = OWN_POSITIONS[backbone.config.model_type]
        return [parameter for known, parameter in named_parameters(backbone).items() if known == name]
    if backbone.config.model_type in RELATIVE_POSITIONS:
        named = named_modules(backbone).items()
        return [module.weight for name, module in named if name.endswith("." + RELATIVE_POSITIONS_NAME)]
    return []


def unused_parameters(backbone: PreTrainedModel) -> list[nn.Parameter]:
    """Parameters that no input reaches, or that nobody learned."""
    names = UNUSED_MODULES.get(backbone.config.model_type, ())
    modules = [module for name, module in named_modules(backbone).items() if name.rpartition(".")[2] in names]
    named = named_parameters(backbone).items()
    single = [parameter for name, parameter in named if name.rpartition(".")[2] in UNUSED_PARAMETERS]
    return single + [parameter for module in modules for parameter in module.parameters()]


def cut_positions(backbone: PreTrainedModel, num_tokens: int) -> None:
    """Cut the learned position table to the rows that `num_tokens` tokens use, so that no unused row is saved.

    Raises ValueError, with both lengths, if the backbone has fewer positions than that.
    """
    config = backbone.config
    table = POSITION_TABLES.get(config.model_type)
    if table is None:
        limit = getattr(config, "max_position_embeddings", None)
        if config.model_type not in RELATIVE_POSITIONS and limit is not None and num_tokens > limit:
            raise ValueError(_too_long(num_tokens, limit, config))
        return
    module = backbone.get_submodule(table.path)
    first = _first_row(module, table)
    rows = module.weight.shape[0]
    if first + num_tokens > rows:
        raise ValueError(_too_long(num_tokens, rows - first, config))
    module.weight = nn.Parameter(module.weight[: first + num_tokens].clone(), requires_grad=False)
    module.num_embeddings = first + num_tokens


def most_tokens(config: PreTrainedConfig) -> int | None:
    """The most tokens that a backbone of this configuration has positions for; None: nothing limits them."""
    limit = getattr(config, "max_position_embeddings", None)
    if limit is None or config.model_type in RELATIVE_POSITIONS:
        return None
    table = POSITION_TABLES.get(config.model_type)
    padded = table is not None and table.first_row == "after padding"
    return limit - config.pad_token_id - 1 if padded else limit


def _too_long(num_tokens: int, limit: int, config: PreTrainedConfig) -> str:
    return (
        f"The input makes {num_tokens} tokens, but {config.model_type} has positions for {limit}: use larger patches, "
        "a shorter sequence_length, fewer columns, or a backbone with more positions."
    )


def _first_row(module: nn.Embedding, table: PositionTable) -> int:
    return module.padding_idx + 1 if table.first_row == "after padding" else table.first_row


def run_backbone(
    backbone: PreTrainedModel,
    inputs_embeds: Tensor,
    attention_mask: Tensor | None = None,
    output_hidden_states: bool | Sequence[int] = False,
    output_attentions: bool = False,
) -> BaseModelOutput:
    """Run a backbone: embeddings (batch, tokens, embedding width) -> hidden states; see `run_natively`.

    `attention_mask` (batch, tokens) is 1 for a real token and 0 for padding; None means that all are real.
    """
    arguments = {"inputs_embeds": inputs_embeds, "attention_mask": attention_mask}
    table = POSITION_TABLES.get(backbone.config.model_type)
    if table is not None and table.explicit_ids:
        first = _first_row(backbone.get_submodule(table.path), table)
        ids = torch.arange(first, first + inputs_embeds.shape[1], device=inputs_embeds.device)
        arguments["position_ids"] = ids.expand(inputs_embeds.shape[:2])  # (batch, tokens)
    return run_natively(backbone, arguments, output_hidden_states, output_attentions)


def run_natively(
    backbone: PreTrainedModel,
    arguments: Mapping[str, Tensor | None],
    output_hidden_states: bool | Sequence[int] = False,
    output_attentions: bool = False,
) -> BaseModelOutput:
    """What the backbone's own forward takes, by name (the first is a tensor) -> hidden states (batch, tokens, hidden).

    `output_hidden_states`: True to return all, or the numbers of those to return, from 0 (the first layer's input)
    or, negative, from the end; the others are None. Raises ValueError for a number that there is not.
    Half-precision weights run under autocast, so that they can be multiplied with fp32 norms and inputs.
    """
    kwargs: dict[str, Any] = {}
    if output_hidden_states:
        kwargs["output_hidden_states"] = True
    if output_attentions:
        kwargs["output_attentions"] = True
    with _autocast_for(backbone, next(iter(arguments.values())).device.type):
        output = backbone(**arguments, **kwargs)
    if output_hidden_states and output_hidden_states is not True:
        output.hidden_states = _selected(output.hidden_states, output_hidden_states)
    return output


def _selected(states: tuple[Tensor, ...], numbers: Sequence[int]) -> tuple[Tensor | None, ...]:
    for number in numbers:
        if not -len(states) <= number < len(states):
            raise ValueError(
                f"There are {len(states)} hidden states: output_hidden_states takes numbers from 0 to "
                f"{len(states) - 1}, or from the end {-len(states)} to -1; got {number}."
            )
    kept = {number % len(states) for number in numbers}
    return tuple(state if number in kept else None for number, state in enumerate(states))


def _autocast_for(backbone: PreTrainedModel, device_type: str) -> contextlib.AbstractContextManager:
    dtype = frozen_dtype(backbone)
    if dtype not in HALF_PRECISION or torch.is_autocast_enabled(device_type):
        return contextlib.nullcontext()
    return torch.autocast(device_type, dtype=dtype)
