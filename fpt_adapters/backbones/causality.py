"""Whether a backbone is causal: then only its last token has seen all the others, and a head reads that one."""

import inspect
import math

import torch
from transformers import PreTrainedModel

from .structure import device_of, embedding_width, run_backbone


@torch.no_grad()
def is_causal(backbone: PreTrainedModel) -> bool:
    """Whether a token sees those before it and none after it, measured by changing the ends of four tokens.

    Models of pictures and sound, which take no embeddings, see all.
    """
    if "inputs_embeds" not in inspect.signature(backbone.forward).parameters:
        return False
    generator = torch.Generator().manual_seed(0)
    embeds = torch.randn(1, 4, embedding_width(backbone), generator=generator, device="cpu")
    embeds = embeds.repeat(3, 1, 1)  # (3, 4, width)
    embeds[1, 3], embeds[2, 0] = -embeds[1, 3], -embeds[2, 0]
    hidden = run_backbone(backbone, embeds.to(device_of(backbone))).last_hidden_state.float()
    changes = (hidden[1:, (0, 3)] - hidden[0, (0, 3)]).abs().amax(-1).tolist()  # (changed: last, first; seen by: 0, 3)
    (last_by_first, last_by_last), (_, first_by_last) = changes
    return first_by_last > 0 and last_by_first <= 1e-4 * max(last_by_last, math.ulp(1.0))
