"""FLOPs of a training step's matrix products: what a method needs, however it is computed.

Counted are the products of the layers, of attention, the input projection, the head and a LoRA: two FLOPs for a
multiplication and an addition. Forward has one product for each weight; backward one for the gradient of its input
and, if the weight trains, one for its own. For causal attention only the half that a token may see is counted, though
some kernels compute all of it. Not counted: what is computed twice (activation checkpointing), norms, dropout,
activations, softmax, the optimizer, and an unused token table. So a utilisation by this count is a lower bound of what
the card does, and does not flatter a kernel that wastes work.
"""

from scaling import Shape


def step_flops(
    shape: Shape,
    batch: int,
    tokens: int,
    *,
    frozen: bool,
    causal: bool = True,
    token_size: int = 48,
    labels: int = 10,
    lora_rank: int = 0,
    per_token: bool = False,
) -> int:
    """FLOPs of forward and backward for `batch` sequences of `tokens` tokens.

    `frozen`: whether the layers' weights have no gradients of their own; gradients still pass through all of them to
    the input projection, which trains. `causal`: whether half of attention is left out. `lora_rank`: of a LoRA on
    queries, keys and values as one layer (GPT-2's `c_attn`); 0 for none. `per_token`: whether the head reads each
    token.
    """
    layers = tokens * (4 if frozen else 6) * shape.linear
    pairs = tokens * (tokens + 1) // 2 if causal else tokens**2
    attention = 12 * shape.layers * shape.hidden * pairs  # scores and their use: 4 a pair forward, 8 backward
    projection = tokens * 4 * token_size * shape.hidden  # its own input needs no gradient
    head = (tokens if per_token else 1) * 6 * shape.hidden * labels
    lora = tokens * 6 * shape.layers * lora_rank * (shape.hidden + 3 * shape.hidden)
    return batch * (layers + attention + projection + head + lora)
