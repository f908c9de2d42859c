"""`Encoded`: the tokens of a batch with their mask and the like, on their way from the input to the head."""

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class Encoded(ModelOutput):
    """The tokens of a batch, and what the input learned about its data, which the backbone does not see.

    An input fills in what it knows, `FPTModel.encode` replaces the embeddings in `states` by the backbone's output,
    and a head reads what it needs: a forecast is scaled back by `mean` and `scale`.
    """

    states: Tensor | None = None  # (batch, tokens, width): embeddings; after the backbone, its last hidden states;
    # before a backbone that embeds raw inputs itself, the raw inputs
    mask: Tensor | None = None  # (batch, tokens): 1 for a real token, 0 for padding; None: all are real
    mean: Tensor | None = None  # (batch, channels): subtracted from each example's numbers; None: not normalised
    scale: Tensor | None = None  # (batch, channels): then they were divided by this
    sequences: int | None = None  # of each example, one after another in `states`: its channels; None: one
    hidden_states: tuple[Tensor, ...] | None = None  # of the backbone's layers, if they were asked for
    attentions: tuple[Tensor, ...] | None = None  # (batch, heads, tokens, tokens) of each layer, likewise
    arguments: dict[str, Tensor] | None = None  # of the backbone's own forward, where it embeds raw inputs itself

    @property
    def lengths(self) -> Tensor:
        """The number of real tokens of each example: (batch,)."""
        if self.mask is None:
            return self.states.new_full((self.states.shape[0],), self.states.shape[1]).long()
        return self.mask.sum(dim=1).long()
