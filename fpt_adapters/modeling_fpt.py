"""Frozen pretrained transformers: input projection -> frozen backbone -> head.

Paper: Lu, Grover, Abbeel, Mordatch, "Pretrained Transformers as Universal Computation Engines", arXiv 2103.05247,
and its code, github.com/kzl/universal-computation. What differs from that code: norms and positions are chosen by
structure, positions are cut to the tokens in use, padding is masked, and pooling reads the last real token.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import BaseModelOutput

from .backbones.structure import (
    HALF_PRECISION,
    cut_positions,
    embedding_scale,
    embedding_width,
    layer_classes,
    output_width,
    position_parameters,
    run_backbone,
    run_natively,
    weights,
)
from .configuration_fpt import FPTConfig
from .heads.head import Head
from .heads.table import HEADS
from .inputs.encoded import Encoded
from .models.base import Base, build_base
from .models.forward_arguments import check_tensors, wanted, wanted_states
from .models.pretrained import FPTPreTrainedModel
from .rules.travelling import TRAVELS
from .torch_utils.isolation import DefaultDtype


class FPTModel(FPTPreTrainedModel):
    """The headless model: raw inputs -> the backbone's hidden states.

    `FPTModel(config)` builds a random backbone from the config's seed; pretrained ones come from `from_backbone` and
    `from_pretrained`.
    """

    headless = True
    head_type = HEADS["none"]

    def __init__(self, config: FPTConfig, base: Base | None = None, headed: bool = False):
        if base is None:
            if config.backbone_init != "random":
                raise ValueError(
                    f"{type(self).__name__}(config) has no weights for backbone_init={config.backbone_init!r}: use "
                    "from_backbone or from_pretrained, or a config with backbone_init='random'."
                )
            default = torch.get_default_dtype()  # every transformers model's constructor follows it
            dtype = default if config.dtype is None and default in HALF_PRECISION else None
            base = build_base(config, dtype=dtype)
        config, backbone = base.config, base.backbone
        super().__init__(config)
        if config.positions == "backbone" and not position_parameters(backbone):
            raise ValueError(
                f"positions='backbone', but {type(backbone).__name__} has no learned positions: write positions='new' "
                "for a trainable table, or 'none'."
            )
        width = embedding_width(backbone)
        cut_positions(backbone, config.num_tokens)
        self.position_embeddings = None
        with DefaultDtype(torch.float32):  # the dtype of what trains, whatever the frozen weights have
            self.input_projection = config.input.build(config, width)
            if config.positions == "new":
                zeros = torch.zeros(config.num_tokens, width)
                self.position_embeddings = nn.Embedding.from_pretrained(zeros, freeze=False)
        self.backbone, self.base_fingerprints, self.shares_base = backbone, base.fingerprints, base.shared
        self.embedding_scale = embedding_scale(backbone)
        self.post_init()
        self._no_split_modules = layer_classes(backbone)  # a model with a head copies it in its own post_init
        if not headed:
            self.apply_policy()

    def encode(
        self,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | Sequence[int] = False,
        output_attentions: bool = False,
        **inputs: Tensor | None,
    ) -> Encoded:
        """As `forward`, but return an `Encoded`: hidden states (batch, tokens, hidden), token mask and the like."""
        given = {name: value for name, value in inputs.items() if value is not None}
        if not TRAVELS:
            check_tensors(**given, attention_mask=attention_mask)
        name, beside = self.input_projection.input_name, self.input_projection.beside
        if name not in given or not given.keys() <= {name, *beside}:
            raise ValueError(f"input_type={self.config.input_type!r} takes {name}; got {', '.join(given) or 'none'}.")
        encoded = self.input_projection(given.pop(name), attention_mask, **given)
        states = (output_hidden_states, output_attentions)
        if encoded.arguments is None:
            output = run_backbone(self.backbone, self._embeds(encoded.states), encoded.mask, *states)
        else:
            output = run_natively(self.backbone, encoded.arguments, *states)
        encoded.states = output.last_hidden_state
        encoded.hidden_states, encoded.attentions = output.hidden_states, output.attentions
        return encoded

    def _embeds(self, embeds: Tensor) -> Tensor:
        """What the input made (batch, tokens, width) -> what enters the backbone."""
        if self.position_embeddings is not None:
            embeds = embeds + self.position_embeddings(torch.arange(embeds.shape[1], device=embeds.device))
        return embeds if self.embedding_scale == 1.0 else embeds * self.embedding_scale

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        input_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        output_hidden_states: bool | int | Sequence[int] | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        input_features: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        past_values: Tensor | None = None,
        past_observed_mask: Tensor | None = None,
    ) -> BaseModelOutput | tuple:
        """Inputs of the config's type -> `last_hidden_state` (batch, tokens, hidden).

        `input_ids` (batch, tokens), `pixel_values` (batch, channels, height, width), `input_values` (batch, tokens,
        input_size) or, for series, (batch, steps, channels) and, for tables, (batch, columns, 2); `attention_mask`
        (batch, tokens or steps), 1 for real. Natively what the base's own processor gives, also `input_values` (batch,
        samples), `input_features` (batch, mels, frames) and, beside ids, `token_type_ids`. Windows: `past_values` and
        `past_observed_mask` (batch, context_length, num_input_channels). `output_hidden_states`: True for those of all
        layers, or the numbers of some: see `run_backbone`. Raises ValueError for another input or shape than the
        config declares, TypeError for lists and arrays.
        """
        encoded = self.encode(
            attention_mask,
            wanted_states(output_hidden_states, self.config.output_hidden_states),
            wanted(output_attentions, self.config.output_attentions),
            input_ids=input_ids,
            pixel_values=pixel_values,
            input_values=input_values,
            input_features=input_features,
            token_type_ids=token_type_ids,
            past_values=past_values,
            past_observed_mask=past_observed_mask,
        )
        output = BaseModelOutput(encoded.states, encoded.hidden_states, encoded.attentions)
        return output if wanted(return_dict, self.config.return_dict) else output.to_tuple()


class FPTModelWithHead(FPTPreTrainedModel):
    """A headless model with the head on it that a subclass names in `head_type`."""

    head_type: Head

    def __init__(self, config: FPTConfig, base: Base | None = None):
        if not TRAVELS:
            self.head_type.check_input(config)
        fpt = FPTModel(config, base, headed=True)
        config = fpt.config
        config.problem_type = self.head_type.problem_type(config)  # the card and pipelines read it
        super().__init__(config)
        self.fpt = fpt
        width = output_width(config.base_model_config)
        with DefaultDtype(torch.float32):
            self.head = self.head_type.build(config, width)
        self.post_init()
        self.apply_policy()

    @property
    def per_token(self) -> bool:
        """Whether each token has an answer of its own, rather than the whole sequence."""
        return self.head_type.per_token

    def head_inputs(self, attention_mask: Tensor | None = None, **inputs: Tensor | None) -> Tensor:
        """Inputs as for `FPTModel` -> the head's inputs: (batch, hidden), or (batch, tokens, hidden) for tokens.

        `forward(head_inputs=...)` continues from them. While only the head trains they do not change, so that they
        can be computed once and kept.
        """
        return self.head_type.inputs(self.fpt.encode(attention_mask, **inputs), self.config)

    def forward(
        self,
        input_ids: Tensor | None = None,
        pixel_values: Tensor | None = None,
        input_values: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        output_hidden_states: bool | int | Sequence[int] | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        head_inputs: Tensor | None = None,
        input_features: Tensor | None = None,
        token_type_ids: Tensor | None = None,
        past_values: Tensor | None = None,
        past_observed_mask: Tensor | None = None,
    ):
        """Inputs as for `FPTModel`, or `head_inputs` instead -> logits, and the loss if `labels` are given.

        Logits (batch, num_labels), `labels` (batch,); for tokens: logits (batch, tokens, [labels_per_token,]
        num_labels), `labels` (batch, tokens[, labels_per_token]), -100 where there is none. For several labels at once
        and for several numbers, `labels` have the shape of the logits: see `classification_loss`, `problem_type_of`.
        For several labels also set the config's `problem_type` (FPTTrainer does), or pipelines take them for classes.
        `num_items_in_batch` divides the summed loss (Trainer passes it); without it the loss is the mean.
        Raises ValueError for inputs of another kind or shape than the model's, TypeError for lists and arrays.
        """
        with_states = wanted_states(output_hidden_states, self.config.output_hidden_states)
        with_attentions = wanted(output_attentions, self.config.output_attentions)
        raw = {"input_ids": input_ids, "pixel_values": pixel_values, "input_values": input_values}
        raw |= {"input_features": input_features, "token_type_ids": token_type_ids}
        raw |= {"past_values": past_values, "past_observed_mask": past_observed_mask}
        if not TRAVELS:
            check_tensors(labels=labels, head_inputs=head_inputs)
        if head_inputs is None:
            encoded = self.fpt.encode(attention_mask, with_states, with_attentions, **raw)
            head_inputs = self.head_type.inputs(encoded, self.config)
        else:
            from .heads.given_inputs import check_head_inputs

            shape = self.head_type.shape_of_inputs(self.config, output_width(self.config.base_model_config))
            given = (attention_mask, *raw.values())
            check_head_inputs(head_inputs, shape, given, with_states or with_attentions)
            encoded = Encoded()
        outputs = self.head(head_inputs.to(next(weights(self.head)).dtype))  # some backbones end in half precision
        loss = None
        if labels is not None:
            loss = self.head_type.loss(outputs, labels, self.config, num_items_in_batch)
        result = self.head_type.output(loss, self.head_type.answers(outputs, self.config), encoded)
        return result if wanted(return_dict, self.config.return_dict) else result.to_tuple()


class FPTForSequenceClassification(FPTModelWithHead):
    """One label for a sequence of any input type, from its pooled hidden states."""

    head_type = HEADS["sequence"]


class FPTForImageClassification(FPTModelWithHead):
    """One label for an image, from the pooled hidden states of its patches."""

    head_type = HEADS["image"]


class FPTForAudioClassification(FPTModelWithHead):
    """One label for a clip of sound, from the pooled hidden states of its patches."""

    head_type = HEADS["audio"]


class FPTForTokenClassification(FPTModelWithHead):
    """One label, or several (`labels_per_token`), for each token, as the bit tasks need."""

    head_type = HEADS["tokens"]


class FPTForTimeSeriesPrediction(FPTModelWithHead):
    """The steps after a window of time series, in the data's units."""

    head_type = HEADS["forecast"]

    def forward(
        self,
        past_values: Tensor | None = None,
        past_observed_mask: Tensor | None = None,
        future_values: Tensor | None = None,
        future_observed_mask: Tensor | None = None,
        labels: Tensor | None = None,
        num_items_in_batch: Tensor | int | None = None,
        output_hidden_states: bool | int | Sequence[int] | None = None,
        output_attentions: bool | None = None,
        return_dict: bool | None = None,
        head_inputs: Tensor | None = None,
    ):
        """Windows `past_values` (batch, context_length, channels) -> `prediction_outputs`, the steps that follow.

        These are (batch, prediction_length, channels), with quantiles (..., quantiles). The loss comes if
        `future_values` are given, or `labels`, which is their name for Trainer: (batch, prediction_length, channels),
        NaN or 0 in `future_observed_mask` where nothing is known. In `past_values` the same: NaN, or 0 in
        `past_observed_mask`.
        """
        if labels is None:
            labels = future_values
        if labels is not None and future_observed_mask is not None:
            labels = labels.masked_fill(~future_observed_mask.bool(), torch.nan)
        return super().forward(
            labels=labels,
            num_items_in_batch=num_items_in_batch,
            output_hidden_states=output_hidden_states,
            output_attentions=output_attentions,
            return_dict=return_dict,
            head_inputs=head_inputs,
            past_values=past_values,
            past_observed_mask=past_observed_mask,
        )
