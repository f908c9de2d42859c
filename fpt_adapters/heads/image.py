"""The head of a sequence for images, under the Auto class that image pipelines load."""

from transformers.modeling_outputs import ImageClassifierOutput

from .sequence import SequenceHead


class ImageHead(SequenceHead):
    """A linear layer on pooled hidden states (batch, hidden) -> logits (batch, num_labels)."""

    output_class = ImageClassifierOutput
    auto_class = "AutoModelForImageClassification"
    modality, only_input = "image", "images"
