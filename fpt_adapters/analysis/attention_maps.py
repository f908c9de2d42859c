"""Attention maps: which tokens each output token attends to, and how much of that attention is on given tokens.

The paper draws them for Bit XOR, where each output token attends to the two bits that it needs (Lu et al., arXiv
2103.05247). `pictures.attention_grid` draws them.
"""

import contextlib
import itertools
from collections.abc import Iterator, Mapping, Sequence
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from ..models.pretrained import FPTPreTrainedModel

# model_type -> why such a backbone has no maps (tokens, tokens).
WITHOUT_MAPS = {
    "fpt_identity": "it has no attention",
    "fpt_lstm": "it has no attention",
    "led": "its attention slides: a row holds the neighbours within a window, not all tokens",
    "longformer": "its attention slides: a row holds the neighbours within a window, not all tokens",
}


@torch.no_grad()
def attention_maps(
    model: FPTPreTrainedModel,
    inputs: Mapping[str, Tensor],
    *,
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
    batch_size: int = 8,
) -> np.ndarray:
    """Attention of each layer and head, averaged over examples: float32 (layers, heads, tokens, tokens).

    Entry [l, h, i, j] is the share (0..1) of its attention that output token i gives to token j; padding gets none. A
    row is averaged over the examples in which its token is real; it is NaN if there is no such example.

    `inputs`: what the model's forward takes, each with the examples as its first axis; `labels` are ignored.
    `layers`, `heads`: numbers, from 0, of those to return (None: all). `batch_size`: examples that run at once.

    The model runs in eval mode and with transformers' eager attention, which returns its weights; both are restored.
    Raises ValueError for a backbone without such maps and for a layer or head that it does not have.
    """
    backbone = model.fpt_model.backbone
    kind = f"{type(backbone).__name__} ({backbone.config.model_type})"
    if backbone.config.model_type in WITHOUT_MAPS:
        raise ValueError(f"{kind} has no attention maps: {WITHOUT_MAPS[backbone.config.model_type]}.")
    total, examples = 0.0, 0.0
    with _eager_evaluation(model):
        for batch in _batches(inputs, batch_size, model.device):
            encoded = model.fpt_model.encode(**batch, output_attentions=True)
            _check_maps(encoded.attentions, encoded.states.shape[1], kind)
            maps = _selected(encoded.attentions, layers, heads)  # (layers, batch, heads, tokens, tokens)
            all_real = maps.new_ones(maps.shape[1], maps.shape[3])  # (batch, tokens)
            real = all_real if encoded.mask is None else encoded.mask.cpu()
            maps = maps.masked_fill(real[:, None, :, None] == 0, 0)
            total = total + maps.sum(dim=1, dtype=torch.float64)  # (layers, heads, tokens, tokens)
            examples = examples + real.sum(dim=0, dtype=torch.float64)  # (tokens,)
    return (total / examples[:, None]).float().numpy()


def attention_mass(attention: np.ndarray, targets: np.ndarray) -> np.ndarray:
    """The share of each output token's attention that is on its target tokens: (..., tokens), 0..1.

    `attention` is (..., tokens, tokens), `targets` boolean (tokens, tokens), with an output token in each row.
    Pass `uniform_attention(...)` as `attention` for the share to compare with. Raises ValueError for other shapes or
    a mask that is not boolean.
    """
    targets = np.asarray(targets)
    if targets.dtype != bool or targets.shape != attention.shape[-2:]:
        raise ValueError(
            f"targets is a boolean mask of attention's last two axes, {attention.shape[-2:]}; got {targets.dtype} "
            f"{targets.shape}."
        )
    return (attention * targets).sum(axis=-1)


def uniform_attention(num_tokens: int, causal: bool) -> np.ndarray:
    """Attention that prefers no token: (tokens, tokens), with equal shares for all tokens that a token sees.

    `causal`: whether a token sees only itself and those before it (`causality.is_causal` measures it).
    """
    visible = np.tri(num_tokens) if causal else np.ones((num_tokens, num_tokens))
    return visible / visible.sum(axis=1, keepdims=True)


def attention_panels(
    attention: np.ndarray,
    average: Literal["none", "heads", "all"] = "none",
    layers: Sequence[int] | None = None,
    heads: Sequence[int] | None = None,
) -> dict[str, np.ndarray]:
    """Split maps (layers, heads, tokens, tokens) into panels of a picture: title -> (tokens, tokens).

    `average`: a map for each layer and head ("none"), for each layer ("heads"), or one ("all"). `layers` and `heads`:
    the numbers of those in `attention` (None: all from 0). Raises ValueError for another `average`.
    """
    layers = list(range(attention.shape[0])) if layers is None else list(layers)
    heads = list(range(attention.shape[1])) if heads is None else list(heads)
    if average == "all":
        return {f"mean of {len(layers) * len(heads)} maps": attention.mean(axis=(0, 1))}
    if average == "heads":
        return {f"layer {layer}": maps.mean(axis=0) for layer, maps in zip(layers, attention, strict=True)}
    if average != "none":
        raise ValueError(f"average is 'none', 'heads' or 'all'; got {average!r}.")
    numbered = itertools.product(enumerate(layers), enumerate(heads))
    return {f"layer {layer}, head {head}": attention[i, j] for (i, layer), (j, head) in numbered}


@contextlib.contextmanager
def _eager_evaluation(model: FPTPreTrainedModel) -> Iterator[None]:
    """Context manager: eval mode and eager attention, restored afterwards."""
    backbone = model.fpt_model.backbone
    implementation = backbone.config._attn_implementation
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        backbone.set_attn_implementation("eager")
        yield
    finally:
        backbone.set_attn_implementation(implementation)
        for module, was_training in training.items():
            module.training = was_training


def _batches(inputs: Mapping[str, Tensor], batch_size: int, device: torch.device) -> Iterator[dict[str, Tensor]]:
    inputs = {name: tensor for name, tensor in inputs.items() if name != "labels"}
    sizes = {name: len(tensor) for name, tensor in inputs.items()}
    if len(set(sizes.values())) != 1 or 0 in sizes.values():
        raise ValueError(f"inputs hold the same number of examples, at least one; got {sizes}.")
    for start in range(0, max(sizes.values()), batch_size):
        yield {name: tensor[start : start + batch_size].to(device) for name, tensor in inputs.items()}


def _check_maps(attentions: Sequence[Tensor] | None, tokens: int, kind: str) -> None:
    if not attentions or any(layer is None for layer in attentions):
        raise ValueError(f"{kind} has no attention maps: it returned none.")
    for layer in attentions:
        if layer.shape != attentions[0].shape or layer.shape[2:] != (tokens, tokens):
            raise ValueError(
                f"A map has shape (batch, heads, tokens, tokens), with {tokens} tokens here, but {kind} returned "
                f"{tuple(layer.shape)}: its attention is of another kind."
            )


def _selected(attentions: Sequence[Tensor], layers: Sequence[int] | None, heads: Sequence[int] | None) -> Tensor:
    """The chosen layers and heads, on the CPU: (layers, batch, heads, tokens, tokens)."""
    layers = _numbers(layers, len(attentions), "layer")
    heads = _numbers(heads, attentions[0].shape[1], "head")
    return torch.stack([attentions[layer][:, heads].float().cpu() for layer in layers])


def _numbers(chosen: Sequence[int] | None, count: int, what: str) -> list[int]:
    chosen = list(range(count)) if chosen is None else list(chosen)
    for number in chosen or [None]:
        if number not in range(count):
            raise ValueError(f"The backbone has {count} {what}s: choose among 0..{count - 1}, got {what} {number}.")
    return chosen
