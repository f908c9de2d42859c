"""`IdentityModel`: no backbone at all, a control that shows what a frozen backbone adds to input and head.

Tan et al., "Are Language Models Actually Useful for Time Series Forecasting?", arXiv 2406.16964, removed the language
model from methods built on one, and often lost nothing.
"""

import torch
from torch import Tensor
from transformers import CONFIG_MAPPING, MODEL_MAPPING, AutoModel, PreTrainedModel
from transformers.modeling_outputs import BaseModelOutput
from transformers.utils import can_return_tuple

from .configuration_identity import IdentityConfig


class IdentityModel(PreTrainedModel):
    """Return the embeddings unchanged; it has no parameters. No token sees another, so pool with "mean"."""

    config: IdentityConfig
    config_class = IdentityConfig
    base_model_prefix = "model"
    main_input_name = "inputs_embeds"
    # There is no attention, so every attn_implementation is accepted: FPT models pass theirs on.
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, config: IdentityConfig):
        super().__init__(config)
        # An empty buffer that knows the model's device. Without it transformers saves no weights file to load again.
        self.register_buffer("place", torch.empty(0))
        self.post_init()

    @property
    def device(self) -> torch.device:
        """The model's device, which transformers otherwise reads from the parameters."""
        return self.place.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the model was cast to; embeddings keep their own."""
        return self.place.dtype

    @can_return_tuple
    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | None = None,
        output_attentions: bool | None = None,
    ) -> BaseModelOutput:
        """Embeddings (batch, tokens, hidden) -> the same as `last_hidden_state`. `attention_mask` changes nothing.

        Raises ValueError for `output_attentions`, because there are none.
        """
        if output_attentions if output_attentions is not None else self.config.output_attentions:
            raise ValueError("There is no backbone here, and no attentions: leave output_attentions out.")
        if output_hidden_states is None:
            output_hidden_states = self.config.output_hidden_states
        return BaseModelOutput(inputs_embeds, hidden_states=(inputs_embeds,) if output_hidden_states else None)


for config_class in (IdentityConfig, CONFIG_MAPPING[IdentityConfig.model_type]):  # perhaps from another copy's code
    if config_class not in MODEL_MAPPING:
        AutoModel.register(config_class, IdentityModel)
