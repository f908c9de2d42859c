"""Image transformers as backbones: their layers and final norm, run on embeddings instead of images.

The paper (arXiv 2103.05247) freezes ViT (Dosovitskiy et al., arXiv 2010.11929) like language models: the projected
tokens go straight into its layers. The model's own patches, special tokens, positions and pooler are not used. Its
`forward` takes only images, so its layers are run here as it runs them.

Unverified: whether ViT kept its own positions in the paper's runs; here the tokens get new ones.
"""

import contextlib
from collections.abc import Iterable, Iterator

from torch import Tensor, nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_outputs import BaseModelOutput

# Where each family keeps its layers.
IMAGE_FAMILIES = {
    "deit": "layers",
    "dinov2": "encoder.layer",
    "dinov2_with_registers": "encoder.layer",
    "ijepa": "layers",
    "vit": "layers",
    "vit_mae": "layers",
    "vit_msn": "layers",
}


class ImageEncoder(PreTrainedModel):
    """The layers and the final norm of an image transformer.

    They are taken from `model`, a headless model of one of `IMAGE_FAMILIES`, with their weights; the rest is dropped.
    """

    config_class = PreTrainedConfig
    main_input_name = "inputs_embeds"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True

    def __init__(self, model: PreTrainedModel):
        super().__init__(model.config)
        self.layers = model.get_submodule(IMAGE_FAMILIES[model.config.model_type])
        self.layernorm = model.layernorm
        self.post_init()

    def init_weights(self) -> None:
        """Do nothing: the layers have their weights already."""

    def get_input_embeddings(self) -> None:
        """Return None: the inputs are embeddings already."""

    def forward(
        self,
        inputs_embeds: Tensor,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool = False,
        output_attentions: bool = False,
    ) -> BaseModelOutput:
        """Embeddings (batch, tokens, hidden) -> `last_hidden_state` of that shape, after the final norm.

        `attention_mask` (batch, tokens) is 1 for a real token and 0 for padding. `hidden_states` are the embeddings
        and each layer's output, before the final norm, as in these families; `attentions` (batch, heads, tokens,
        tokens) of each layer are returned only with `attn_implementation="eager"`.
        """
        mask = create_bidirectional_mask(
            config=self.config, inputs_embeds=inputs_embeds, attention_mask=attention_mask
        )
        hidden, states = inputs_embeds, [inputs_embeds]
        with _recorded_attentions(self.layers if output_attentions else ()) as attentions:
            for layer in self.layers:
                hidden = layer(hidden, mask)
                if output_hidden_states:
                    states.append(hidden)
        return BaseModelOutput(
            last_hidden_state=self.layernorm(hidden).to(inputs_embeds.device),  # layers may be on several devices
            hidden_states=tuple(states) if output_hidden_states else None,
            attentions=tuple(attentions) if output_attentions else None,
        )


@contextlib.contextmanager
def _recorded_attentions(layers: Iterable[nn.Module]) -> Iterator[list[Tensor]]:
    """Yield a list that collects the attention weights of `layers` as they run; the layers do not return them."""
    recorded: list[Tensor] = []

    def record(module: nn.Module, args: tuple, output: tuple[Tensor, Tensor | None]) -> None:
        if output[1] is not None:
            recorded.append(output[1])

    hooks = [layer.attention.register_forward_hook(record) for layer in layers]
    try:
        yield recorded
    finally:
        for hook in hooks:
            hook.remove()
