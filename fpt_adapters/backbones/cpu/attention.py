"""The attention of a backbone where the user names none: the faster way is chosen at each call.

On a CPU, `scaled_dot_product_attention` has no fast way with dropout, and a slow one in bf16. Plain matrix products
are faster there, if made in pieces whose scores stay in the processor's caches. Without dropout, longer sequences go
to transformers' "sdpa", and so do other devices, and what only it can do. `benchmarks/attention.py` measures where
the one overtakes the other.
"""

import math

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from ...rules.travelling import TRAVELS
from .dropout import drop

NAME = __name__ if TRAVELS else "fpt"  # so that the code of one repo does not replace another's
LONGEST = {torch.float32: 32, torch.bfloat16: 512}  # most tokens for which plain products are faster without dropout
SCORES = 2**20  # of queries with keys: this many are computed at once


def attention_forward(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    is_causal: bool | None = None,
    **kwargs,
) -> tuple[Tensor, None]:
    """Attend: query (batch, heads, tokens, size), key and value (perhaps fewer heads) -> (batch, tokens, heads, size).

    The signature is that of transformers' attention functions. The mask is one of `sdpa_mask`: boolean (batch, 1,
    tokens, tokens), True where a token is seen, or None if each sees all, or with `is_causal` all up to itself.
    """
    tokens = query.shape[2]
    recorded = torch.compiler.is_compiling() or torch.jit.is_tracing()  # the pieces would fit only this batch size
    plain = query.device.type == "cpu" and tokens == key.shape[2] and not recorded
    faster = dropout > 0 or tokens <= LONGEST.get(query.dtype, 0)
    if not (plain and faster) or any(kwargs.get(name) is not None for name in ("position_bias", "cache", "softcap")):
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, is_causal, **kwargs)
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    if attention_mask is None and tokens > 1 and (module.is_causal if is_causal is None else is_causal):
        attention_mask = query.new_ones(tokens, tokens, dtype=torch.bool).tril()
    if attention_mask is not None:
        attention_mask = attention_mask.expand(*query.shape[:2], -1, -1)
    scaling = query.shape[3] ** -0.5 if scaling is None else scaling
    return _attend(query, key, value, attention_mask, dropout, scaling).transpose(1, 2).contiguous(), None


def _attend(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, dropout: float, scaling: float) -> Tensor:
    """Query, key, value (batch, heads, tokens, size), mask (batch, heads, tokens, tokens) -> the query's shape."""
    batch, heads, tokens, _ = query.shape
    pieces = math.ceil(batch * heads * tokens**2 / SCORES)
    if pieces > 1 and batch * heads > 1:
        dim = 0 if batch > 1 else 1
        masks = [None] * pieces if mask is None else mask.chunk(pieces, dim)
        parts = zip(query.chunk(pieces, dim), key.chunk(pieces, dim), value.chunk(pieces, dim), masks, strict=False)
        return torch.cat([_attend(*part, dropout, scaling) for part in parts], dim)
    scores = query @ key.transpose(2, 3) * scaling  # (batch, heads, tokens, tokens)
    if mask is not None:
        hidden = torch.finfo(scores.dtype).min
        scores = scores.masked_fill(~mask, hidden) if mask.dtype == torch.bool else scores + mask
    return drop(scores.softmax(dim=-1), dropout) @ value


AttentionInterface.register(NAME, attention_forward)
AttentionMaskInterface.register(NAME, sdpa_mask)


def choose_attention(backbone: PreTrainedModel) -> None:
    """Use `attention_forward` in a backbone that has transformers' default, "sdpa".

    Nothing changes for another attention, or if the backbone does not use transformers' `AttentionInterface`.
    """
    if backbone._supports_attention_backend and backbone.config._attn_implementation == "sdpa":
        backbone.set_attn_implementation(NAME)
