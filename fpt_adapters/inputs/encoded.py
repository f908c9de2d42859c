"""What an input makes of a batch, on its way through the backbone to the head."""

from dataclasses import dataclass

from torch import Tensor
from transformers.utils import ModelOutput


@dataclass
class Encoded(ModelOutput):
    """Tokens, and beside them what the input learned of its data, of which the backbone knows nothing.

    An input fills in what it knows, `FPTModel.encode` puts the backbone's `states` in the place of the embeddings, and
    a head reads what it needs: a forecast is scaled back by `mean` and `scale`. None: all real, or not normalised.
    """

    states: Tensor | None = None  # (batch, tokens, width): embeddings; behind the backbone, its last hidden states;
    # natively, before it, the raw inputs as they came
    mask: Tensor | None = None  # (batch, tokens): 1 for a real token, 0 for padding
    mean: Tensor | None = None  # (batch, channels): what was taken from each example's numbers
    scale: Tensor | None = None  # (batch, channels): what they were divided by then
    hidden_states: tuple[Tensor, ...] | None = None  # of the backbone's layers, where they were asked for
    attentions: tuple[Tensor, ...] | None = None
    arguments: dict[str, Tensor] | None = None  # of the backbone's own forward, where it embeds raw inputs itself

    @property
    def lengths(self) -> Tensor:
        """Real tokens of each example: (batch,)."""
        if self.mask is None:
            return self.states.new_full((self.states.shape[0],), self.states.shape[1]).long()
        return self.mask.sum(dim=1).long()
