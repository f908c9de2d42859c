"""`LSTMModel`: the paper's recurrent baseline as an ordinary transformers model, and so a backbone like the others.

Paper: Lu, Grover, Abbeel, Mordatch, "Pretrained Transformers as Universal Computation Engines", arXiv 2103.05247: an
LSTM with layer norm of 3 layers and GPT-2's width, and one of 12 layers with residual connections and positions.

What differs from the LSTM in its code, github.com/kzl/universal-computation (a copy of github.com/exe1023/LSTM_LN):
that one normalises inside the cell (Ba, Kiros, Hinton, arXiv 1607.06450), twice before the gates and once on the cell
state, which needs a loop over time; here one norm follows each layer, so that PyTorch's fused kernels run. Its norms
start from U(-1/sqrt(n), 1/sqrt(n)) and its states from random draws at each call; here norms start from 1 and 0,
states from 0. Both draw the matrices in the same way.

Unverified: which settings of that code gave the figures in the paper, and whether norms in this place give the same.
"""

import math

from torch import Tensor, nn
from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoModel, PreTrainedModel
from transformers import initialization as init
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import can_return_tuple

from .configuration_lstm import LSTMConfig


class LSTMLayer(GradientCheckpointingLayer):
    """One LSTM layer followed by its norm and dropout; with `residual` the input is added to the output."""

    def __init__(self, config: LSTMConfig):
        super().__init__()
        self.lstm = nn.LSTM(config.hidden_size, config.hidden_size, batch_first=True)
        self.norm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.hidden_dropout_prob)
        self.residual = config.residual

    def forward(self, hidden: Tensor) -> Tensor:
        """(batch, tokens, hidden) -> the same shape. On CUDA, gradients need training mode, as cuDNN demands."""
        output, _ = self.lstm(hidden)  # (batch, tokens, hidden)
        output = self.dropout(self.norm(output))
        return hidden + output if self.residual else output


class LSTMModel(PreTrainedModel):
    """A stack of LSTM layers: embeddings -> hidden states. Each token sees itself and those before it.

    Weights and biases of the LSTMs start from U(-1/sqrt(hidden), 1/sqrt(hidden)), as in PyTorch and the paper's code;
    transformers would use a scheme of its own. Norms start from 1 and 0.
    """

    config: LSTMConfig
    config_class = LSTMConfig
    base_model_prefix = "model"
    main_input_name = "inputs_embeds"
    supports_gradient_checkpointing = True
    _no_split_modules = ["LSTMLayer"]
    # There is no attention, so every attn_implementation is accepted: FPT models pass theirs on.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: LSTMConfig):
        super().__init__(config)
        self.layers = nn.ModuleList(LSTMLayer(config) for _ in range(config.num_hidden_layers))
        self.post_init()

    def _init_weights(self, module: nn.Module) -> None:
        if isinstance(module, nn.LSTM):
            bound = 1 / math.sqrt(module.hidden_size)
            for parameter in module.parameters():
                init.uniform_(parameter, -bound, bound)
        else:
            super()._init_weights(module)

    @can_return_tuple
    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> BaseModelOutput:
        """Embeddings (batch, tokens, hidden) -> `last_hidden_state` of that shape.

        `attention_mask` (batch, tokens) is 1 for a real token and 0 for padding, which may stand anywhere: the real
        tokens are read in their order, as if there were no padding. `hidden_states` are the embeddings and each
        layer's output. Raises ValueError for `output_attentions`, because there are none.
        """
        if output_attentions if output_attentions is not None else self.config.output_attentions:
            raise ValueError("An LSTM has no attentions: leave output_attentions out.")
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        order = None if attention_mask is None else _real_first(attention_mask)
        back = None if order is None else order.argsort(dim=1)
        hidden, states = _in_order(inputs_embeds, order), [inputs_embeds]
        for layer in self.layers:
            hidden = layer(hidden)
            if output_hidden_states:
                states.append(_in_order(hidden, back))
        return BaseModelOutput(_in_order(hidden, back), tuple(states) if output_hidden_states else None)


def _real_first(mask: Tensor) -> Tensor:
    """Indices (batch, tokens) that put real tokens first and padding last, each in its old order."""
    return (mask == 0).argsort(dim=1, stable=True)


def _in_order(hidden: Tensor, order: Tensor | None) -> Tensor:
    return hidden if order is None else hidden.take_along_dim(order[..., None], dim=1)  # (batch, tokens, hidden)


for config_class in (LSTMConfig, CONFIG_MAPPING[LSTMConfig.model_type]):  # perhaps from another copy's code
    if config_class not in MODEL_MAPPING:
        AutoModel.register(config_class, LSTMModel)
