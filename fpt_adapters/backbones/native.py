"""Backbones that read more than embeddings: what each family was made for, and where it keeps what is not a layer.

Text models take ids, whatever their family. Of others, those are named here whose own forward gives hidden states
(batch, tokens, hidden) of a whole example. Left out, for example: ViT-MAE's, which drops three patches of four.
"""

# Pictures: the tokens that a family has beside its patches (class, distillation), registers not counted.
PICTURES = {"deit": 2, "dinov2": 1, "dinov2_with_registers": 1, "ijepa": 0, "vit": 1, "vit_msn": 1}
WAVES = ("data2vec-audio", "hubert", "unispeech", "unispeech-sat", "wav2vec2", "wavlm")
SPECTROGRAMS = ("audio-spectrogram-transformer", "whisper")  # log-mel, each family in a shape of its own
NOT_TEXT = (*PICTURES, *WAVES, *SPECTROGRAMS)
OWN_POSITIONS = {  # learned ones that are no table of rows to look up: the parameter's name
    name: "embeddings.position_embeddings" for name in (*PICTURES, "audio-spectrogram-transformer")
}
FRONT = ("feature_extractor.", "encoder.pos_conv_embed.")  # convolutions in front of the layers, which embed waves
# What a base draws at random while it trains. A layer that is left out gives its norms no gradient, for which several
# processes would wait; frames are hidden by an augmentation that is up to whoever trains.
DRAWN = {"layerdrop": 0.0, "encoder_layerdrop": 0.0, "apply_spec_augment": False}
