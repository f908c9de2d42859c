"""The head of a sequence for sound, under the Auto class that audio pipelines load."""

from .sequence import SequenceHead


class AudioHead(SequenceHead):
    """A linear layer on pooled hidden states (batch, hidden) -> logits (batch, num_labels)."""

    auto_class = "AutoModelForAudioClassification"
    modality, only_input = "audio", "audio"
