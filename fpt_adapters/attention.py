"""The attention that runs in a backbone where the user names none: chosen at each call, by device and length.

On a CPU, `scaled_dot_product_attention` is slow in its backward pass and draws its dropout slowly; at short lengths
plain matrix products are faster. On other devices, at longer lengths and for what only it can do, transformers' "sdpa"
runs. `benchmarks/attention.py` measures where the one overtakes the other.
"""

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import repeat_kv, sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from .dropout import dropout as drop

NAME = "fpt"
LONGEST = 512  # tokens, up to which plain products are the faster on a CPU


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
    """Query (batch, heads, tokens, size), key and value likewise, with fewer heads -> (batch, tokens, heads, size).

    The signature is that of transformers' attention functions, which pass the mask as `sdpa_mask` makes it: boolean
    (batch, 1, tokens, tokens), True where a token is seen, or None where all are, or all up to its own (`is_causal`).
    """
    tokens = query.shape[2]
    plain = query.device.type == "cpu" and tokens == key.shape[2] <= LONGEST and not torch.compiler.is_compiling()
    if not plain or any(kwargs.get(name) is not None for name in ("position_bias", "cache", "softcap")):
        return sdpa_attention_forward(module, query, key, value, attention_mask, dropout, scaling, is_causal, **kwargs)
    groups = getattr(module, "num_key_value_groups", 1)
    key, value = repeat_kv(key, groups), repeat_kv(value, groups)
    if attention_mask is None and tokens > 1 and (module.is_causal if is_causal is None else is_causal):
        attention_mask = torch.ones(tokens, tokens, dtype=torch.bool).tril()
    scores = query @ key.transpose(2, 3) * (query.shape[3] ** -0.5 if scaling is None else scaling)
    if attention_mask is not None:  # (batch, heads, tokens, tokens)
        hidden = torch.finfo(scores.dtype).min
        scores = (
            scores.masked_fill(~attention_mask, hidden)
            if attention_mask.dtype == torch.bool
            else scores + attention_mask
        )
    shares = drop(scores.softmax(dim=-1), dropout)
    return (shares @ value).transpose(1, 2).contiguous(), None


AttentionInterface.register(NAME, attention_forward)
AttentionMaskInterface.register(NAME, sdpa_mask)


def choose_attention(backbone: PreTrainedModel) -> None:
    """Let `attention_forward` run in a backbone that transformers gave "sdpa" by default.

    Nothing changes where its attention is another, or does not come through transformers' `AttentionInterface`.
    """
    if backbone._supports_attention_backend and backbone.config._attn_implementation == "sdpa":
        backbone.set_attn_implementation(NAME)
